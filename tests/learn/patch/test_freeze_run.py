"""Frozen stages in whole trainings, their kept maps, and the learning rate of the head."""

import json

import pytest
import torch

from tests.learn.grading import grading
from tests.learn.patch.whole_runs import resumes_to_the_byte, two_processes_train_what_one_does
from wsikd.core.errors import ConfigError
from wsikd.core.run import RunDir
from wsikd.learn.engine.distributed import Team
from wsikd.learn.engine.train import seed_weights
from wsikd.learn.engine.trainer import Trainer
from wsikd.learn.methods.base import Progress
from wsikd.learn.patch.train import PatchTask, distill
from wsikd.models.files.bundle import load_bundle

PLAIN = {"brightness": 0, "contrast": 0, "saturation": 0, "stain": 0}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def teacher(stripes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "run"
    distill(grading(content(stripes)), folder, seed=3, device="cpu")
    return folder


def content(csv, teacher=None, freeze=0, cache="off", augment=PLAIN, **optim):
    made = {
        "method": "supervised",
        "network": {"arch": "strided_small", "width": 0.5, "freeze": freeze},
        "data": {"paths": [str(csv)]},
        "optim": {"epochs": 2, "batch_size": 18} | optim,
        "augment": augment, "frozen_cache": cache,
    }  # fmt: skip
    if teacher is not None:
        made |= {"method": "at_plus", "teacher": str(teacher), "teacher_cache": "off"}
        made["data"]["student_mpp"] = 2.0
        made["weights"] = dict.fromkeys(("ce", "fm", "at_plus", "kd", "sr_last"), 1)
    return made


def trainer(told, folder):
    task = PatchTask(grading(told), seed=5)
    task.load()
    seed_weights(0)
    task.build()
    made = Trainer(task, RunDir(folder), team=Team(grading(told), "cpu"))
    task.begin(made)
    return made


def weights(run):
    return load_bundle(run).weights


def losses(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(row["raw"], row["val"]) for row in lines if "raw" in row]


@pytest.mark.parametrize("freeze", [1, ["F2", "F3"]])
def test_frozen_stages_and_their_statistics_are_those_of_the_start(stripes, tmp_path, freeze):
    distill(grading(content(stripes, freeze=freeze)), tmp_path / "run", seed=5, device="cpu")
    task = PatchTask(grading(content(stripes, freeze=freeze)), seed=5)
    task.load()
    seed_weights(5, task.init_stream)
    task.build()
    first = task.method.student.state_dict()
    last = weights(tmp_path / "run")
    lower = [f"backbone.stages.F{i}." for i in ((2,) if freeze == 1 else (2, 3))]
    for key, value in last.items():
        same = torch.equal(value, first[key])
        assert same == key.startswith((*lower, "mean", "std")), key


def test_the_head_has_its_own_rate(stripes, teacher, tmp_path):
    told = content(stripes, teacher, lr=1e-3, head_lr=1e-2, decay_vectors=False)
    told["network"] |= {"width": 0.25}
    told["taps"] = {"project": True}
    told["weights"]["sr_last"] = 0
    made = trainer(told, tmp_path / "run")
    made.task.schedule(made.optimizer.param_groups, Progress(1, 2, 0, 3), 18)
    rates = {id(p): g["lr"] for g in made.optimizer.param_groups for p in g["params"]}
    method, base = made.method, min(rates.values())
    own = [*method.student.head.parameters(), *method.helpers.parameters()]
    assert len(own) == 3
    assert len(rates) == len([p for p in method.parameters() if p.requires_grad])
    for parameter in method.parameters():
        if parameter.requires_grad:
            factor = 10 if any(parameter is p for p in own) else 1
            assert rates[id(parameter)] == pytest.approx(base * factor)


def test_a_head_rate_equal_to_the_rate_changes_nothing(stripes, tmp_path):
    for name, optim in (("a", {}), ("b", {"head_lr": 1e-3})):
        distill(grading(content(stripes, **optim)), tmp_path / name, seed=2, device="cpu")
    assert losses(tmp_path / "a") == losses(tmp_path / "b")


@pytest.mark.parametrize("method", ["supervised", "live teacher", "kept teacher"])
def test_kept_maps_give_the_losses_of_the_step(stripes, teacher, tmp_path, method):
    """To 1e-5: sums of another batch are rounded differently."""
    for cache in ("off", "ram"):
        told = content(stripes, None if method == "supervised" else teacher, 2, cache)
        told["teacher_cache"] = "ram" if method == "kept teacher" else "off"
        distill(grading(told), tmp_path / cache, seed=2, device="cpu")
    for (raw, val), (kept, kept_val) in zip(
        losses(tmp_path / "off"), losses(tmp_path / "ram"), strict=True
    ):
        assert kept == pytest.approx(raw, rel=1e-5, abs=1e-6)
        assert kept_val == pytest.approx(val, rel=1e-5, abs=1e-6)
    one, two = weights(tmp_path / "off"), weights(tmp_path / "ram")
    assert list(one) == list(two)
    for key in one:
        torch.testing.assert_close(two[key], one[key], rtol=1e-3, atol=1e-4)


def test_each_view_is_that_of_the_step(stripes, tmp_path):
    made = {c: trainer(content(stripes, None, 1, c), tmp_path / c) for c in ("off", "ram")}
    at, chosen = Progress(1, 2, 1, 3), made["off"].train_indices[[3, 0, 17, 8, 21]]
    live, kept = (m.views.batch(m.views.read(chosen), chosen, at) for m in made.values())
    assert kept.views["low"].shape[1] == made["ram"].method.student.backbone.taps["F2"].channels
    student = made["off"].method.student.eval()
    with torch.no_grad():
        expected = student.backbone.run_to(student.normalise(live.views["low"]), "F2")
    torch.testing.assert_close(kept.views["low"], expected, rtol=1e-5, atol=1e-6)


def test_kept_maps_of_a_network_of_timm(stripes, tmp_path):
    for cache in ("off", "ram"):
        told = content(stripes, None, 3, cache)
        told["network"] = {"arch": "timm:test_efficientnet", "freeze": 3}
        distill(grading(told), tmp_path / cache, seed=2, device="cpu")
    (raw, _), *_ = losses(tmp_path / "off")
    (kept, _), *_ = losses(tmp_path / "ram")
    assert kept == pytest.approx(raw, rel=1e-4)


def test_killed_and_resumed_with_kept_maps(stripes, teacher, tmp_path, monkeypatch):
    told = content(stripes, teacher, 1, "ram", head_lr=3e-3)
    resumes_to_the_byte(told, tmp_path, monkeypatch)


def test_two_processes_train_what_one_does(stripes, teacher, tmp_path):
    told = content(stripes, teacher, 1, "ram", head_lr=3e-3)
    two_processes_train_what_one_does(told, tmp_path)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"freeze": 0}, "no stage is frozen"),
        ({"augment": PLAIN | {"rotate_deg": 10}}, "cannot be counted"),
        ({"augment": PLAIN | {"stain": 0.1, "colour_of": "student"}}, "cannot be counted"),
        ({"precision": "bf16-mixed"}, "single precision"),
        ({"data": {"cache_gb": 1e-6}}, "raise data.cache_gb"),
        ({"weights": {"at_grad": 1}}, "reads the frozen map F2"),
        ({"weights": {"at": 1}, "taps": {"at": ["F2"]}}, "reads the frozen map F2"),
    ],
)
def test_maps_that_cannot_be_kept_are_refused_and_auto_computes_them(
    stripes, teacher, tmp_path, change, fault
):
    given = {k: change.pop(k) for k in ("freeze", "augment", "precision") if k in change}
    for cache in ("ram", "auto"):
        told = content(stripes, teacher, **{"freeze": 2, "epochs": 20} | given, cache=cache)
        told["data"] |= change.get("data", {})
        told |= {k: v for k, v in change.items() if k != "data"}
        if cache == "auto":
            assert trainer(told, tmp_path / cache).views.maps is None
        else:
            with pytest.raises(ConfigError, match=fault):
                trainer(told, tmp_path / cache)


def test_auto_keeps_maps_where_it_pays(stripes, tmp_path):
    few = trainer(content(stripes, None, 1, "auto"), tmp_path / "few")
    many = trainer(content(stripes, None, 1, "auto", epochs=20), tmp_path / "many")
    assert (few.views.maps is None, many.views.maps is None) == (True, False)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"network": {"arch": "hdkd_teacher", "freeze": 1}}, "is trained as a whole"),
        ({"network": {"arch": "strided_small", "freeze": 4}}, "has 3 stages"),
        ({"network": {"arch": "strided_small", "width": 0.5, "freeze": 2},
          "attention": {"tap": "F3"}}, "attention.tap F3: is in a frozen stage"),
    ],
)  # fmt: skip
def test_faults(stripes, teacher, tmp_path, change, fault):
    with pytest.raises(ConfigError, match=fault):
        trainer(content(stripes, teacher) | change, tmp_path / "run")
