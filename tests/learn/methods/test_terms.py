"""Every term of the method: what it is given, from which tap, on which grid, at what cost."""

import logging

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tests.learn.grading import grading
from tests.learn.methods.pair import AT, batch, grader
from wsikd.core.errors import ConfigError
from wsikd.learn.losses import logits as losses_logits
from wsikd.learn.losses import maps as losses
from wsikd.learn.losses import relations as losses_relations
from wsikd.learn.methods.at_plus import AtPlus
from wsikd.learn.patch.build import build_method, log_cost
from wsikd.models.files.bundle import InputSpec, load_bundle, save_bundle
from wsikd.models.graders.pooled import build_grader

TERMS = tuple(AtPlus.TERMS)


def chain(net, x):
    """Every tap, stage by stage, without the code under test."""
    x, found = (x / 255 - net.mean) / net.std, {}
    if net.upsample != 1:
        x = torch.nn.functional.interpolate(
            x, scale_factor=net.upsample, mode="bilinear", align_corners=False
        )
    for name, stage in net.backbone.stages.items():
        found[name] = x = stage(x)
    return found


def scores(net, taps):
    return taps["F4"].mean((2, 3)) @ net.head.weight.T + net.head.bias


def value(name, student=None, teacher=None, given=None, **options):
    """One term, and the taps of both networks."""
    student, teacher = student or grader(0), teacher or grader(1)
    given = given or batch(3)
    method = AtPlus(student, teacher, terms=[name], **options).eval()
    found = method(given, AT)
    assert set(found) == {name}
    with torch.no_grad():
        taps = chain(student, given.views["low"]), chain(teacher, given.views["high"])
    return found[name], taps, method


def mean_over_four(feature):
    b, k, h, w = feature.shape
    return feature.reshape(b, k, h // 2, 2, w // 2, 2).mean((3, 5))


def test_every_term_is_computed_in_order():
    method = AtPlus(grader(0), grader(1), terms=TERMS).train()
    terms = method(batch(4), AT)
    assert tuple(terms) == TERMS
    assert all(v.ndim == 0 and torch.isfinite(v) and v > 0 for v in terms.values())
    torch.stack(list(terms.values())).sum().backward()
    trained = [p for group in method.param_groups() for p in group["params"]]
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in trained)
    assert {id(p) for p in method.helpers.parameters()} <= {id(p) for p in trained}
    assert not any(p.grad is not None for p in method.teacher.parameters())


@pytest.mark.parametrize("count", [1, 2])
def test_every_term_of_a_small_batch_is_finite(count):
    method = AtPlus(grader(0), grader(1), terms=TERMS).train()
    terms = method(batch(count), AT)
    torch.stack(list(terms.values())).sum().backward()
    assert all(torch.isfinite(v) for v in terms.values())
    assert all(torch.isfinite(p.grad).all() for p in method.student.parameters())


@pytest.mark.parametrize("name", [t for t in TERMS if t not in ("ce", "sr_spatial")])
def test_a_student_equal_to_its_teacher_costs_nothing(name):
    found, _, method = value(name, grader(1), grader(1), batch(3, factor=1))
    found.backward()
    assert found.item() == pytest.approx(0, abs=1e-7)
    slopes = [p.grad for p in method.student.parameters() if p.grad is not None]
    assert slopes
    assert all(torch.isfinite(g).all() for g in slopes)


def test_terms_on_logits_are_given_both_logits():
    student, teacher = grader(0), grader(1)
    hot = {"temperature": 2.0, "form": "code"}
    found, taps, _ = value("kd", student, teacher, kd=hot)
    own, target = scores(student, taps[0]), scores(teacher, taps[1])
    expected = losses_logits.distillation(own, target, **hot)
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)
    options = {"temperature": 3.0, "alpha": 2.0, "beta": 0.5}
    found, _, _ = value("dkd", student, teacher, dkd=options)
    expected = losses_logits.decoupled_distillation(own, target, torch.arange(3) % 4, **options)
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)


def test_softmax_regression_passes_the_student_through_the_teacher_s_head():
    teacher = grader(1)
    found, taps, _ = value("sr_last", teacher=teacher)
    own = taps[0]["F4"].mean((2, 3)) @ teacher.head.weight.T + teacher.head.bias
    expected = np.sqrt(((own - scores(teacher, taps[1])) ** 2).detach().numpy().mean())
    assert found.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["cos_pooled", "cos_dense"])
