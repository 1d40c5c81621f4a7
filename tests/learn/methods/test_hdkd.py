"""HDKD against independent readings of its terms, and what it must keep to."""

import numpy as np
import pytest
import torch
from scipy import special

from tests.learn.methods.pair import AT, HYBRID, batch, hybrid
from wsikd.core.errors import ConfigError
from wsikd.learn.engine.schedules import cosine_of_epochs
from wsikd.learn.engine.settings import Optim
from wsikd.learn.engine.trainer import param_groups
from wsikd.learn.losses.maps import downsample
from wsikd.learn.methods.base import Batch, Progress
from wsikd.learn.methods.hdkd import Hdkd, stage_distance
from wsikd.models.graders.pooled import build_grader


def pair(**options):
    """A student at 32 px and a teacher at 64 px with the same grids of 16, 8 and 4 cells."""
    return hybrid("hdkd_student", 0, **options), hybrid("hdkd_teacher", 1, stem_stride=4)


def method(*, options=None, **settings):
    return Hdkd(*pair(**(options or {})), ratio=2.0, **settings)


def chain(grader, x):
    """Maps stage by stage, without the code under test."""
    x, maps = (x / 255 - grader.mean) / grader.std, {}
    for name, stage in grader.backbone.stages.items():
        maps[name] = x = stage(x)
    return maps


def slow_kl(own, taught, temperature):
    total = 0.0
    for p, q in zip(
        special.softmax(taught / temperature, 1), special.softmax(own / temperature, 1), strict=True
    ):
        total += sum(a * (np.log(a) - np.log(b)) for a, b in zip(p, q, strict=True))
    return temperature**2 * total


@pytest.mark.parametrize("growth", [0.0, 1.0, 2.0])
@pytest.mark.parametrize(("reduction", "shared"), [("deit_legacy", 4), ("batchmean", 1)])
def test_terms_equal_a_slow_reading(growth, reduction, shared):
    made = method(growth=growth, reduction=reduction, temperature=2.0).eval()
    given = batch(3)
    terms = made(given, AT)
    with torch.no_grad():
        own, taught = (
            chain(n, given.views[v]) for n, v in ((made.student, "low"), (made.teacher, "high"))
        )
        first, second = (z.numpy() for z in made.student.head(own["F3"]))
        head = made.teacher.head
        logits = (taught["F3"].mean((2, 3)) @ head.weight.T + head.bias).numpy()
    chosen = special.log_softmax(first, 1)[np.arange(3), given.label]
    assert terms["ce"].item() == pytest.approx(-chosen.mean(), rel=1e-9)
    kl = slow_kl(second, logits, 2.0) / (3 * shared)
    assert terms["lkd"].item() == pytest.approx(kl, rel=1e-6)
    squares = [
        number**growth * np.mean((own[f"F{number}"].numpy() - taught[f"F{number}"].numpy()) ** 2)
        for number in (1, 2, 3)
    ]
    assert terms["fkd"].item() == pytest.approx(sum(squares), rel=1e-9)
    assert min(squares) > 0


def test_the_hard_form_learns_the_decision():
    made = method(logits="hard").eval()
    given = batch(3)
    term = made(given, AT)["lkd"].item()
    with torch.no_grad():
        _, second, _ = made.student.with_tokens(given.views["low"], [])
        decision = made.teacher(given.views["high"]).argmax(1)
    slow = -special.log_softmax(second.numpy(), 1)[np.arange(3), decision].mean()
    assert term == pytest.approx(slow, rel=1e-9)


def test_identical_networks_have_no_feature_loss():
    student = hybrid("hdkd_teacher", 1)
    made = Hdkd(student, hybrid("hdkd_teacher", 1), terms=("fkd",)).eval()
    given = batch(2, factor=1)
    assert made(given, AT)["fkd"].item() == 0.0
    with torch.no_grad():
        student.backbone.stages["F2"][0].main[1].weight += 1e-3
    assert made(given, AT)["fkd"].item() > 0


def test_taps_of_one_pass_equal_prefixes():
    """The released code runs stage 1, stages 1-2 and stages 1-3 anew: in eval mode the same."""
    made = method().eval()
    given = batch(2)
    sums = 0.0
    for count in (1, 2, 3):
        ends = []
        for n, v in ((made.student, "low"), (made.teacher, "high")):
            x = (given.views[v] / 255 - n.mean) / n.std
            for stage in list(n.backbone.stages.values())[:count]:
                x = stage(x)
            ends.append(x)
        sums += count * torch.nn.functional.mse_loss(*ends).item()
    assert made(given, AT)["fkd"].item() == pytest.approx(sums, rel=1e-12)


def test_one_step_updates_batch_norm_once_and_leaves_the_teacher_alone():
    made = method().train()
    before = {k: v.clone() for k, v in made.teacher.state_dict().items()}
    sum(made(batch(2), AT).values()).backward()
    counts = {
        int(v) for k, v in made.student.state_dict().items() if k.endswith("num_batches_tracked")
    }
    assert counts == {1}
    assert all(torch.equal(v, before[k]) for k, v in made.teacher.state_dict().items())
    assert all(p.grad is None for p in made.teacher.parameters())
    assert all(p.grad.abs().sum() > 0 for p in made.student.parameters())


