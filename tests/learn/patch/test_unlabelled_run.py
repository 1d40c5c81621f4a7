"""Distilling on fields without a label."""

import json
import math

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from wsikd.cli.main import main

from tests.learn.data.test_unlabelled import drop_labels
from tests.learn.grading import grading
from tests.learn.methods.test_contract import wsikd
from tests.learn.patch.whole_runs import (
    epochs,
    resumes_to_the_byte,
    two_processes_train_what_one_does,
)
from wsikd.core.errors import ConfigError, DataError
from wsikd.core.leak_hashes import hashes, seen_hash
from wsikd.core.run import RunDir
from wsikd.learn.data.splits import EXTRA
from wsikd.learn.engine.configurations import parse_settings
from wsikd.learn.engine.distributed import Team
from wsikd.learn.engine.train import seed_weights
from wsikd.learn.engine.trainer import Trainer
from wsikd.learn.losses import maps as losses
from wsikd.learn.losses.logits import decoupled_distillation
from wsikd.learn.methods.base import Progress
from wsikd.learn.patch.train import PatchTask, distill
from wsikd.models.files.bundle import load_bundle

PLAIN = {"brightness": 0, "contrast": 0, "saturation": 0, "stain": 0}
NETWORK = {"arch": "strided_small", "width": 0.5}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def csv(tmp_path_factory, patches_on_disk):
    """Of the training slides s0 and s1 have labels, s2 to s5 none, s6 and s7 are for validation."""
    root = tmp_path_factory.mktemp("partly") / "set"
    made = patches_on_disk.write(root, split=lambda s: "val" if s >= 6 else "train")
    return drop_labels(patches_on_disk, made, lambda r: "s2" <= r["slide"] <= "s5")