@pytest.mark.parametrize("width", [0.25, 0.5])
def test_cosines_compare_projected_features_by_direction(name, width):
    student, teacher = grader(0, width=width), grader(1)
    torch.manual_seed(7)
    found, taps, method = value(name, student, teacher, fm_tap="F3")
    own, target = taps[0]["F3"], losses.to_grid(taps[1]["F3"], taps[0]["F3"].shape[-2:])
    weight = method.helpers[name].weight.detach()[:, :, 0, 0]
    shared = min(weight.shape)
    assert torch.equal(weight[:shared, :shared], torch.eye(shared).double())
    assert weight.count_nonzero() == shared  # starts as the identity
    own = torch.einsum("ck,bkij->bcij", weight, own)
    if name == "cos_pooled":
        own, target = own.mean((2, 3), keepdim=True), target.mean((2, 3), keepdim=True)
    cosines = []
    for b in range(own.shape[0]):
        for i in range(own.shape[2]):
            for j in range(own.shape[3]):
                u, v = own[b, :, i, j].detach().numpy(), target[b, :, i, j].detach().numpy()
                cosines.append(u @ v / (np.linalg.norm(u) * np.linalg.norm(v) + 1e-30))
    assert found.item() == pytest.approx(1 - np.mean(cosines), rel=1e-6)
    scaled, _, _ = value(name, student, teacher, fm_tap="F3")
    assert scaled.item() == pytest.approx(found.item())


@pytest.mark.parametrize(
    ("upsample", "ratio", "tap"), [(1, 2.0, "F3"), (2, 1.0, "F4"), (1, 8.0, "F1"), (1, 99.0, "F1")]
)
def test_spatial_regression_reads_the_tap_of_the_teacher_s_grid(upsample, ratio, tap):
    torch.manual_seed(5)
    student, teacher = grader(0, upsample=upsample), grader(1)
    found, taps, method = value("sr_spatial", student, teacher, ratio=ratio)
    assert method.sr_tap[:2] == (tap, "F4")
    first, second = method.helpers["sr_spatial"]
    own = second(first(taps[0][tap]))
    assert first.out_channels == teacher.head.in_features
    target = torch.einsum("ck,bkij->bcij", teacher.head.weight, taps[1]["F4"])
    target = losses.to_grid(target + teacher.head.bias[:, None, None], own.shape[-2:])
    expected = (own - target).pow(2).mean().sqrt().item()
    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_attention_transfer_sums_over_its_taps():
    options = {"form": "l2", "power": 2.0}
    found, taps, _ = value("at", at=options, at_taps=["F2", "F3:F4"])
    pairs = [(taps[0]["F2"], taps[1]["F2"]), (taps[0]["F3"], taps[1]["F4"])]
    expected = 0.0
    for own, target in pairs:
        rows = []
        for feature in (own, losses.to_grid(target, own.shape[-2:])):
            energy = feature.pow(2).mean(1).flatten(1).numpy()
            rows.append(energy / np.linalg.norm(energy, axis=1, keepdims=True))
        expected += np.mean(np.linalg.norm(rows[0] - rows[1], axis=1)) / 2
    assert found.item() == pytest.approx(expected, rel=1e-6)


def gradient_map(net, patch, label):
    """Sum over channels of |dL/dX| of one patch alone, of a batch of its own."""
    patch = patch[None].clone().requires_grad_()
    loss = -net(patch).log_softmax(1)[0, label]
    loss.backward()
    return patch.grad[0].abs().sum(0).numpy()


def test_gradient_attention_is_that_of_each_patch_alone():
    student, teacher, given = grader(0), grader(1), batch(3)
    found, _, _ = value("at_grad", student, teacher, given)
    slow = []
    for b in range(3):
        own = gradient_map(student.eval(), given.views["low"][b], b % 4)
        taught = gradient_map(teacher.eval(), given.views["high"][b], b % 4)
        taught = taught.reshape(32, 2, 32, 2).mean((1, 3))
        own, taught = (m / np.sqrt((m**2).sum()) for m in (own, taught))
        slow.append(np.sqrt(((own - taught) ** 2).sum()) / 2)
    assert found.item() == pytest.approx(np.mean(slow), rel=1e-5)


def test_gradient_attention_is_trained_through_its_gradient():
    """The slope of the term itself, a second derivative, against a finite difference."""
    student, teacher, given = grader(0), grader(1), batch(2)
    found, _, _ = value("at_grad", student, teacher, given)
    weight = student.backbone.stages["F3"][4].weight
    (slope,) = torch.autograd.grad(found, weight)
    direction = torch.randn(weight.shape, dtype=weight.dtype)
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            weight += sign * 1e-6 * direction
        ends.append(value("at_grad", student, teacher, given)[0].item())
        with torch.no_grad():
            weight -= sign * 1e-6 * direction
    expected = (ends[0] - ends[1]) / 2e-6
    assert (slope * direction).sum().item() == pytest.approx(expected, rel=1e-2, abs=1e-6)


