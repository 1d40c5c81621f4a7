"""A teacher of the student's own resolution: the control of self-distillation."""

import pytest
import torch

from tests.learn.grading import grading
from tests.learn.patch.whole_runs import resumes_to_the_byte, two_processes_train_what_one_does
from wsikd.core.errors import ConfigError
from wsikd.core.run import RunDir
from wsikd.learn.engine.configurations import parse_settings
from wsikd.learn.engine.distributed import Team
from wsikd.learn.engine.train import seed_weights
from wsikd.learn.engine.trainer import Trainer
from wsikd.learn.methods.base import Progress
from wsikd.learn.patch.train import PatchTask, distill
from wsikd.models.files.bundle import load_bundle

NETWORK = {"arch": "strided_small", "width": 0.5}


pytestmark = pytest.mark.usefixtures("one_thread")


def content(csv, teacher=None, **more):
    made = {
        "method": "supervised", "network": NETWORK, "optim": {"epochs": 2, "batch_size": 18},
        "data": {"paths": [str(csv)], "student_mpp": 2.0},
    }  # fmt: skip
    if teacher is not None:
        made |= {"method": "at_plus", "teacher": str(teacher), "teacher_reads": "low"}
        made["weights"] = {"ce": 1, "kd": 1, "fm": 0.1, "at_plus": 1}
    return made | more


@pytest.fixture(scope="module")
def teacher(stripes, tmp_path_factory):
    """A network on labels at 2 um per pixel."""
    folder = tmp_path_factory.mktemp("teacher") / "run"
    distill(grading(content(stripes)), folder, seed=3, device="cpu")
    return folder


@pytest.mark.parametrize("colours", ["both", "student"])
def test_the_teacher_reads_what_the_student_reads(stripes, teacher, tmp_path, colours):
    told = content(stripes, teacher, augment={"stain": 0.2, "colour_of": colours})
    task = PatchTask(grading(told), seed=5)
    task.load()
    seed_weights(0)
    task.build()
    made = Trainer(task, RunDir(tmp_path), team=Team(grading(told), "cpu"))
    task.begin(made)
    chosen = made.train_indices[:6]
    batch = made.views.batch(made.views.read(chosen), chosen, Progress(0, 2, 0, 3))
    assert set(batch.views) == {"low"}
    assert batch.views["low"].shape[-1] == 16
    made.method.eval()
    terms = made.method(batch, Progress(0, 2))
    with torch.no_grad():
        theirs = load_bundle(teacher).network()(batch.views["low"])
        own = made.method.student(batch.views["low"])
    soft, log = torch.softmax(theirs / 4, 1), torch.log_softmax(own / 4, 1)
    expected = 16 * (soft * (soft.log() - log)).sum(1).mean()
    assert float(terms["kd"].detach()) == pytest.approx(float(expected), rel=1e-3)


def test_the_student_is_not_escalated_to_its_equal(stripes, teacher, tmp_path):
    run = distill(grading(content(stripes, teacher)), tmp_path / "run", seed=1, device="cpu")
    card = load_bundle(run.path).card
    assert card.escalation is None
    assert card.teacher.mpp == 2.0
    assert len(card.seen) == 1  # of both, the same record


def test_a_student_that_starts_as_its_teacher_has_nothing_to_learn(stripes, teacher, tmp_path):
    told = content(stripes, teacher, network=NETWORK | {"init": "teacher"})
    told["augment"] = {"flips": True}
    task = PatchTask(grading(told), seed=5)
    task.load()
    task.build()
    made = Trainer(task, RunDir(tmp_path), team=Team(grading(told), "cpu"))
    task.begin(made)
    chosen = made.train_indices[:6]
    made.method.eval()
    batch = made.views.batch(made.views.read(chosen), chosen, Progress(0, 2, 0, 3))
    terms = made.method(batch, Progress(0, 2))
    assert float(terms["kd"].detach()) == pytest.approx(0, abs=1e-6)
    assert float(terms["fm"].detach()) == pytest.approx(0, abs=1e-3)


def test_killed_and_resumed(stripes, teacher, tmp_path, monkeypatch):
    resumes_to_the_byte(content(stripes, teacher), tmp_path, monkeypatch)


def test_two_processes_train_what_one_does(stripes, teacher, tmp_path):
    two_processes_train_what_one_does(content(stripes, teacher), tmp_path)


def test_a_teacher_of_another_resolution_is_refused(stripes, teacher, tmp_path):
    fine = {"data": {"paths": [str(stripes)], "student_mpp": 4.0}}
    with pytest.raises(ConfigError, match="reads 2 um/px, but with teacher_reads 'low' it is"):
        distill(grading(content(stripes, teacher, **fine)), tmp_path / "run", device="cpu")
    plain = dict.fromkeys(("brightness", "contrast", "saturation", "stain"), 0)
    told = content(stripes, teacher, teacher_cache="ram", augment=plain)
    with pytest.raises(ConfigError, match="the teacher reads what the student reads"):
        distill(grading(told), tmp_path / "other", device="cpu")


def test_a_method_whose_teacher_reads_fine_patches_refuses(stripes, teacher):
    told = content(stripes, teacher, method="hdkd", weights={})
    with pytest.raises(ConfigError, match="is not for method hdkd"):
        parse_settings(told, name="c.yaml")
