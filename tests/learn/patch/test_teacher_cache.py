"""The teacher's kept answers against the teacher asked in the step."""

import json

import numpy as np
import pytest
import torch

from tests.learn.grading import grading
from wsikd.core.errors import ConfigError, DataError
from wsikd.core.run import RunDir
from wsikd.learn.data.augment import turned
from wsikd.learn.engine.distributed import Team
from wsikd.learn.engine.train import seed_weights
from wsikd.learn.engine.trainer import Trainer
from wsikd.learn.methods.base import Progress
from wsikd.learn.patch.train import PatchTask, distill

PLAIN = {"brightness": 0, "contrast": 0, "saturation": 0, "stain": 0}
JITTER = {"brightness": 0.2, "stain": 0.1, "colour_of": "student"}
TERMS = ("ce", "fm", "at_plus", "cos_pooled", "cos_dense", "kd", "dkd", "sr_last", "at")
WEIGHTS = dict.fromkeys(TERMS, 1)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def teacher(stripes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "run"
    settings = {
        "method": "supervised",
        "network": {"arch": "strided_small", "width": 0.5},
        "data": {"paths": [str(stripes)]},
        "optim": {"epochs": 2, "batch_size": 16},
    }
    distill(grading(settings), folder, seed=3, device="cpu")
    return folder


def config(csv, teacher, cache="ram", augment=PLAIN, **changes):
    base = {
        "method": "at_plus",
        "teacher": str(teacher),
        "network": {"arch": "strided_small", "width": 0.5},
        "data": {"paths": [str(csv)], "student_mpp": 2.0},
        "optim": {"epochs": 3, "batch_size": 16},
        "weights": WEIGHTS,
        "augment": augment,
        "teacher_cache": cache,
    }
    return grading(base | changes)


def trainer(settings, folder):
    task = PatchTask(settings, seed=5)
    task.load()
    seed_weights(0)
    task.build()
    made = Trainer(task, RunDir(folder), team=Team(settings, "cpu"))
    task.begin(made)
    return made


def losses(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["raw"] for row in lines if "raw" in row]


@pytest.mark.parametrize("augment", [PLAIN, JITTER], ids=["flips", "student's colours"])
def test_terms_equal_those_of_the_live_teacher(stripes, teacher, tmp_path, augment):
    at = Progress(1, 3, 2, 4)
    terms, lows = {}, {}
    for cache in ("off", "ram"):
        made = trainer(config(stripes, teacher, cache, augment), tmp_path / cache)
        chosen = made.train_indices[[3, 0, 17, 8, 9, 21, 22, 40]]
        batch = made.views.batch(made.views.read(chosen), chosen, at)
        assert set(batch.views) == ({"high", "low"} if cache == "off" else {"low"})
        assert (batch.taught is None) == (cache == "off")
        lows[cache] = batch.views["low"]
        terms[cache] = {k: v.item() for k, v in made.method(batch, at).items()}
    assert torch.equal(lows["off"], lows["ram"])
    assert set(terms["ram"]) == set(WEIGHTS)
    assert terms["ram"] == pytest.approx(terms["off"], rel=1e-5, abs=1e-6)


def test_each_view_is_the_teacher_on_that_view(stripes, teacher, tmp_path):
    made = trainer(config(stripes, teacher), tmp_path / "run")
    chosen = made.train_indices[:4]
    images = made.data.images(chosen)
    seen = set()
    for view in range(8):
        turns = torch.tensor([[bool(view & bit)] * 4 for bit in (1, 2, 4)])
        kept = made.views.targets.of(chosen, turns)
        with torch.no_grad():
            expected = made.method.teacher(turned(images, turns).float())
        torch.testing.assert_close(kept.logits, expected, rtol=1e-5, atol=1e-5)
        seen.add(tuple(np.round(kept.logits.flatten().tolist(), 4)))
    assert len(seen) == 8  # stripes with noise look different in every view


def test_whole_trainings_agree(stripes, teacher, tmp_path):
    for cache in ("off", "ram", "disk"):
        distill(config(stripes, teacher, cache), tmp_path / cache, seed=2, device="cpu")
    for other in ("ram", "disk"):
        for own, live in zip(losses(tmp_path / other), losses(tmp_path / "off"), strict=True):
            assert own == pytest.approx(live, rel=1e-3)  # rounding grows over the steps
    assert losses(tmp_path / "ram") == losses(tmp_path / "disk")


def test_answers_on_disk_are_shared_and_taken_up(stripes, teacher, tmp_path, monkeypatch):
    shared = tmp_path / "answers"
    first = trainer(config(stripes, teacher, "disk", teacher_cache_dir=str(shared)), tmp_path / "a")
    (folder,) = shared.iterdir()
    files = sorted(p.name for p in folder.glob("*.npy"))
    assert len(files) == 8 * 3  # logits, one tap, attention
    lost = folder / "tap-F4-5.npy"
    expected = np.load(lost)
    lost.unlink()
    asked = []
    teach = type(first.method).teach

    def count(self, patches, **options):
        asked.append(len(patches))
        return teach(self, patches, **options)

    monkeypatch.setattr(type(first.method), "teach", count)
    again = config(stripes, teacher, "disk", teacher_cache_dir=str(shared), weights={"kd": 1})
    trainer(again, tmp_path / "b")
    assert np.array_equal(np.load(lost), expected)
    assert sum(asked) <= len(first.train_indices) + 2  # the lost view only, and one for the shapes


@pytest.mark.parametrize("kept", [0, 40, 200])
def test_damaged_answers_are_told(stripes, teacher, tmp_path, kept):
    settings = config(stripes, teacher, "disk", teacher_cache_dir=str(tmp_path / "answers"))
    trainer(settings, tmp_path / "a")
    file = next((tmp_path / "answers").glob("*/logits-3.npy"))
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"logits-3\.npy: .*remove it; it is made again"):
        trainer(settings, tmp_path / "b")
    file.unlink()
    assert trainer(settings, tmp_path / "c").views.targets is not None


