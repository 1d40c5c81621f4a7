"""What a device holds is what is read, and trains alike."""

import numpy as np
import pytest
import torch

from tests.learn.engine.test_finite import same, student, trained
from wsikd.learn.data import resident
from wsikd.learn.methods.base import Targets
from wsikd.learn.patch import train

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("resident")


KEPT = {"teacher_cache": "ram", "augment": {"colour_of": "student"}}


def test_a_budget_is_a_part_of_what_is_free(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10**9, 2 * 10**9))
    cuda = torch.device("cuda", 0)
    assert resident.budget_of("auto", cuda) == 5 * 10**8
    assert resident.budget_of(3.0, cuda) == 3 * 10**9
    assert [resident.budget_of(asked, CPU) for asked in ("auto", 3.0)] == [0, 0]


@pytest.mark.parametrize("kind", ["averages and answers", "patches that stay on disk"])
def test_training_from_the_device_is_training_from_memory(
    kind, stripes, place, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        train.PatchTask, "export", lambda self, _: (self.method.state_dict(), self.views)
    )
    more = {} if kind.startswith("averages") else {"augment": {"stain": 0.1}}
    kept = {} if more else KEPT
    if kind.endswith("disk"):
        more["data"] = {"cache_gb": 0}
    settings = student(stripes, place, **more, **kept)
    (plain, before), budgets = trained(settings, tmp_path / "plain"), []

    def ample(asked, device):
        budgets.append(asked)
        return 10**9

    monkeypatch.setattr(train, "budget_of", ample)
    held, views = trained(settings, tmp_path / "held")
    assert budgets == ["auto"]
    assert before.resident is None
    assert views.resident.values.dtype == (torch.uint8 if more else torch.float32)
    assert bool(views.targets) != bool(more)
    assert more or views.targets.held
    assert same([held], [plain])


def test_what_does_not_fit_is_not_held(stripes, place, tmp_path, monkeypatch):
    monkeypatch.setattr(train.PatchTask, "export", lambda self, _: self.views)
    monkeypatch.setattr(train, "budget_of", lambda *_: 10_000)
    views = trained(student(stripes, place, **KEPT), tmp_path / "run")
    assert views.resident is None
    assert not views.targets.held


def test_answers_on_a_device_are_those_in_memory():
    rng = np.random.default_rng(0)
    tables = {
        name: [rng.random((5, *shape), np.float32) for _ in range(8)]
        for name, shape in (("logits", (4,)), ("tap F4", (3, 2, 2)), ("attention", (4, 2, 2)))
    }
    kept = Targets({7 + i: i for i in range(5)}, tables)
    held = kept.on(CPU)
    turns = torch.tensor([[1, 0, 1, 1], [0, 0, 1, 1], [1, 0, 0, 1]], dtype=torch.bool)
    indices = np.array([9, 7, 11, 9])
    one, other = kept.of(indices, turns), held.of(indices, turns)
    assert torch.equal(one.logits, other.logits)
    assert torch.equal(one.attention, other.attention)
    assert torch.equal(one.taps["F4"], other.taps["F4"])
    assert held.nbytes == sum(t.nbytes for t in held.held.values())
