"""Several teachers: their mean, what the card keeps, what is refused."""

import json

import numpy as np
import pytest
import torch
import yaml

import wsikd as front_door
from tests.learn.grading import grading
from tests.learn.methods.test_contract import wsikd
from tests.learn.patch.whole_runs import resumes_to_the_byte, two_processes_train_what_one_does
from wsikd.core.errors import CheckpointError, ConfigError, DataError
from wsikd.core.run import RunDir
from wsikd.learn.data.augment import turned
from wsikd.learn.engine.configurations import parse_settings
from wsikd.learn.engine.distributed import Team
from wsikd.learn.engine.train import seed_weights
from wsikd.learn.engine.trainer import Trainer
from wsikd.learn.methods.base import Progress
from wsikd.learn.patch.train import PatchTask, distill
from wsikd.models.files.bundle import load_bundle
from wsikd.models.files.facts import facts

PLAIN = {"brightness": 0, "contrast": 0, "saturation": 0, "stain": 0}
NETWORK = {"arch": "strided_small", "width": 0.5}


pytestmark = pytest.mark.usefixtures("one_thread")


def content(csv, teachers, **more):
    made = {
        "method": "at_plus", "network": NETWORK, "optim": {"epochs": 2, "batch_size": 18},
        "data": {"paths": [str(csv)], "student_mpp": 2.0}, "teacher": [str(t) for t in teachers],
        "weights": {"ce": 1, "kd": 1, "fm": 0.1, "at_plus": 1}, "augment": PLAIN,
    }  # fmt: skip
    return made | more


def teach(csv, folder, seed, **more):
    settings = {
        "method": "supervised", "network": NETWORK, "optim": {"epochs": 2, "batch_size": 18},
        "data": {"paths": [str(csv)]},
    }  # fmt: skip
    distill(grading(settings | more), folder, seed=seed, device="cpu")
    return folder


@pytest.fixture(scope="module")
def teachers(stripes, tmp_path_factory):
    place = tmp_path_factory.mktemp("teachers")
    return [teach(stripes, place / f"t{seed}", seed) for seed in (1, 2)]


def trainer(told, folder):
    settings = grading(told)
    task = PatchTask(settings, seed=5)
    task.load()
    seed_weights(0)
    task.build()
    made = Trainer(task, RunDir(folder), team=Team(settings, "cpu"))
    task.begin(made)
    return made


def mean_of(runs, patches, temperature=4.0):
    """Slow: the mean of the probabilities, patch by patch."""
    found = []
    with torch.no_grad():
        for patch in patches:
            each = [load_bundle(run).network()(patch[None].float())[0] for run in runs]
            soft = [np.exp(z.double().numpy() / temperature) for z in each]
            found.append(sum(s / s.sum() for s in soft) / len(soft))
    return np.array(found)


@pytest.mark.parametrize("cache", ["off", "ram"])
def test_the_soft_label_is_the_mean_of_the_probabilities(stripes, teachers, tmp_path, cache):
    made = trainer(content(stripes, teachers, teacher_cache=cache), tmp_path)
    chosen, at = made.train_indices[:5], Progress(0, 2, 0, 3)
    batch = made.views.batch(made.views.read(chosen), chosen, at)
    turns = torch.zeros(3, 5, dtype=torch.bool)
    if cache == "ram":
        answer = made.views.targets.of(chosen, turns).logits
        high = turned(made.data.images(chosen), turns)
    else:
        high = batch.views["high"]
        answer = made.method.teach(high, box=batch.box).logits
    expected = mean_of(teachers, high)
    assert torch.softmax(answer / 4, 1).numpy() == pytest.approx(expected, rel=1e-4, abs=1e-6)
    made.method.eval()
    own = made.method.student(batch.views["low"]).detach()
    soft = torch.softmax((batch.taught or made.method.teach(high)).logits / 4, 1)
    kd = 16 * (soft * (soft.log() - torch.log_softmax(own / 4, 1))).sum(1).mean()
    found = float(made.method(batch, at)["kd"].detach())
    assert found == pytest.approx(float(kd), rel=1e-4, abs=1e-6)


def test_features_are_those_of_the_first(stripes, teachers, tmp_path):
    terms = []
    for named in (teachers, teachers[:1], teachers[::-1]):
        made = trainer(content(stripes, named, teacher_cache="off"), tmp_path)
        chosen = made.train_indices[:6]
        batch = made.views.batch(made.views.read(chosen), chosen, Progress(0, 2, 0, 3))
        made.method.eval()
        terms.append({k: float(v.detach()) for k, v in made.method(batch, Progress(0, 2)).items()})
    for name in ("ce", "fm", "at_plus"):
        assert terms[0][name] == terms[1][name]
    assert terms[0]["fm"] != terms[2]["fm"]
    assert terms[0]["kd"] == pytest.approx(terms[2]["kd"], rel=1e-6)
    assert terms[0]["kd"] != terms[1]["kd"]


