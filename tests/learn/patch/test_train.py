import json
import math
import os
import shutil
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from pydantic import ValidationError
from scipy.special import softmax
from sklearn.metrics import cohen_kappa_score

from tests.learn.grading import grading
from wsikd.core.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    NonFiniteLossError,
    OutputError,
)
from wsikd.core.run import RunDir
from wsikd.learn.data.augment import augment
from wsikd.learn.data.patches import PatchSet, load_patches
from wsikd.learn.data.source_base import FileSource
from wsikd.learn.engine import checkpoints
from wsikd.learn.engine.distributed import Team
from wsikd.learn.engine.settings import Optim
from wsikd.learn.engine.trainer import Trainer
from wsikd.learn.losses.maps import downsample
from wsikd.learn.methods.base import Progress
from wsikd.learn.patch import export as finish
from wsikd.learn.patch.build import build_method, build_student, open_teachers
from wsikd.learn.patch.settings import Augment, RunConfig, load_grading
from wsikd.learn.patch.train import PatchTask, distill
from wsikd.learn.score import predict_patches as evaluate
from wsikd.learn.score.predict_patches import evaluate_bundle
from wsikd.models.files.bundle import load_bundle
from wsikd.slides.appearance import STATISTICS, Appearance, field_statistics

pytestmark = pytest.mark.usefixtures("one_thread")


def config(csv, method="supervised", teacher=None, **changes):
    base = {
        "method": method,
        "network": {"width": 0.25},
        "data": {"paths": [str(csv)], **({"student_mpp": 2.0} if teacher else {})},
        "optim": {"epochs": 4, "batch_size": 16, "lr": 3e-3},
    }
    if teacher:
        base["teacher"] = str(teacher)
    for key, value in changes.items():
        base[key] = base.get(key, {}) | value if isinstance(value, dict) else value
    return grading(base)