@pytest.fixture(scope="module")
def teacher(stripes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "run"
    told = {
        "method": "supervised", "network": NETWORK, "data": {"paths": [str(stripes)]},
        "optim": {"epochs": 4, "batch_size": 18},
    }  # fmt: skip
    distill(grading(told), folder, seed=3, device="cpu")
    return folder


def content(csv, teacher, cache="off", share=0.5, weights=None, **optim):
    return {
        "method": "at_plus", "teacher": str(teacher), "network": NETWORK, "augment": PLAIN,
        "data": {"paths": [str(csv)], "student_mpp": 2.0, "unlabelled": True,
                 "unlabelled_share": share},
        "optim": {"epochs": 2, "batch_size": 18} | optim, "teacher_cache": cache,
        "weights": weights or {"ce": 1, "kd": 1, "fm": 0.1, "at_plus": 0},
    }  # fmt: skip


def trainer(told, folder):
    task = PatchTask(grading(told), seed=5)
    task.load()
    seed_weights(0)
    task.build()
    made = Trainer(task, RunDir(folder), team=Team(grading(told), "cpu"))
    task.begin(made)
    return made


def batch_of(made, chosen):
    return made.views.batch(made.views.read(chosen), chosen, Progress(0, 2, 0, 3))


WEIGHTS = {"ce": 1, "dkd": 1, "kd": 1, "fm": 1, "at_plus": 1, "sp": 1}


def test_terms_of_labels_are_of_the_labelled_patches_alone(csv, teacher, tmp_path):
    made = trainer(content(csv, teacher, weights=WEIGHTS), tmp_path / "run")
    known, extra = made.data.indices("train")[:4], made.data.indices(EXTRA)[:5]
    chosen = np.concatenate([extra[:2], known, extra[2:]])
    made.method.eval()  # so that a patch's logits do not depend on the batch
    terms = made.method(batch_of(made, chosen), Progress(0, 2))
    batch = batch_of(made, chosen)
    assert batch.label.tolist() == [-1, -1, *made.data.label[known], -1, -1, -1]
    own = made.method.student(batch.views["low"])
    theirs = made.method.teacher(batch.views["high"])
    logs = torch.log_softmax(own[2:6], 1)
    slow = -sum(logs[i, made.data.label[k]] for i, k in enumerate(known)) / 4
    assert float(terms["ce"].detach()) == pytest.approx(float(slow.detach()), rel=1e-5)
    parts = decoupled_distillation(own[2:6], theirs[2:6], batch.label[2:6])
    assert float(terms["dkd"].detach()) == pytest.approx(float(parts.detach()), rel=1e-5)
    soft, log = torch.softmax(theirs / 4, 1), torch.log_softmax(own / 4, 1)
    kd = 16 * (soft * (soft.log() - log)).sum(1).mean()  # of all nine
    assert float(terms["kd"].detach()) == pytest.approx(float(kd.detach()), rel=1e-4)


def test_labels_of_other_patches_would_change_nothing(csv, teacher, tmp_path):
    made = trainer(content(csv, teacher, weights=WEIGHTS), tmp_path / "run")
    chosen = np.concatenate([made.data.indices(EXTRA)[:3], made.data.indices("train")[:3]])
    made.method.eval()
    one = made.method(batch_of(made, chosen), Progress(0, 2))
    bare = batch_of(made, chosen[:3])
    found = made.method(bare, Progress(0, 2))
    assert float(found["ce"].detach()) == float(found["dkd"].detach()) == 0.0
    found["ce"].backward()  # of nothing, but defined
    head = made.method.student.head.weight.grad
    assert torch.equal(head, torch.zeros_like(head))
    assert all(math.isfinite(float(v.detach())) for v in one.values())


def test_every_batch_has_its_share_and_the_teacher_s_classes(csv, teacher, tmp_path):
    made = trainer(content(csv, teacher, share=2 / 3), tmp_path / "run")
    made.epoch = 1
    order = made.task.order(made)
    parts = made.data.split[order].reshape(-1, 18)
    assert ((parts == EXTRA).sum(1) == 12).all()
    assert set(parts.ravel()) == {"train", EXTRA}
    extra = made.data.indices(EXTRA)
    expected = made.task.teacher.network()(made.data.images(extra).float()).argmax(1)
    assert made.task.extra_classes.tolist() == expected.tolist()
    drawn = order[made.data.split[order] == EXTRA]
    place = {int(i): n for n, i in enumerate(extra)}
    counts = np.bincount([made.task.extra_classes[place[int(i)]] for i in drawn])
    counts = counts[counts > 0]
    assert counts.max() - counts.min() <= 1


def test_kept_answers_cover_them(csv, teacher, tmp_path):
    for cache in ("off", "ram"):
        distill(grading(content(csv, teacher, cache)), tmp_path / cache, seed=2, device="cpu")
    for one, two in zip(epochs(tmp_path / "off"), epochs(tmp_path / "ram"), strict=True):
        assert two["raw"] == pytest.approx(one["raw"], rel=1e-3)
    frozen = content(csv, teacher, "ram") | {"frozen_cache": "ram"}
    frozen["network"] = NETWORK | {"freeze": 1}
    distill(grading(frozen), tmp_path / "frozen", seed=2, device="cpu")


def test_the_card_lists_their_slides_as_trained_on(csv, teacher, tmp_path, patches_on_disk):
    distill(grading(content(csv, teacher)), tmp_path / "run", seed=2, device="cpu")
    bundle = load_bundle(tmp_path / "run")
    own = bundle.card.seen[0]
    known = hashes(own["train"]["names"])
    assert all(seen_hash(f"slide s{i}", own["salt"]) in known for i in range(6))
    assert seen_hash("slide s6", own["salt"]) not in known
    other = patches_on_disk.write(tmp_path / "other", slides=5, seed=8)
    rows = [r for r in patches_on_disk.rows(other) if r["slide"] in ("s3", "s4")]
    patches_on_disk.write_rows(other, rows)
    asked = ["evaluate", tmp_path / "run/student", "--data", other, "--split", "test"]
    refused = CliRunner().invoke(main, list(map(str, asked)))
    assert refused.exit_code == 2
    assert "was trained on a slide or patient of that name" in refused.output


def test_a_share_of_the_labels_equals_a_table_without_the_others(stripes, teacher, tmp_path):
    """Labels that split.share leaves out are not read anywhere."""
    told = content(stripes, teacher) | {"split": {"share": 0.34}}
    run = distill(grading(told), tmp_path / "share", seed=2, device="cpu")
    task = PatchTask(grading(told), seed=5)
    task.load()
    extra = {task.data.slide[i] for i in task.data.indices(EXTRA)}
    from tests.learn.conftest import read_rows, write_rows

    rows = read_rows(stripes)
    for row in rows:
        row["image"] = str(stripes.parent / "images" / row["image"])
        if row["slide"] in extra:
            row["label"] = row["class"] = ""
    write_rows(tmp_path / "labels.csv", rows)
    bare = distill(
        grading(content(tmp_path / "labels.csv", teacher)), tmp_path / "bare", seed=2, device="cpu"
    )
    assert [r["raw"] for r in epochs(run.path)] == [r["raw"] for r in epochs(bare.path)]


def test_killed_and_resumed(csv, teacher, tmp_path, monkeypatch):
    whole, _ = resumes_to_the_byte(content(csv, teacher), tmp_path, monkeypatch)
    scored = json.loads(wsikd("evaluate", whole, "--no-report", "--json"))
    assert scored["patches"] == 18


def test_two_processes_train_what_one_does(csv, teacher, tmp_path):
    """Their parts of a batch hold 4 and 5 labelled patches."""
    told = content(csv, teacher, weights={"ce": 1, "dkd": 1, "kd": 1})
    two_processes_train_what_one_does(told, tmp_path, ("raw", "val"))


def test_a_mean_over_labelled_patches_weighs_processes_by_their_number(monkeypatch):
    """Two processes with 1 and 3 labelled patches of 4; the mean of their slopes is the whole's."""
    logits = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    label = torch.tensor([-1, 2, -1, -1, 0, 1, -1, 1])
    losses.cross_entropy(logits[label >= 0], label[label >= 0]).backward()
    whole, logits.grad = logits.grad.clone(), None
    monkeypatch.setattr(losses, "over_processes", lambda count: torch.tensor(2.0))
    total = torch.zeros(())
    for part in (slice(0, 4), slice(4, 8)):
        found = losses.on_labelled(losses.cross_entropy, label[part], logits[part])
        total = total + found / 2
    total.backward()
    torch.testing.assert_close(logits.grad, whole)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"method": "supervised", "teacher": None, "weights": {}}, "learns from labels alone"),
        ({"weights": {"ce": 1, "fm": 0, "at_plus": 0}}, "needs a term without labels"),
        ({"weights": {"kd": 1, "at_grad": 1}}, "no at_grad"),
        ({"optim": {"balance": "frozen_pool"}}, "frozen_pool"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(csv, teacher, change, fault):
    told = content(csv, teacher) | change
    if change.get("method"):
        told["data"].pop("student_mpp")
    with pytest.raises(ConfigError, match=fault):
        parse_settings(told, name="c.yaml")


def test_data_without_such_fields_train_as_before(stripes, teacher, tmp_path):
    plain = content(stripes, teacher)
    plain["data"]["unlabelled"] = False
    runs = {"asked": content(stripes, teacher), "plain": plain}
    for name, told in runs.items():
        distill(grading(told), tmp_path / name, seed=2, device="cpu")
    one, two = (epochs(tmp_path / name) for name in runs)
    assert [r["raw"] for r in one] == [pytest.approx(r["raw"], rel=1e-6) for r in two]


def test_a_teacher_that_saw_the_validation_part_is_refused(csv, tmp_path, patches_on_disk):
    swapped = patches_on_disk.write(tmp_path / "set", split=lambda s: "val" if s < 2 else "train")
    other = {
        "method": "supervised", "network": NETWORK, "data": {"paths": [str(swapped)]},
        "optim": {"epochs": 1, "batch_size": 9},
    }  # fmt: skip
    distill(grading(other), tmp_path / "t", seed=3, device="cpu")
    with pytest.raises(DataError, match="but the teacher was trained"):
        distill(grading(content(csv, tmp_path / "t")), tmp_path / "run", seed=2, device="cpu")