def test_relations_are_taken_on_each_network_s_own_grid():
    found, taps, _ = value("sp", fm_tap="F3")
    expected = losses_relations.similarity_preserving(taps[0]["F3"], taps[1]["F3"])
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)
    for name in ("rkd_distance", "rkd_angle"):
        found, taps, _ = value(name)
        term = getattr(losses_relations, f"relational_{name.removeprefix('rkd_')}")
        expected = term(*(t["F4"].mean((2, 3)) for t in taps))
        assert found.item() == pytest.approx(expected.item(), rel=1e-9)


def test_maps_meet_on_either_grid():
    down, taps, _ = value("fm")
    expected = (taps[0]["F4"] - mean_over_four(taps[1]["F4"])).pow(2).mean().sqrt()
    assert down.item() == pytest.approx(expected.item(), rel=1e-6)
    up, _, _ = value("fm", grid="student_up")
    larger = torch.nn.functional.interpolate(taps[0]["F4"], scale_factor=2, mode="bilinear")
    expected = (larger - taps[1]["F4"]).pow(2).mean().sqrt()
    assert up.item() == pytest.approx(expected.item(), rel=1e-6)
    attention, _, method = value("at_plus", grid="student_up")
    maps = [
        losses.class_attention(t["F4"], n.head.weight)
        for t, n in zip(taps, (method.student, method.teacher), strict=True)
    ]
    larger = torch.nn.functional.interpolate(maps[0], scale_factor=2, mode="bilinear")
    expected = losses.attention_distance(larger, maps[1])
    assert attention.item() == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize("distance", ["l2", "kl"])
def test_softmax_attention_is_as_sharp_on_every_grid(distance):
    """The map of a pooled head scales with 1 / (h w); a constant map must not show its grid."""
    options = {"normalise": "softmax", "distance": distance}
    found, taps, method = value("at_plus", **options)
    cells = taps[1]["F4"].shape[-1] ** 2
    maps = []
    for feature, net in zip((t["F4"] for t in taps), (method.student, method.teacher), strict=True):
        product = net.head.weight[None, :, :, None, None] * feature[:, None]
        maps.append(product.relu().sum(2) / cells)
    expected = losses.attention_distance(maps[0], mean_over_four(maps[1]), **options)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def test_networks_of_other_widths_meet_through_a_projection():
    def nets():
        return grader(0), grader(1, width=0.5)

    for name in ("fm", "sr_last"):
        with pytest.raises(ConfigError, match=r"32 channels do not match.*taps\.project"):
            AtPlus(*nets(), terms=[name])
        found, taps, method = value(name, *nets(), project=True)
        (weight,) = method.helpers.parameters()
        matrix = weight[:, :, 0, 0]
        if name == "fm":
            own = torch.einsum("kc,bcij->bkij", matrix, taps[0]["F4"])
            expected = (own - mean_over_four(taps[1]["F4"])).pow(2).mean().sqrt()
        else:
            pooled = taps[0]["F4"].mean((2, 3)) @ matrix.T
            target = scores(method.teacher, taps[1])
            expected = (scores(method.teacher, {"F4": pooled[:, :, None, None]}) - target).pow(2)
            expected = expected.mean().sqrt()
        assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    others = ("ce", "at_plus", "kd", "dkd", "sr_spatial", "at", "sp", "rkd_distance", "rkd_angle")
    assert set(AtPlus(*nets(), terms=others)(batch(2), AT)) == set(others)
    assert not AtPlus(grader(0), grader(1), project=True).helpers


def test_terms_without_weight_are_not_computed(monkeypatch):
    def never(*args, **options):
        raise AssertionError

    for module, name in (
        (losses, "feature_matching"), (losses, "class_attention"), (losses, "cross_entropy"),
        (losses, "activation_distance"), (losses_logits, "decoupled_distillation"),
        (losses_relations, "similarity_preserving"), (losses_relations, "relational_angle"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, never)
    found = AtPlus(grader(0), grader(1), terms=["kd"])(batch(2), AT)
    assert set(found) == {"kd"}


@pytest.mark.parametrize("name", TERMS)
def test_half_precision_is_near_single(name):
    given = batch(4)
    given.views = {k: v.float() for k, v in given.views.items()}
    values = []
    for half in (False, True):
        torch.manual_seed(3)
        method = AtPlus(grader(0).float(), grader(1).float(), terms=[name]).eval()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            term = method(given, AT)[name]
        term.backward()
        slopes = [p.grad for p in method.student.parameters() if p.grad is not None]
        assert all(torch.isfinite(g).all() for g in slopes)
        values.append(term.item())
    assert values[1] == pytest.approx(values[0], rel=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fm_tap": "F9"}, r"taps\.fm F9: the student has no such tap"),
        ({"at_taps": ["F2", "F2:F7"]}, r"taps\.at F2:F7: the teacher has no such tap"),
        ({"sr_tap": "F9"}, r"taps\.sr F9:F4: the student has no such tap; choose among F1, F2"),
        ({"tap": "F4:F0"}, r"attention\.tap F4:F0: the teacher has no such tap"),
    ],
)
def test_unknown_taps_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        AtPlus(grader(0), grader(1), **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": {"kdd": 1.0}}, "did you mean 'kd'"),
        ({"weights": {"ce": 0, "fm": 0, "at_plus": 0}}, "every term has weight 0"),
        ({"kd": {"form": "code", "standardise": True}}, "needs kd.form 'hinton'"),
        ({"method": "supervised", "weights": {"kd": 1.0}}, "not a term of this method"),
        ({"network": {"drop_pools": -1}}, "greater than or equal to 0"),
    ],
)
def test_settings_that_contradict_are_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        grading({"method": "at_plus"} | change)