@pytest.fixture(scope="module")
def teacher(stripes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "run"
    distill(config(stripes, optim={"epochs": 8}), folder, seed=1, device="cpu")
    return folder


@pytest.fixture(scope="module")
def student(stripes, teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("student") / "run"
    distill(config(stripes, "at_plus", teacher), folder, seed=1, device="cpu")
    return folder


def trainer(settings, folder):
    task = PatchTask(settings, seed=3)
    task.load()
    student = build_student(settings, task.data, task.teacher)
    task.method = build_method(settings, student, task.teachers, task.data.classes)
    return Trainer(task, RunDir(folder), team=Team(settings, "cpu"))


def rows(run):
    """Lines of metrics.jsonl but for their timing."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("seconds", "waiting")} for row in lines]


def test_run_folder_holds_what_it_promises(student, teacher, stripes):
    names = {"config.yaml", "provenance.json", "metrics.jsonl", "metrics.csv", "log.txt"}
    names |= {"checkpoints", "student"}
    assert {p.name for p in student.iterdir()} == names
    assert {p.name for p in (student / "checkpoints").iterdir()} == {"last.ckpt", "best.ckpt"}
    used = {"precision": "32-true"}  # what "auto" stood for
    assert load_grading(student / "config.yaml") == config(stripes, "at_plus", teacher, optim=used)
    made = json.loads((student / "provenance.json").read_text())
    assert (made["seed"], made["device"]) == (1, "cpu")
    assert "epoch 4/4" in (student / "log.txt").read_text()
    *epochs, final = rows(student)
    assert [r["epoch"] for r in epochs] == [1, 2, 3, 4]
    assert set(epochs[0]["raw"]) == {"ce", "fm", "at_plus"}
    for row in epochs:
        weights = {"ce": 1.0, "fm": 0.1, "at_plus": 10.0}
        for name, value in row["weighted"].items():
            assert value == pytest.approx(weights[name] * row["raw"][name])
        assert row["loss"] == pytest.approx(sum(row["weighted"].values()))
    assert final["event"] == "final"


def test_card_and_bundle_agree_with_the_best_epoch(student, teacher, stripes):
    bundle = load_bundle(student)
    assert (bundle.spec.mpp, bundle.spec.patch_px) == (2.0, 16)
    assert bundle.spec.classes == ("NC", "G3", "G4")
    assert bundle.card.teacher.sha256 == load_bundle(teacher).sha256
    patches = load_patches(config(stripes).data, config(stripes).split)
    scored = evaluate_bundle(bundle, patches, split="val")
    assert scored == {k: bundle.card.metrics[k] for k in scored}
    epochs = rows(student)[:-1]
    ranked = max(epochs, key=lambda r: (r["val"]["kappa"], -r["val"]["loss"]))
    assert bundle.card.training.best_epoch == ranked["epoch"]
    assert scored["kappa"] == pytest.approx(ranked["val"]["kappa"])
    assert bundle.card.min_area_mm2 == 0.0  # files do not say whether they overlap


@pytest.mark.parametrize("select", ["accuracy", "auc", "loss"])
def test_an_epoch_is_chosen_by_what_the_configuration_names(stripes, tmp_path, select):
    run = distill(config(stripes, optim={"select": select}), tmp_path / "run", seed=3, device="cpu")
    epochs = [row for row in rows(run.path) if "epoch" in row]
    sign = -1 if select == "loss" else 1
    ranked = max(epochs, key=lambda r: (sign * r["val"][select], -r["val"]["loss"]))
    assert run.best_epoch == ranked["epoch"]
    assert RunDir(run.path).read_provenance()["select"] == select


def test_without_an_order_there_is_no_quadratic_kappa(stripes, tmp_path):
    run = distill(config(stripes, data={"ordered": False}), tmp_path / "run", seed=3, device="cpu")
    epochs = [row for row in rows(run.path) if "epoch" in row]
    ranked = max(epochs, key=lambda r: (r["val"]["balanced_accuracy"], -r["val"]["loss"]))
    assert run.best_epoch == ranked["epoch"]
    assert run.metrics["kappa_weights"] == "none"
    assert run.over_colour.metric == "balanced_accuracy"
    assert "unweighted kappa" in run.text()
    assert "so optimistic" in run.text()
    assert load_bundle(run.bundle).card.metrics["selected"] == finish.SELECTED


def test_a_run_of_0_1_0_is_resumed_with_its_own_choice(stripes, tmp_path):
    settings, folder = config(stripes, data={"ordered": False}), tmp_path / "run"
    distill(settings, folder, seed=3, device="cpu")
    run = RunDir(folder)
    made = run.read_provenance()
    assert made.pop("select") == "balanced_accuracy"
    run.provenance_file.write_text(json.dumps(made))
    task = PatchTask(settings, seed=3)
    task.load(resumed=run)
    assert task.score == "kappa"


def test_the_card_tells_what_asking_the_teacher_brings(student, teacher, stripes):
    card = load_bundle(student).card
    found, patches = card.escalation, load_patches(config(stripes).data, config(stripes).split)
    val = patches.indices("val")
    assert (found["teacher_sha256"], found["split"]) == (load_bundle(teacher).sha256, "val")
    assert (found["fields"], found["slides"]) == (len(val), 2)
    logits, theirs = (
        evaluate.predict(b.network(), patches, val, mpp=b.spec.mpp)
        for b in map(load_bundle, (student, teacher))
    )
    doubts = 1 - softmax(logits / card.temperature, axis=1).max(1)
    thresholds = found["curve"]["threshold"]
    # A threshold is a field's doubt. Where a second field has it too, the last bit decides.
    alone = [n for n, t in enumerate(thresholds) if (abs(doubts - t) < 2e-6).sum() == 1]
    assert len(alone) > len(thresholds) / 2
    for place in alone:
        again = doubts >= thresholds[place] - 2e-6
        assert found["curve"]["share"][place] == pytest.approx(again.mean())
        merged = np.where(again, theirs.argmax(1), logits.argmax(1))
        same = (merged == theirs.argmax(1)).mean()
        assert found["curve"]["agreement"][place] == pytest.approx(same)
        with_labels = cohen_kappa_score(patches.label[val], merged, weights="quadratic")
        assert found["curve"]["truth_kappa"][place] == pytest.approx(with_labels)
    assert load_bundle(teacher).card.escalation is None


def test_evaluation_refuses_what_does_not_fit(student, stripes):
    bundle = load_bundle(student)
    given = config(stripes, data={"classes": ["x", "y", "z"]})
    with pytest.raises(DataError, match="the network's are NC, G3, G4"):
        evaluate_bundle(bundle, load_patches(given.data, given.split))
    coarse = config(stripes, data={"mpp": 4.0})
    with pytest.raises(DataError, match="4 is coarser than the network's 2"):
        evaluate_bundle(bundle, load_patches(coarse.data, coarse.split))
    patches = load_patches(config(stripes).data, config(stripes).split)
    with pytest.raises(DataError, match="no test patches"):
        evaluate_bundle(bundle, patches, split="test")


class Killed(BaseException):
    pass


def kill_in_step(monkeypatch):
    step = Trainer._step

    def dying(self, images, indices, at, *more):
        if at.epoch == 2 and at.step == 1:
            raise Killed
        return step(self, images, indices, at, *more)

    monkeypatch.setattr(Trainer, "_step", dying)


def kill_before_checkpoint(monkeypatch):
    save = Trainer._save

    def dying(self, name, state):
        if name == "last.ckpt" and state["epoch"] == 3:
            raise Killed  # the metrics of epoch 3 are written, its checkpoint is not
        save(self, name, state)

    monkeypatch.setattr(Trainer, "_save", dying)


def kill_at_the_end(monkeypatch):
    def dying(*args, **options):
        raise Killed

    monkeypatch.setattr(finish, "save_bundle", dying)


@pytest.mark.parametrize("kill", [kill_in_step, kill_before_checkpoint, kill_at_the_end])
@pytest.mark.parametrize("method", ["supervised", "at_plus"])
def test_killed_and_resumed_equals_unbroken(
    kill, method, stripes, teacher, student, tmp_path, monkeypatch
):
    settings = config(stripes, method, teacher if method == "at_plus" else None)
    if method == "at_plus":
        whole = student
    else:
        whole = tmp_path / "whole"
        distill(settings, whole, seed=1, device="cpu")
    with monkeypatch.context() as patch:
        kill(patch)
        with pytest.raises(Killed):
            distill(settings, tmp_path / "run", seed=1, device="cpu")
    torch.manual_seed(99)  # what the process drew before must not matter
    left = tmp_path / "run/checkpoints/last.ckpt.123.part"
    left.write_bytes(b"half")
    distill(settings, tmp_path / "run", seed=1, device="cpu", resume=True)
    assert not left.exists()
    assert rows(tmp_path / "run") == rows(whole)
    assert load_bundle(tmp_path / "run").sha256 == load_bundle(whole).sha256


def test_projections_are_resumed_with_the_student(stripes, teacher, tmp_path, monkeypatch):
    settings = config(
        stripes, "at_plus", teacher,
        network={"width": 0.5}, taps={"project": True},
        weights={"fm": 1.0, "at_plus": 0.0, "sr_spatial": 0.1, "kd": 1.0},
    )  # fmt: skip
    distill(settings, tmp_path / "whole", seed=1, device="cpu")
    assert set(rows(tmp_path / "whole")[0]["raw"]) == {"ce", "fm", "kd", "sr_spatial"}
    with monkeypatch.context() as patch:
        kill_in_step(patch)
        with pytest.raises(Killed):
            distill(settings, tmp_path / "run", seed=1, device="cpu")
    distill(settings, tmp_path / "run", seed=1, device="cpu", resume=True)
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")
    assert "helpers" not in "".join(load_bundle(tmp_path / "run").weights)


def test_resume_refuses_another_run(stripes, tmp_path, patches_on_disk):
    run, settings = tmp_path / "run", config(stripes, optim={"epochs": 1})
    distill(settings, run, device="cpu")
    with pytest.raises(OutputError, match="give --resume"):
        distill(settings, run, device="cpu")
    with pytest.raises(OutputError, match=r"another 'optim\.lr'"):
        distill(config(stripes, optim={"epochs": 1, "lr": 1.0}), run, device="cpu", resume=True)
    before = rows(run)
    distill(settings, run, device="cpu", resume=True)  # finished: only its bundle again
    assert rows(run) == before
    assert len(json.loads((run / "provenance.json").read_text())["resumed"]) == 1
    for name in ("best.ckpt", "last.ckpt"):
        (run / "checkpoints" / name).write_bytes(b"torn")
        with pytest.raises(CheckpointError, match="cannot be read") as caught:
            distill(settings, run, device="cpu", resume=True)
        assert caught.value.subject.endswith(name)
        assert "checkpoints/last.ckpt and checkpoints/best.ckpt" in caught.value.remedy
    for file in (run / "checkpoints").iterdir():
        file.unlink()  # as the remedy says
    distill(settings, run, device="cpu", resume=True)
    assert rows(run) == before


def test_resume_refuses_another_teacher(stripes, teacher, tmp_path):
    place, run = tmp_path / "teacher", tmp_path / "run"
    shutil.copytree(teacher / "student", place)
    settings = config(stripes, "at_plus", place, optim={"epochs": 1})
    distill(settings, run, device="cpu")
    made = json.loads((run / "provenance.json").read_text())
    assert made["teacher_sha256"] == load_bundle(place).sha256
    shutil.rmtree(place)
    distill(config(stripes, optim={"epochs": 1}), tmp_path / "other", seed=7, device="cpu")
    shutil.copytree(tmp_path / "other" / "student", place)
    with pytest.raises(CheckpointError, match="another teacher; give the same --teacher"):
        distill(settings, run, device="cpu", resume=True)
    assert json.loads((run / "provenance.json").read_text()) == made


def test_resume_refuses_other_data(tmp_path, patches_on_disk):
    csv = patches_on_disk.write(tmp_path / "set", split=lambda s: "val" if s >= 6 else "train")
    settings = config(csv, optim={"epochs": 1})
    distill(settings, tmp_path / "run", device="cpu")
    patches_on_disk.write_rows(csv, patches_on_disk.rows(csv)[:-1])
    with pytest.raises(CheckpointError, match="was made with other data"):
        distill(settings, tmp_path / "run", device="cpu", resume=True)


def test_the_test_split_is_never_decoded(tmp_path, patches_on_disk, monkeypatch):
    def part(s):
        return {6: "val", 7: "test"}.get(s, "train")

    csv = patches_on_disk.write(tmp_path / "set", split=part)
    read, seen = FileSource.read, set()

    def watched(self, row):
        seen.add(self.listing.slide[row])
        return read(self, row)

    monkeypatch.setattr(FileSource, "read", watched)
    for memory in (1.0, 0.0):
        settings = config(csv, data={"cache_gb": memory}, optim={"epochs": 1})
        distill(settings, tmp_path / f"run{memory}", device="cpu")
    assert seen == {f"s{i}" for i in range(7)}
    assert rows(tmp_path / "run1.0") == rows(tmp_path / "run0.0")


def test_a_term_that_is_not_finite_is_named(stripes, teacher, tmp_path, monkeypatch):
    from wsikd.learn.losses import maps as losses

    matching, calls = losses.feature_matching, []

    def breaking(student, target):
        calls.append(1)
        value = matching(student, target)
        return value * math.nan if len(calls) > 5 else value  # three steps an epoch

    monkeypatch.setattr(losses, "feature_matching", breaking)
    with pytest.raises(NonFiniteLossError, match=r"'fm': is nan in epoch 2, step 3.* epoch 1$"):
        distill(config(stripes, "at_plus", teacher), tmp_path / "run", device="cpu")
    state = checkpoints.load(tmp_path / "run/checkpoints/last.ckpt", torch.device("cpu"))
    assert state["epoch"] == 1
    assert all(torch.isfinite(v).all() for v in state["student"].values())


def test_a_rate_that_explodes_stops(stripes, tmp_path):
    settings = config(stripes, optim={"lr": 1e30, "warmup_epochs": 0})
    with pytest.raises(NonFiniteLossError, match=r"lower optim\.lr.*; no epoch is kept"):
        distill(settings, tmp_path / "run", device="cpu")
    assert not list((tmp_path / "run/checkpoints").iterdir())


def test_teachers_that_do_not_fit_are_refused(stripes, teacher, tmp_path):
    def run(settings):
        distill(settings, tmp_path / "run", device="cpu")

    with pytest.raises(ConfigError, match="pass --teacher"):
        run(config(stripes, "at_plus"))
    with pytest.raises(ConfigError, match="2 is not the teacher's 1 um/px"):
        run(config(stripes, "at_plus", teacher, data={"mpp": 2.0, "student_mpp": 4.0}))
    with pytest.raises(ConfigError, match="the teacher's are NC, G3, G4"):
        run(config(stripes, "at_plus", teacher, data={"classes": ["a", "b", "c"]}))
    with pytest.raises(ConfigError, match="do not divide by 3"):
        run(config(stripes, "at_plus", teacher, data={"student_mpp": 3.0}))
    with pytest.raises(ConfigError, match=r"the teacher is vgg_small of width 0\.25"):
        run(config(stripes, "at_plus", teacher, network={"width": 0.5, "init": "teacher"}))
    with pytest.raises(ConfigError, match=r"leaves 4 px of a patch.*network\.drop_pools"):
        run(config(stripes, "at_plus", teacher, data={"student_mpp": 8.0}))
    assert not (tmp_path / "run").exists()


def test_a_student_can_start_from_its_teacher(stripes, teacher):
    settings = config(stripes, "at_plus", teacher, network={"init": "teacher"})
    (bundle,) = open_teachers(settings)
    patches = load_patches(settings.data, settings.split)
    started = build_student(settings, patches, bundle).state_dict()
    assert all(torch.equal(started[k], v) for k, v in bundle.weights.items())


def test_teacher_and_student_of_a_seed_start_apart(stripes, teacher, student, tmp_path):
    """Else feature matching would begin near its goal; students of a seed do start alike."""
    still = {"epochs": 1, "epoch_patches": 16, "lr": 1e-30, "warmup_epochs": 0, "weight_decay": 0}
    runs = {
        "teacher": config(stripes, optim=still),
        "ce": config(stripes, optim=still, data={"student_mpp": 2.0}),
        "fm": config(stripes, "at_plus", teacher, optim=still),
    }
    first = {}
    for name, settings in runs.items():
        distill(settings, tmp_path / name, seed=1, device="cpu")
        bundle = load_bundle(tmp_path / name)
        first[name] = bundle.weights["backbone.stages.F1.0.weight"]
        made = bundle.card.training
        assert made.init_stream == ("teacher" if name == "teacher" else "student")
    assert torch.equal(first["ce"], first["fm"])
    theirs, own = first["teacher"].flatten(), first["ce"].flatten()
    assert torch.corrcoef(torch.stack([theirs, own]))[0, 1].abs() < 0.3


@pytest.mark.parametrize("student_input", ["half", "upsampled"])
def test_enlarged_student_in_bfloat16(student_input, stripes, teacher, tmp_path):
    settings = config(
        stripes, "at_plus", teacher,
        student_input=student_input, data={"student_mpp": 4.0},
        optim={"epochs": 1, "precision": "bf16-mixed"},
    )  # fmt: skip
    distill(settings, tmp_path / "run", device="cpu")
    spec = load_bundle(tmp_path / "run").spec
    assert (spec.patch_px, spec.upsample) == (8, {"half": 2, "upsampled": 4}[student_input])


def test_adam_takes_the_step_of_its_paper(stripes, tmp_path):
    """The first step of Adam moves every weight by the rate, against its gradient's sign."""
    settings = config(
        stripes,
        optim={"name": "adam", "epochs": 1, "epoch_patches": 16, "lr": 1e-3, "warmup_epochs": 0,
               "schedule": "constant", "weight_decay": 0},
    )  # fmt: skip
    patches = load_patches(settings.data, settings.split)
    torch.manual_seed(0)
    before = build_student(settings, patches, None).state_dict()["head.weight"].clone()
    distill(settings, tmp_path / "run", seed=0, device="cpu", data=patches)
    after = load_bundle(tmp_path / "run").weights["head.weight"]
    moved = (after - before).abs()
    assert moved.max() <= 1e-3 * (1 + 1e-3)
    assert moved.median() == pytest.approx(1e-3, rel=1e-2)


def test_a_held_run_ends_when_validation_is_flat(stripes, tmp_path):
    optim = {
        "epochs": 1,
        "warmup_epochs": 0,
        "hold_epochs": 20,
        "patience": 3,
        "lr": 1e-9,
        "lr_end": 1e-9,
    }
    optim |= {"epoch_patches": 16}
    found = distill(config(stripes, optim=optim), tmp_path / "run", seed=1, device="cpu")
    done = [row for row in rows(tmp_path / "run") if "epoch" in row]
    assert 4 <= len(done) == found.best_epoch + 3 < 21
    with pytest.raises(ValidationError, match="set patience"):
        Optim(hold_epochs=1)
    with pytest.raises(ValidationError, match="set lr_end"):
        Optim(hold_epochs=1, patience=2)


def test_at_plus_keeps_up_with_cross_entropy_where_the_cue_survives(tmp_path, patches_on_disk):
    """A guard against regressions, not a claim: the cue survives averaging by two."""
    split = {"split": lambda s: "val" if s >= 6 else "train", "side": 64, "per_slide": 12}
    csv = patches_on_disk.write(tmp_path / "set", slides=12, **split)
    longer = {"epochs": 7}
    distill(config(csv, optim=longer), tmp_path / "t", device="cpu")
    kappa = {}
    for method in ("supervised", "at_plus"):
        settings = config(
            csv, method, tmp_path / "t" if method == "at_plus" else None,
            data={"student_mpp": 2.0}, student_input="upsampled", optim=longer,
        )  # fmt: skip
        result = distill(settings, tmp_path / method, device="cpu")
        kappa[method] = result.metrics["kappa"]
    assert kappa["at_plus"] >= kappa["supervised"] - 0.02
    assert kappa["at_plus"] > 0.9
    assert result.over_colour.colour < 0.4


def config_files():
    root = resources.files("wsikd.configs")
    return [
        f"{d.name}/{f.name}"
        for d in root.iterdir() if d.is_dir()
        for f in d.iterdir() if f.name.endswith(".yaml") and "method:" in f.read_text()
    ]  # fmt: skip


def test_every_configuration_loads():
    names = config_files()
    assert {"at_plus/1_teacher.yaml", "at_plus/2_student.yaml"} <= set(names)
    for name in names:
        if name.startswith(("hdkd/", "mil/", "slpd/", "ts2g/")):
            continue  # see tests/test_contracts.py
        with resources.as_file(resources.files("wsikd.configs") / name) as path:
            loaded = load_grading(path)
        assert loaded.data.mpp == 1.0
        assert (loaded.low_mpp == 4.0) == (loaded.method == "at_plus")


def test_template_spells_out_defaults_or_says_otherwise():
    """What the teacher's template shows is what a user gets by leaving it out."""
    root = resources.files("wsikd.configs") / "at_plus"
    shown = yaml.safe_load((root / "1_teacher.yaml").read_text())
    full = grading(shown).model_dump()
    assert full == RunConfig(method="supervised").model_dump()


@pytest.fixture
def real_patches():
    root = os.environ.get("WSIKD_TEST_DATA")
    if not root:
        pytest.skip("WSIKD_TEST_DATA names no folder of real data")
    folder = Path(root) / "patches" / "prostate_gleason_10x"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not a folder")
    return folder


def test_real_patches_train_teacher_and_student(real_patches, tmp_path, patches_on_disk):
    """Every twenty-fourth patch; the whole set takes minutes."""
    rows = patches_on_disk.rows(real_patches / "labels.csv")[::24]
    for row in rows:
        row["image"] = str(real_patches / "images" / row["image"])
    csv = tmp_path / "labels.csv"
    patches_on_disk.write_rows(csv, rows)
    small = {"epochs": 1, "epoch_patches": 32, "warmup_epochs": 0}
    distill(config(csv, optim=small), tmp_path / "t", device="cpu")
    given = config(csv, "at_plus", tmp_path / "t", data={"student_mpp": 4.0}, optim=small)
    result = distill(given, tmp_path / "s", device="cpu")
    bundle = load_bundle(tmp_path / "s")
    assert (bundle.spec.mpp, bundle.spec.patch_px) == (4.0, 64)
    assert bundle.spec.classes == ("benign", "gleason3", "gleason4")
    assert result.metrics["patches"] == sum(r["split"] == "val" for r in rows)
    assert result.over_colour.colour > 0.2  # colour does tell on this set, as on many


def test_moved_data_and_teacher_are_the_same_run(stripes, teacher, student, tmp_path):
    run, set_, other = (tmp_path / name for name in ("run", "set", "teacher"))
    shutil.copytree(student, run)
    shutil.copytree(stripes.parent, set_)
    shutil.copytree(teacher, other)
    settings = config(set_ / stripes.name, "at_plus", other)
    distill(settings, run, seed=1, device="cpu", resume=True)
    assert rows(run)[:-1] == rows(student)[:-1]


def test_the_card_keeps_temperature_stain_and_focus(student, stripes):
    bundle = load_bundle(student)
    assert bundle.temperature == bundle.card.calibration.temperature > 0
    kept = Appearance.from_card(bundle.card.appearance)
    assert (kept.slides, kept.fields) == (6, 54)
    patches = load_patches(config(stripes).data, config(stripes).split)
    rows = []
    for index in patches.indices("train"):
        high = patches.read(int(index)).numpy().astype(float)
        low = high.reshape(3, high.shape[1] // 2, 2, -1, 2).mean((2, 4)).round()
        rows.append(field_statistics(low.transpose(1, 2, 0).astype(np.uint8).copy()))
    saturation = np.array(rows)[:, list(STATISTICS).index("saturation")]
    expected = np.quantile(saturation, (0.05, 0.5, 0.95), method="inverted_cdf")
    assert kept.quantiles["saturation"] == pytest.approx(tuple(expected), abs=0.01)


def test_patience_stops_after_so_many_epochs_without_gain(stripes, tmp_path):
    settings = config(stripes, optim={"epochs": 30, "patience": 2, "lr": 1e-9})
    found = distill(settings, tmp_path / "run", seed=1, device="cpu")
    done = [row for row in rows(tmp_path / "run") if "epoch" in row]
    kappas = [row["val"]["kappa"] for row in done]
    assert len(done) == found.best_epoch + 2 < 30
    best = found.best_epoch - 1
    assert max(kappas) == kappas[best]
    losses = [row["val"]["loss"] for row in done]
    assert not any(
        kappas[i] == kappas[best] and losses[i] < losses[best] for i in range(best + 1, len(done))
    )


def test_a_run_that_patience_ended_stays_ended(stripes, tmp_path):
    settings = config(stripes, optim={"epochs": 30, "patience": 2, "lr": 1e-9})
    distill(settings, tmp_path / "run", seed=1, device="cpu")
    before = [row for row in rows(tmp_path / "run") if "epoch" in row]
    distill(settings, tmp_path / "run", seed=1, device="cpu", resume=True)
    assert [row for row in rows(tmp_path / "run") if "epoch" in row] == before


@pytest.mark.parametrize("method", ["supervised", "at_plus"])
def test_averages_in_memory_are_the_averages_of_the_step(stripes, teacher, tmp_path, method):
    """Only turned: the kept averages give the very same views, so the very same losses."""
    plain = {"brightness": 0, "contrast": 0, "saturation": 0, "stain": 0}
    found = {}
    for name, limit in (("kept", 4.0), ("made", 0.0)):
        settings = config(
            stripes, method, teacher if method == "at_plus" else None, augment=plain,
            data={"student_mpp": 2.0, "cache_gb": limit}, optim={"epochs": 2},
        )  # fmt: skip
        distill(settings, tmp_path / name, seed=1, device="cpu")
        found[name] = [row for row in rows(tmp_path / name) if "epoch" in row]
    assert found["kept"] == found["made"]


def test_patches_that_do_not_fit_are_decoded_once_for_their_averages(
    stripes, tmp_path, monkeypatch
):
    """Averages in float32 need a quarter of the memory: epochs then read no patch."""
    plain = {"brightness": 0, "contrast": 0, "saturation": 0, "stain": 0}
    patches = load_patches(*(config(stripes).data, config(stripes).split))
    used = int(np.isin(patches.split, ("train", "val")).sum())
    limit = used * 3 * patches.patch_px**2 * 0.5 / 1e9
    read, decode = [], PatchSet.read
    monkeypatch.setattr(PatchSet, "read", lambda self, i: read.append(i) or decode(self, i))
    counts, digests = [], []
    for number, (epochs, size) in enumerate(((1, limit), (3, limit), (3, 4.0))):
        settings = config(
            stripes, augment=plain, data={"student_mpp": 4.0, "cache_gb": size},
            optim={"epochs": epochs}, network={"drop_pools": 1},
        )  # fmt: skip
        read.clear()
        distill(settings, tmp_path / str(number), seed=1, device="cpu")
        counts.append(len(read))
        digests.append(load_bundle(tmp_path / str(number)).sha256)
    assert counts[0] == counts[1] > counts[2]
    assert digests[1] == digests[2]


def test_colours_of_the_student_leave_the_teachers_view(stripes, teacher, tmp_path):
    changed = {"stain": 0.3, "brightness": 0.3, "rotate_deg": 20}
    seen = {}
    for whose in ("both", "student"):
        settings = config(stripes, "at_plus", teacher, augment=changed | {"colour_of": whose})
        made = trainer(settings, tmp_path / whose)
        chosen = made.train_indices[:4]
        images = made.data.images(chosen)
        seen[whose] = made.views.batch(images, chosen, Progress(0, 2, 1, 4)).views
    still = Augment(**changed | {"stain": 0, "brightness": 0, "contrast": 0, "saturation": 0})
    generator = made.views.chance(Progress(0, 2, 1, 4))
    bent = augment(images, still, generator)
    torch.testing.assert_close(seen["student"]["high"], bent)
    assert not torch.allclose(seen["both"]["high"], bent, atol=5)
    assert not torch.allclose(seen["student"]["low"], downsample(bent, 2), atol=5)


def test_crops_are_of_training_alone_and_must_fit(stripes, teacher, tmp_path):
    settings = config(stripes, "at_plus", teacher, augment={"crop_px": 16})
    made = trainer(settings, tmp_path / "run")
    chosen = made.train_indices[:4]
    images = made.views.read(chosen)
    drawn = made.views.batch(images, chosen, Progress(0, 2, 1, 4)).views
    assert drawn["high"].shape[-2:] == (16, 16)
    torch.testing.assert_close(drawn["low"], downsample(drawn["high"], 2))
    assert made.views.batch(images, chosen, None).views["low"].shape[-2:] == (16, 16)  # half of 32
    for crop, fault in ((15, "multiple of 2"), (34, "more than the 32 px")):
        with pytest.raises((ValueError, ConfigError), match=fault):
            distill(
                config(stripes, "at_plus", teacher, augment={"crop_px": crop}), tmp_path / "bad"
            )