def test_the_card_names_all_of_them(stripes, teachers, tmp_path):
    run = distill(grading(content(stripes, teachers)), tmp_path / "run", seed=1, device="cpu")
    bundle, digests = load_bundle(run.path), [load_bundle(t).sha256 for t in teachers]
    assert [t.sha256 for t in bundle.card.teachers] == digests
    assert bundle.card.teacher.sha256 == bundle.card.escalation["teacher_sha256"] == digests[0]
    assert RunDir(run.path).read_provenance()["teacher_sha256"] == digests
    assert digests[1][:12] in facts(bundle)["teachers"]
    shown = json.loads(wsikd("evaluate", run.path, "--split", "val", "--no-report", "--json"))
    assert shown["teacher"]["mpp"] == 1.0


def test_the_command_takes_several(stripes, teachers, tmp_path):
    file = tmp_path / "c.yaml"
    told = content(stripes, teachers)
    del told["teacher"]
    file.write_text(yaml.safe_dump(told))
    given = [part for t in teachers for part in ("--teacher", t)]
    ask = ("distill", "-c", file, "--data", stripes, *given, "--device", "cpu", "-o")
    told["data"]["paths"] = []
    file.write_text(yaml.safe_dump(told))
    wsikd(*ask, tmp_path / "run")
    assert len(load_bundle(tmp_path / "run").card.teachers) == 2
    assert yaml.safe_load((tmp_path / "run/config.yaml").read_text())["teacher"][0].startswith("..")


def test_another_list_is_refused_on_resuming(stripes, teachers, tmp_path):
    distill(grading(content(stripes, teachers)), tmp_path / "run", seed=1, device="cpu")
    for other in (teachers[:1], teachers[::-1]):
        with pytest.raises(CheckpointError, match="was started with another list of teachers"):
            distill(grading(content(stripes, other)), tmp_path / "run", seed=1, device="cpu",
                    resume=True)  # fmt: skip


def test_answers_are_kept_for_the_list(stripes, teachers, tmp_path):
    kept = tmp_path / "targets"
    told = {"teacher_cache": "disk", "teacher_cache_dir": str(kept)}
    for n, named in enumerate((teachers, teachers[:1], teachers[::-1], teachers)):
        trainer(content(stripes, named, **told), tmp_path / str(n))
    trainer(content(stripes, teachers, **told, kd={"temperature": 2}), tmp_path / "other")
    assert len(list(kept.iterdir())) == 4


def test_killed_and_resumed(stripes, teachers, tmp_path, monkeypatch):
    resumes_to_the_byte(content(stripes, teachers), tmp_path, monkeypatch)


def test_two_processes_train_what_one_does(stripes, teachers, tmp_path):
    two_processes_train_what_one_does(content(stripes, teachers), tmp_path)


def test_each_of_them_is_checked_for_leaks(patches_on_disk, stripes, teachers, tmp_path):
    rows = patches_on_disk.rows(stripes)
    other = stripes.parent / "other.csv"
    swapped = [{**r, "split": "val" if r["slide"] in ("s0", "s1") else "train"} for r in rows]
    patches_on_disk.write_rows(other, swapped)
    leaky = teach(other, tmp_path / "leaky", 3)
    with pytest.raises(DataError, match=r"are in the val part, but teacher .*leaky was trained on"):
        distill(grading(content(stripes, [teachers[0], leaky])), tmp_path / "run", device="cpu")


def test_others_are_refused_in_one_line(stripes, teachers, tmp_path):
    few = teach(
        stripes, tmp_path / "few", 3, data={"paths": [str(stripes)], "classes": ["NC", "G4", "G3"]}
    )
    with pytest.raises(ConfigError, match=r"has the classes NC, G4, G3, but .*t1 has NC, G3, G4"):
        distill(grading(content(stripes, [*teachers, few])), tmp_path / "run", device="cpu")
    told = content(stripes, teachers, weights={"sr_last": 1})
    with pytest.raises(ConfigError, match=r"weights\.sr_last: compares answers of one teacher"):
        distill(grading(told), tmp_path / "run", device="cpu")
    with pytest.raises(ConfigError, match="is named twice"):
        parse_settings(content(stripes, [teachers[0]] * 2), name="c.yaml")
    told = content(stripes, teachers, weights={"kd": 1, "dkd": 1}, kd={"temperature": 2})
    with pytest.raises(ConfigError, match=r"at which teachers are averaged"):
        distill(grading(told), tmp_path / "run", device="cpu")


def test_the_front_door_takes_a_list(stripes, teachers, tmp_path):
    file = tmp_path / "c.yaml"
    told = content(stripes, teachers)
    file.write_text(yaml.safe_dump({k: v for k, v in told.items() if k != "teacher"}))
    run = front_door.distill(file, teacher=teachers, out=tmp_path / "run", device="cpu")
    assert len(load_bundle(run.path).card.teachers) == 2