def test_batch_norm_freezes_when_it_is_told_to():
    made = method(freeze_bn_after=1).train()
    norm = made.student.backbone.stages["F1"][1]
    made(batch(2), Progress(0, 2))
    first = norm.running_mean.clone()
    made(batch(2), Progress(1, 2))
    assert torch.equal(norm.running_mean, first)
    made.train()
    made(batch(2), Progress(0, 2))
    assert not torch.equal(norm.running_mean, first)


def test_labels_alone_do_not_ask_the_teacher(monkeypatch):
    made = method(options={"distillation": False}, terms=("ce",))
    monkeypatch.setattr(made.teacher, "with_taps", None)
    assert set(made(batch(2), AT)) == {"ce"}


@pytest.mark.parametrize(
    ("options", "settings", "message"),
    [
        (
            {"stem_stride": 1},
            {},
            r"F1: 8 channels at stride 1 in the student, 8 at stride 4 on a 2",
        ),
        ({}, {"taps": ("F1", "F5")}, "F5: the student has no such stage; choose among F1, F2, F3"),
        ({"distillation": False}, {}, "has no distillation token"),
        ({}, {"terms": ("ce", "fkd")}, "without weights.lkd nothing trains that token"),
    ],
)
def test_networks_that_do_not_fit_are_refused(options, settings, message):
    with pytest.raises(ConfigError, match=message):
        method(options=options, **settings)


def test_other_channels_and_other_shapes_are_refused_with_both_named():
    torch.manual_seed(0)
    wide = build_grader("hdkd_teacher", 4, width=0.25, options=HYBRID).double()
    with pytest.raises(ConfigError, match="8 channels at stride 2 in the student, 16 at stride 2"):
        Hdkd(hybrid("hdkd_student", 0), wide)
    maps = [{"F2": torch.zeros(2, 12, s, s)} for s in (8, 4)]
    with pytest.raises(ConfigError, match="F2: 12 x 8 x 8 in the student, 12 x 4 x 4 in the tea"):
        stage_distance(*maps, {"F2": 2.0})
    given = batch(2)
    oblong = Batch(
        {"high": given.views["high"][..., :32], "low": given.views["low"]},
        given.label, given.slide, given.box,
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"F1: 8 x 16 x 16 in the student, 8 x 16 x 8 in the tea"):
        method()(oblong, AT)


@pytest.mark.parametrize(
    ("epoch", "rate"), [(0, 2e-5), (5, None), (100, 3.5e-5), (199, None), (3, 2e-5 + 3 * 6e-6)]
)
def test_schedule_of_the_reproduction(epoch, rate):
    """2e-5 + 3e-5 (1 + cos(pi t / 200)) / 2 from epoch 5 on; 2e-5 rising by 6e-6 before."""
    optim = Optim(
        lr=5e-5, lr_start=2e-5, lr_end=2e-5, warmup_epochs=5, epochs=200, schedule="cosine_epochs"
    )
    if rate is None:
        rate = 2e-5 + 0.5 * 3e-5 * (1 + np.cos(np.pi * epoch / 200))
    assert cosine_of_epochs(optim, epoch) == pytest.approx(rate, rel=1e-12)
    late = optim.model_copy(update={"lag": True})
    assert cosine_of_epochs(late, epoch + 1) == cosine_of_epochs(optim, epoch)
    assert cosine_of_epochs(late, 0) == 2e-5


def test_biases_and_norms_do_not_decay():
    made = method()
    groups = param_groups(made, decay_vectors=False)
    assert [g.get("weight_decay") for g in groups] == [None, 0.0]
    names = {id(p): n for n, p in made.student.named_parameters()}
    free = {names[id(p)] for p in groups[1]["params"]}
    assert {"head.class_head.bias", "backbone.stages.F1.1.weight", "head.norm.weight"} <= free
    assert not {"head.tokens", "head.position", "head.class_head.weight"} & free
    assert sum(len(g["params"]) for g in groups) == len(names)
    assert len(param_groups(made, decay_vectors=True)) == 1


def test_a_student_learns_from_the_teacher_alone():
    """Twenty steps on the feature term bring the student's maps nearer to the teacher's."""
    made = method(options={"distillation": False}, terms=("fkd",)).train()
    optimizer = torch.optim.Adam(made.param_groups(), lr=1e-2)
    found = []
    for step in range(20):
        generator = torch.Generator().manual_seed(step)
        high = torch.randint(0, 256, (4, 3, 64, 64), generator=generator).double()
        views = {"high": high, "low": downsample(high, 2).double()}
        given = Batch(views, torch.arange(4), ("s",) * 4, torch.arange(4))
        term = made(given, AT)["fkd"]
        optimizer.zero_grad()
        term.backward()
        optimizer.step()
        found.append(term.item())
    assert np.mean(found[-5:]) < 0.5 * np.mean(found[:2])
