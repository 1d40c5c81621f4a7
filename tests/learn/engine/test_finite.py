"""The loss of a step is checked one step late, by an update that a bad step cannot change."""

import copy
import math

import pytest
import torch
from torch import nn

from tests.learn.engine.host_reads import HostReads
from tests.learn.methods.test_contract import HYBRID
from tests.learn.patch.test_train import config
from wsikd.core.errors import NonFiniteLossError
from wsikd.learn.engine import checkpoints, finite
from wsikd.learn.engine.distributed import Team
from wsikd.learn.engine.trainer import Trainer
from wsikd.learn.methods.base import Progress
from wsikd.learn.patch.train import PatchTask, distill

EXPORT = PatchTask.export


class Alone:
    """One process."""

    size = 1

    def gather(self, mine):
        return [mine]

    def reported_once(self, error):
        return error


@pytest.fixture(params=["adam", "adamw"])
def pair(request):
    """A network and its fused optimiser, after a sound step."""
    torch.manual_seed(0)
    network = nn.Linear(4, 2)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[request.param]
    optimizer = kind(network.parameters(), lr=0.1, weight_decay=0.1, fused=True)
    network(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    return network, optimizer


def step(network, optimizer, check, at, *values):
    """A step of as many parts as there are values of the term "mine"."""
    optimizer.zero_grad()
    for value in values:
        term = network(torch.ones(1, 4)).sum() * value
        check.see({"sound": torch.ones(()), "mine": term.detach()}, term.detach() + 1, at)
        term.backward()
    check.guard(optimizer)
    optimizer.step()
    check.step_done()


def state(network, optimizer):
    return copy.deepcopy([network.state_dict(), optimizer.state_dict()["state"]])


def same(one, other):
    pairs = [(a[k], b[k]) for a, b in zip(one, other, strict=True) for k in a]
    flat = [(x[k], y[k]) if isinstance(x, dict) else (x, y)
            for x, y in pairs for k in (x if isinstance(x, dict) else [None])]  # fmt: skip
    return all(torch.equal(x, y) for x, y in flat)


@pytest.mark.parametrize("bad", [(math.nan,), (math.inf,), (1.0, math.nan), (math.nan, 1.0)])
def test_a_bad_step_changes_nothing_and_is_named_one_step_late(pair, bad):
    check = finite.LateCheck(Alone(), 0)
    step(*pair, check, Progress(0, 2, 0, 9), 1.0)
    before = state(*pair)
    step(*pair, check, Progress(0, 2, 1, 9), *bad)
    assert same(state(*pair), before)
    with pytest.raises(NonFiniteLossError, match=r"'mine': is (nan|-?inf) in epoch 1, step 2"):
        step(*pair, check, Progress(0, 2, 2, 9), 1.0)
    assert not same(state(*pair), before)


def test_the_last_step_is_read_at_the_end_of_the_epoch(pair):
    check = finite.LateCheck(Alone(), 3)
    step(*pair, check, Progress(3, 9, 0, 9), math.nan)
    with pytest.raises(NonFiniteLossError, match=r"epoch 4, step 1; .*holds epoch 3"):
        check.flush()
    check.flush()


class TwoProcesses(Alone):
    """This one, whose loss is sound, and another, whose loss is not."""

    size = 2

    def gather(self, mine):
        return [mine, ("theirs", math.inf)]


def test_what_another_process_finds_stops_this_one(pair, monkeypatch):
    asked = []

    def all_reduce(bad, how):
        asked.append(how)
        bad.fill_(1.0)

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    check, before = finite.LateCheck(TwoProcesses(), 0), state(*pair)
    step(*pair, check, Progress(0, 2, 0, 9), 1.0)
    assert same(state(*pair), before)
    assert asked == [torch.distributed.ReduceOp.MAX]
    with pytest.raises(NonFiniteLossError, match=r"'theirs': is inf in epoch 1, step 1"):
        check.flush()


def student(stripes, place, method="at_plus", **more):
    """Settings of a student and of its teacher."""
    if method == "hdkd":
        hybrid = {"units": HYBRID["units"], "dim": 8, "heads": 2, "depth": 1, "positions": 1}
        taught = {"arch": "hdkd_teacher", "width": 0.125, "hybrid": hybrid | {"stem_stride": 4}}
        more["network"] = {"arch": "hdkd_student", "width": 0.125, "hybrid": hybrid}
    else:
        taught = {"width": 0.25}
    teacher = place / f"teacher-{taught.get('arch', 'vgg')}"
    if not teacher.exists():
        own = config(stripes, network=taught, optim={"epochs": 1, "epoch_patches": 16})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(PatchTask, "export", EXPORT)
            distill(own, teacher, seed=1, device="cpu")
    optim = {"epochs": 1} | more.pop("optim", {})
    return config(stripes, method, teacher, optim=optim, **more)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("late")


@pytest.fixture
def late(monkeypatch):
    """As on a GPU: a fused optimiser, and with it the late check; only weights are exported."""
    monkeypatch.setattr(Team, "fuses", property(lambda self: True))
    monkeypatch.setattr(PatchTask, "export", lambda self, trainer: self.method.state_dict())


def trained(settings, run):
    return distill(settings, run, seed=1, device="cpu")


def test_both_checks_train_alike(stripes, place, tmp_path, late, monkeypatch):
    settings = student(stripes, place, optim={"accumulate": 2})
    found = trained(settings, tmp_path / "late")
    monkeypatch.setattr(finite, "LateCheck", finite.PromptCheck)
    assert same([trained(settings, tmp_path / "prompt")], [found])


def test_an_epoch_that_ends_badly_is_not_kept(stripes, place, tmp_path, late, monkeypatch):
    from wsikd.learn.losses import maps as losses

    matching, calls = losses.feature_matching, []

    def breaking(own, target):
        calls.append(1)
        return matching(own, target) * (math.nan if len(calls) == 6 else 1)  # 3 steps an epoch

    monkeypatch.setattr(losses, "feature_matching", breaking)
    with pytest.raises(NonFiniteLossError, match=r"'fm': is nan in epoch 2, step 3.* epoch 1$"):
        trained(student(stripes, place, optim={"epochs": 2}), tmp_path / "run")
    kept = checkpoints.load(tmp_path / "run/checkpoints/last.ckpt", torch.device("cpu"))
    assert kept["epoch"] == 1


TERMS = {"ce": 1, "dkd": 1, "kd": 1, "sp": 1, "rkd_distance": 1, "rkd_angle": 1, "at": 100,
         "at_grad": 1, "sr_spatial": 1}  # fmt: skip
AUGMENT = {"rotate_deg": 30, "shift": 0.1, "stain": 0.1, "brightness": 0.1, "probability": 0.5}
KINDS = {
    "supervised": ("supervised", {"augment": AUGMENT}),
    "kept teacher": ("at_plus", {"teacher_cache": "ram", "augment": {"colour_of": "student"}}),
    "asked teacher": ("at_plus", {"augment": AUGMENT | {"crop_px": 32}}),
    "all terms": ("at_plus", {"weights": TERMS}),
    "hdkd": ("hdkd", {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_no_step_reads_a_tensor_on_the_host(kind, stripes, place, tmp_path, late, monkeypatch):
    method, more = KINDS[kind]
    if method == "supervised":
        settings = config(stripes, optim={"epochs": 1}, **more)
    else:
        settings = student(stripes, place, method, **more)
    one, found = Trainer._step, []

    def watched(self, *given):
        with HostReads() as reads:
            terms = one(self, *given)
        found.append(reads.seen)
        return terms

    monkeypatch.setattr(Trainer, "_step", watched)
    trained(settings, tmp_path / "run")
    assert found == [[]] * 3
