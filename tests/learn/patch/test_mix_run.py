"""Trainings on mixed patches: teacher and student see the same, nothing else changes."""

import logging

import pytest
import torch

from tests.learn.grading import grading
from tests.learn.patch.test_several_teachers import NETWORK, PLAIN, content, teach, trainer
from tests.learn.patch.whole_runs import epochs, resumes_to_the_byte
from tests.learn.patch.whole_runs import two_processes_train_what_one_does as in_two
from wsikd.core.errors import ConfigError
from wsikd.learn.data.mixing import draw_mix
from wsikd.learn.engine.configurations import parse_settings
from wsikd.learn.losses.maps import downsample
from wsikd.learn.methods.base import Progress
from wsikd.learn.patch.train import distill

BOTH = {"mixup": 0.5, "cutmix": 1.0}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def teacher(stripes, tmp_path_factory):
    return teach(stripes, tmp_path_factory.mktemp("teacher") / "run", 1)


def told(csv, teacher, **more):
    return content(csv, [teacher]) | {"mix": BOTH} | more


@pytest.mark.parametrize("kind", [{"mixup": 0.5}, {"cutmix": 1.0}], ids=["mixup", "cutmix"])
def test_teacher_and_student_see_the_same_mixture(stripes, teacher, tmp_path, kind):
    at = Progress(0, 2, 1, 3)
    plain = trainer(content(stripes, [teacher], teacher_cache="off"), tmp_path / "plain")
    made = trainer(told(stripes, teacher, mix=kind), tmp_path / "mixed")
    chosen = made.train_indices[:8]
    before, batch = (t.views.batch(t.views.read(chosen), chosen, at) for t in (plain, made))
    draw = draw_mix(made.task.config.mix, (5, 0, 2), (16, 16))
    share, partner = batch.mixed.share, batch.mixed.partner
    assert share == draw.share
    for name, view in batch.views.items():
        first, second = before.views[name].float(), before.views[name].float()[partner]
        expected = share * first + (1 - share) * second
        if draw.box is not None:
            scale, expected = (2 if name == "high" else 1), first.clone()
            top, bottom, left, right = (scale * e for e in draw.box)
            expected[..., top:bottom, left:right] = second[..., top:bottom, left:right]
        torch.testing.assert_close(view, expected, rtol=1e-5, atol=1e-3)
    assert set(batch.views) == {"high", "low"}
    torch.testing.assert_close(
        downsample(batch.views["high"], 2), batch.views["low"], rtol=1e-5, atol=1e-3
    )
    made.method.eval()
    terms = made.method(batch, at)
    own = made.method.student(batch.views["low"])
    theirs = made.method.teacher(batch.views["high"])
    soft = torch.softmax(theirs / 4, 1)
    kd = 16 * (soft * (soft.log() - torch.log_softmax(own / 4, 1))).sum(1).mean()
    torch.testing.assert_close(terms["kd"], kd, rtol=1e-4, atol=1e-6)
    both = [torch.nn.functional.cross_entropy(own, y) for y in (batch.label, batch.label[partner])]
    torch.testing.assert_close(terms["ce"], share * both[0] + (1 - share) * both[1])


def test_validation_is_not_mixed(stripes, teacher, tmp_path):
    made = trainer(told(stripes, teacher), tmp_path)
    chosen = made.val_indices[:4]
    assert made.views.batch(made.views.read(chosen), chosen, None).mixed is None


def test_killed_and_resumed(stripes, teacher, tmp_path, monkeypatch):
    resumes_to_the_byte(told(stripes, teacher), tmp_path, monkeypatch)


def test_two_processes_train_what_one_does(stripes, teacher, tmp_path):
    optim = {"epochs": 2, "batch_size": 16}  # a share of 8 each
    in_two(told(stripes, teacher, optim=optim), tmp_path)


def test_a_teacher_is_trained_on_mixtures_too(stripes, tmp_path):
    settings = {"method": "supervised", "network": NETWORK, "data": {"paths": [str(stripes)]},
                "optim": {"epochs": 2, "batch_size": 18}, "augment": PLAIN}  # fmt: skip
    for name, more in (
        ("plain", {}),
        ("off", {"mix": {"probability": 0.5}}),
        ("on", {"mix": BOTH}),
    ):
        distill(grading(settings | more), tmp_path / name, seed=1, device="cpu")
    runs = {
        name: [row["raw"] for row in epochs(tmp_path / name)] for name in ("plain", "off", "on")
    }
    assert runs["plain"] == runs["off"]
    assert runs["on"] != runs["off"]


def test_unlabelled_patches_and_mixtures(stripes, teacher, tmp_path):
    data = {"paths": [str(stripes)], "student_mpp": 2.0, "unlabelled": True}
    made = told(stripes, teacher, data=data, split={"share": 0.5})
    run = distill(grading(made), tmp_path / "run", seed=1, device="cpu")
    assert all(row["raw"]["ce"] > 0 for row in epochs(run.path))


def test_kept_answers_are_refused_or_passed_by(stripes, teacher, tmp_path, caplog):
    for key in ("teacher_cache", "frozen_cache"):
        with pytest.raises(ConfigError, match=rf"nothing can be kept; set {key} to auto"):
            parse_settings(told(stripes, teacher, **{key: "ram"}), name="c.yaml")
    many = {"epochs": 30, "batch_size": 18}  # enough that answers would be kept
    with caplog.at_level(logging.INFO, "wsikd"):
        made = trainer(told(stripes, teacher, optim=many), tmp_path)
    assert made.views.targets is None
    assert "the teacher is asked in every step: mixtures of patches have no kept" in caplog.text


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"weights": {"at_grad": 1}}, r"mix.mixup is not for weights\.at_grad"),
        ({"teacher_answers": "unseen"}, "slides that their teacher was trained on"),
        ({"mix": {"mixup": -1}}, r"mix\.mixup"),
    ],
)
def test_what_does_not_go_together_is_refused(stripes, teacher, change, fault):
    with pytest.raises(ConfigError, match=fault):
        parse_settings(told(stripes, teacher) | change, name="c.yaml")
