"""The evidence on real tissue: its runs, their order, settings and parts by patient."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.studies.real.arms import ARMS, BLOCKS, TEACHER, TUNED
from benchmarks.studies.real.figures import Figures
from benchmarks.studies.real.loop import Limits, chosen, listed, score_finished, work
from benchmarks.studies.real.plan import ABOUT, TEST, Job, Plan
from benchmarks.studies.real.run import one_at_a_time
from benchmarks.studies.real.settings import Real
from benchmarks.studies.real.work import BASE
from tests.studies.real.toy import write_toy
from wsikd.core.errors import DataError
from wsikd.learn.data.patches import load_patches
from wsikd.learn.patch.settings import load_grading


def tuned(out, scores=(0.8, 0.9, 0.7)):
    """A plan whose trials have these figures."""
    plan = Plan(Real(colon="c", prostate="p"), out)
    for arm in TUNED:
        for trial, score in enumerate(scores):
            finish(plan, Job("T", arm, 0, 1, trial), score)
    return plan


def finish(plan, job, score=0.5):
    folder = plan.kept(job)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ABOUT).write_text(json.dumps({"validation": {"auc_macro": score}, "macs": 1}))


def config_of(plan, job, data=()):
    settings = [f"{k}={json.dumps(v)}" for k, v in plan.settings(job).items()]
    config = load_grading(BASE, settings)
    return config.model_copy(
        update={"data": config.data.model_copy(update={"paths": [str(p) for p in data]})}
    )


def test_the_runs_are_those_of_the_protocol(tmp_path):
    plan = Plan(Real(colon="c", prostate="p"), tmp_path)
    counts = {}
    for job in plan.jobs:
        counts[job.block] = counts.get(job.block, 0) + 1
    assert counts == {"T": 21, "A": 78, "B": 42, "P": 33, "C": 18, "D": 18}
    assert list(counts) == ["T", *BLOCKS]
    assert len({job.name for job in plan.jobs}) == len(plan.jobs)
    assert "P" not in {job.block for job in Plan(Real(colon="c"), tmp_path).jobs}


def test_every_run_comes_after_its_teacher(tmp_path):
    plan = tuned(tmp_path)
    places = [plan.place(job) for job in plan.jobs]
    for number, job in enumerate(plan.jobs):
        teacher = plan.teacher(job)
        assert (teacher is None) == (not ARMS[job.arm].distils)
        if teacher is not None:
            assert teacher.fold == job.fold
            assert plan.place(teacher) in places[: number + (job.block == "T")]
            own = teacher.seed == job.seed
            assert own if job.arm == "self_kd" else teacher.arm == TEACHER


def test_settings_of_every_run_are_valid_and_share_folds_and_steps(tmp_path):
    plan = tuned(tmp_path)
    for job in {(j.block, j.arm, j.trial): j for j in plan.jobs}.values():
        config = config_of(plan, job)
        assert (config.split.folds, config.split.fold, config.split.seed) == (3, job.fold, 19)
        assert config.optim.select == "last"
        assert config.optim.epoch_patches == (704 if job.block == "P" else 736)
        assert config.data.unlabelled == (job.block == "B" and ARMS[job.arm].distils)
        assert config.split.share == (0.3 if job.block == "B" else 1.0)
        assert config.low_mpp == (1.0 if job.arm == TEACHER else 2.0 if job.block == "C" else 4.0)


def test_trials_take_the_better_rate_and_the_best_of_them_is_a_run_of_block_a(tmp_path):
    plan = tuned(tmp_path)
    assert plan.trial("kd", 2) == {"optim.lr": 1e-3, "weights.kd": 4.0}
    assert plan.winner("kd") == 1
    first, second = Job("A", "kd", 0, 1), Job("A", "kd", 0, 2)
    assert plan.run_folder(first) == tmp_path / "runs/T/kd/trial1"
    assert plan.is_done(first)
    assert not plan.is_done(second)
    assert plan.settings(second)["optim.lr"] == 1e-3
    assert plan.settings(second)["weights.kd"] == 1.0
    assert plan.settings(Job("D", "dkd", 0, 1))["optim.lr"] == 1e-3
    assert plan.settings(Job("P", "kd", 0, 1))["optim.lr"] == 1e-3


def test_nothing_is_ready_before_tuning(tmp_path):
    plan = Plan(Real(colon="c", prostate="p"), tmp_path)
    ready = [job.name for job in plan.jobs if plan.is_ready(job)]
    ces = {f"T/{a}/trial{n}" for a in ("teacher", "ce", "ce_scratch") for n in (0, 1)}
    assert {name for name in ready if not name.startswith("P")} == ces


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return write_toy(tmp_path_factory.mktemp("toy"), "colon", groups=24)


@pytest.mark.parametrize("block", ["A", "B"])
def test_no_patient_is_in_two_parts_and_each_is_evaluated_once(toy, tmp_path, block):
    plan, evaluated = tuned(tmp_path), []
    for fold in range(3):
        parts = {}
        for arm in ("teacher", "kd", "self_kd", "ce"):
            config = config_of(plan, Job(block, arm, fold, 1), [toy])
            found = load_patches(config.data, config.split)
            own = {
                part: {found.group[i] for i in np.flatnonzero(found.split == part)}
                for part in ("train", "extra", "val", "test")
            }
            rest = own["train"] | own["extra"]
            assert not rest & own["val"]
            assert not rest & own["test"]
            assert not own["val"] & own["test"]
            assert not own["train"] & own["extra"]
            assert bool(own["extra"]) == (block == "B" and ARMS[arm].distils)
            parts[arm] = own
        for part in ("train", "val", "test"):
            assert parts["teacher"][part] == parts["kd"][part] == parts["ce"][part]
        assert parts["kd"] == parts["self_kd"]
        evaluated += parts["kd"]["test"]
    assert len(evaluated) == len(set(evaluated)) == 24


def test_images_without_a_grade_are_left_out_and_patients_are_kept(toy):
    lines = toy.read_text().splitlines()
    assert lines[0] == "image,slide,patient,label,class"
    assert len(lines) == 1 + 24 * 4
    assert not any("ungraded" in line for line in lines)


@pytest.mark.parametrize("name", ["colon", "prostate"])
def test_images_are_found_beside_the_labels_or_in_images(tmp_path, name):
    lines = write_toy(tmp_path, name, groups=2).read_text().splitlines()[1:]
    assert all(Path(line.partition(",")[0]).is_file() for line in lines)


def test_no_figure_of_an_evaluation_part_is_made_before_the_whole_block_is_trained(tmp_path):
    plan = tuned(tmp_path)
    for job in plan.of_block("A")[:-1]:
        if plan.place(job) == job.name:
            finish(plan, job)
            (plan.kept(job) / TEST).touch()
    assert not plan.is_complete("A")
    with pytest.raises(DataError, match="not complete"):
        Figures(plan, "A")
    assert "blocks scored: none" in listed(plan)[-1]
    finish(plan, plan.of_block("A")[-1])
    assert plan.is_complete("A")
    assert not plan.is_scored("A")


def test_the_evaluation_part_of_each_finished_run_is_scored_once(tmp_path, monkeypatch):
    plan = tuned(tmp_path)
    scored = []

    def score(plan, job):
        scored.append(job)
        (plan.kept(job) / TEST).touch()

    monkeypatch.setattr("benchmarks.studies.real.loop.score", score)
    finish(plan, Job("A", "ce", 1, 2))
    score_finished(plan)
    score_finished(plan)
    assert Job("A", "ce", 1, 2) in scored
    assert {plan.place(job) for job in scored} == {"A/ce/fold1-seed2"} | {
        f"T/{arm}/trial1" for arm in TUNED
    }
    assert len(scored) == len(set(scored)) == 1 + len(TUNED)


def test_a_teacher_and_its_students_are_trained_fold_by_fold(tmp_path):
    plan = Plan(Real(colon="c", prostate="p"), tmp_path)
    order = [(job.arm, job.fold, job.seed) for job in plan.of_block("A")]
    students = [(arm, 0, seed) for seed in (1, 3) for arm in TUNED[1:]]
    assert order[:14] == [("teacher", 0, 1), *students, ("teacher", 1, 1)]
    assert [job.seed for job in plan.of_block("A") if job.arm == TEACHER] == [1, 1, 1, 2, 2, 2]


def test_no_run_begins_beyond_a_limit(tmp_path, monkeypatch):
    plan = Plan(Real(colon="c"), tmp_path)
    monkeypatch.setattr("benchmarks.studies.real.loop.do", None)
    work(plan, {}, Limits(until=0.0))
    cost = tmp_path / "cost"
    cost.mkdir()
    (cost / "1.json").write_text('{"job": "T/ce/trial0", "cpu_s": 3601.0}')
    work(plan, {}, Limits(cpu_hours=1.0))
    assert "1.00 CPU-hours" in listed(plan)[-1]
    assert "T/ce/trial0: begun 3601 CPU-s" in listed(plan)


def test_runs_are_chosen_by_name():
    job = Job("A", "kd", 1, 2)
    assert chosen(job, ())
    assert chosen(job, ("T/*", "A/kd/*"))
    assert not chosen(job, ("A/ce/*",))
    given = ["-o", "x", "--processes", "2", "--only", "T/*", "--processes=2"]
    assert one_at_a_time(given) == ["-o", "x", "--only", "T/*"]