def test_another_teacher_has_other_answers(stripes, teacher, tmp_path):
    other = tmp_path / "other"
    settings = grading(
        {
            "method": "supervised",
            "network": {"arch": "strided_small", "width": 0.5},
            "data": {"paths": [str(stripes)]},
            "optim": {"epochs": 1, "batch_size": 16},
        }
    )
    distill(settings, other, seed=4, device="cpu")
    for net in (teacher, other):
        shared = str(tmp_path / "answers")
        trainer(config(stripes, net, "disk", teacher_cache_dir=shared), tmp_path / net.name)
    assert len(list((tmp_path / "answers").iterdir())) == 2


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"augment": PLAIN | {"rotate_deg": 10}}, "views of a patch cannot be counted"),
        ({"augment": {"stain": 0.1}}, "colour_of=student"),
        ({"weights": {"sp": 1}}, "weights.sp"),
        ({"weights": {"rkd_angle": 1}}, "weights.rkd_angle"),
        ({"weights": {"sr_spatial": 1}}, "weights.sr_spatial"),
        ({"attention": {"tap": "F3:F4"}, "taps": {"fm": "F4"}}, "two grids"),
        ({"grid": "student_up"}, "grid=teacher_down"),
        ({"data": {}}, "the same pixels"),
        ({"attention": {"normalise": "softmax"}}, "minmax"),
    ],
)
def test_what_cannot_be_kept_is_refused_and_auto_asks_in_the_step(
    stripes, teacher, tmp_path, changes, fault
):
    if "data" in changes:
        changes = {"data": {"paths": [str(stripes)]}}
    with pytest.raises(ConfigError, match=fault):
        trainer(config(stripes, teacher, "ram", **changes), tmp_path / "run")
    auto = trainer(config(stripes, teacher, "auto", **changes), tmp_path / "auto")
    assert auto.views.targets is None


def test_auto_keeps_where_it_pays(stripes, teacher, tmp_path):
    few = trainer(config(stripes, teacher, "auto"), tmp_path / "few")
    assert few.views.targets is None  # three epochs ask less often than there are views
    long = {"epochs": 9, "batch_size": 16}
    many = trainer(config(stripes, teacher, "auto", optim=long), tmp_path / "many")
    assert many.views.targets is not None
    small = {"paths": [str(stripes)], "student_mpp": 2.0, "cache_gb": 1e-6}
    full = trainer(config(stripes, teacher, "auto", optim=long, data=small), tmp_path / "full")
    assert full.views.targets is None