@pytest.fixture
def teacher_bundle(tmp_path):
    torch.manual_seed(1)
    net = build_grader("vgg_small", 3, width=0.25)
    spec = InputSpec(1.0, 64, (0.0,) * 3, (1.0,) * 3, ("NC", "G3", "G4"))
    return load_bundle(save_bundle(tmp_path / "t", net, spec, arch="vgg_small", width=0.25))


def test_settings_reach_the_method(teacher_bundle):
    config = grading({
        "method": "at_plus", "data": {"student_mpp": 4.0}, "student_input": "half",
        "weights": {"ce": 0, "kd": 1, "fm": 0.5, "at_plus": 0, "at": 1000, "sr_spatial": 0.1},
        "attention": {"form": "gradcam", "tap": "F3", "normalise": "softmax", "distance": "kl"},
        "taps": {"fm": "F2:F3", "at": ["F1", "F2"], "project": True}, "grid": "student_up",
        "kd": {"temperature": 2.0, "standardise": True}, "dkd": {"beta": 2.0}, "at": {"form": "l2"},
    })  # fmt: skip
    student = build_grader("vgg_small", 3, width=0.25, upsample=2)
    method = build_method(config, student, (teacher_bundle,), ("NC", "G3", "G4"))
    assert method.terms == {"kd", "fm", "at", "sr_spatial"}
    assert (method.form, method.normalise, method.distance) == ("gradcam", "softmax", "kl")
    assert (method.tap[:2], method.fm_tap[:2]) == (("F3", "F3"), ("F2", "F3"))
    assert [p[:2] for p in method.at_taps] == [("F1", "F1"), ("F2", "F2")]
    assert method.sr_tap[:2] == ("F3", "F4")  # the teacher reads twice the student's pixels
    assert (method.grid, method.dkd["beta"], method.at["form"]) == ("student_up", 2.0, "l2")
    assert method.kd == {"temperature": 2.0, "form": "hinton", "standardise": True}
    assert set(method.helpers) == {"fm", "sr_spatial"}
    high = torch.rand(3, 3, 64, 64) * 255
    given = batch(3)
    given.views = {"high": high, "low": losses.downsample(high, 4)}
    assert set(method.float()(given, AT)) == method.terms


@pytest.mark.parametrize(
    ("student_input", "upsample", "share"), [("native", 1, 0.0625), ("half", 2, 0.25),
                                             ("upsampled", 4, 1.0)]
)  # fmt: skip
def test_cost_is_told_beside_the_teacher_s(student_input, upsample, share, teacher_bundle, caplog):
    spec = InputSpec(
        4.0, 16, (0.0,) * 3, (1.0,) * 3, ("NC", "G3", "G4"), student_input, upsample
    )  # fmt: skip
    student = build_grader("vgg_small", 3, width=0.25, upsample=upsample)
    with caplog.at_level(logging.INFO, "wsikd"):
        log_cost(spec, student, teacher_bundle)
        log_cost(teacher_bundle.spec, teacher_bundle.network(), None)
    first, second = caplog.messages
    assert f"(16 px, {student_input}), " in first
    found = float(first.partition("), ")[2].split()[0])
    assert found == pytest.approx(share, rel=0.02)  # the head costs the same at every size
    assert first.endswith(second.split(" multiply")[0])


@pytest.mark.parametrize(("high", "low"), [(1.0, 2.0), (1.0, 4.0), (1.0, 8.0), (0.5, 2.0)])
def test_any_pair_of_magnifications(high, low):
    config = grading({"method": "at_plus", "data": {"mpp": high, "student_mpp": low}})
    assert config.ratio == low / high
    given = batch(2, side=128, factor=round(config.factor))
    method = AtPlus(grader(0), grader(1), terms=TERMS, ratio=config.ratio)
    assert all(torch.isfinite(v) for v in method(given, AT).values())
