"""HDKD through ``wsikd distill``: across resolutions, killed and resumed, and its bundle in use."""

import json

import pytest
import torch
from click.testing import CliRunner
from wsikd.cli.main import main

from tests.learn.grading import grading
from tests.learn.patch.test_train import Killed, kill_before_checkpoint, kill_in_step, rows
from tests.slides.pixels import tissue_rgb
from wsikd.core.errors import ConfigError
from wsikd.learn.data.patches import load_patches
from wsikd.learn.data.settings import Split
from wsikd.learn.patch.build import build_student, input_spec
from wsikd.learn.patch.train import distill
from wsikd.models.files.bundle import load_bundle
from wsikd.synthetic.cohort import write_pyramid

SHAPE = {"units": [2, 1, 1], "dim": 16, "heads": 2, "depth": 1, "positions": 1}


pytestmark = pytest.mark.usefixtures("one_thread")


def config(csv, arch, method="supervised", teacher=None, mpp=1.0, hybrid=None, **changes):
    base = {
        "method": method,
        "network": {"arch": arch, "width": 0.125, "hybrid": SHAPE | (hybrid or {})},
        "data": {"paths": [str(csv)], "student_mpp": mpp},
        "optim": {"epochs": 3, "batch_size": 16, "lr": 3e-3, "decay_vectors": False},
    }
    if teacher:
        base["teacher"] = str(teacher)
    for key, value in changes.items():
        base[key] = base.get(key, {}) | value
    return grading(base)


@pytest.fixture(scope="module")
def teacher(stripes, tmp_path_factory):
    """Reads 32 px at stem stride 4; its student 16 px at stem stride 2."""
    folder = tmp_path_factory.mktemp("teacher") / "run"
    distill(config(stripes, "hdkd_teacher", hybrid={"stem_stride": 4}), folder, device="cpu")
    return folder


@pytest.fixture(scope="module")
def student(stripes, teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("student") / "run"
    distill(config(stripes, "hdkd_student", "hdkd", teacher, 2.0), folder, device="cpu")
    return folder


def test_terms_are_weighed_as_published(student):
    *epochs, final = rows(student)
    for row in epochs:
        raw = row["raw"]
        loss = 0.5 * raw["ce"] + 0.5 * raw["lkd"] + 10 * raw["fkd"]
        assert row["loss"] == pytest.approx(loss)
    assert final["event"] == "final"
    assert load_bundle(student).card.method == "hdkd"


@pytest.mark.parametrize("kill", [kill_in_step, kill_before_checkpoint])
def test_killed_and_resumed_equals_unbroken(kill, stripes, teacher, student, tmp_path, monkeypatch):
    settings = config(stripes, "hdkd_student", "hdkd", teacher, 2.0)
    with monkeypatch.context() as patch:
        kill(patch)
        with pytest.raises(Killed):
            distill(settings, tmp_path / "run", device="cpu")
    torch.manual_seed(99)
    distill(settings, tmp_path / "run", device="cpu", resume=True)
    assert rows(tmp_path / "run") == rows(student)
    assert load_bundle(tmp_path / "run").sha256 == load_bundle(student).sha256


def test_unequal_grids_are_refused_before_anything_is_written(stripes, teacher, tmp_path):
    settings = config(stripes, "hdkd_student", "hdkd", teacher, 2.0, hybrid={"stem_stride": 1})
    with pytest.raises(ConfigError, match=r"stride 1 in the student, 8 at stride 4 on a 2 times"):
        distill(settings, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_positions_of_another_size_are_told(stripes, tmp_path, caplog):
    patches = load_patches(config(stripes, "hdkd_student").data, Split())
    for positions in (1, 2, 3):
        settings = config(stripes, "hdkd_student", hybrid={"positions": positions})
        caplog.clear()
        input_spec(settings, build_student(settings, patches, None), patches)
        told = [r.message for r in caplog.records if "positions" in r.message]
        assert len(told) == (positions != 2)
        assert all("are interpolated to 2 x 2 tokens" in line for line in told)


def test_a_token_that_nothing_trains_is_refused(stripes, teacher, tmp_path):
    settings = config(stripes, "hdkd_student", "hdkd", teacher, 2.0, weights={"lkd": 0})
    with pytest.raises(ConfigError, match="nothing trains that token; set it to false"):
        distill(settings, tmp_path / "run", device="cpu")


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_its_bundle_grades_slides_and_is_timed(student, teacher, tmp_path):
    slide = tmp_path / "small.svs"
    write_pyramid(slide, tissue_rgb(640, 540, (100, 80, 400, 400)), mpp=0.5, power=20)
    how = ["--threads", "1", "--jobs", "0"]
    done = run("infer", "-i", slide, "-m", student, "-o", tmp_path / "out", *how)
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "out/small/result.json").read_text())
    timed = run(
        "bench", "-i", slide, "--teacher", teacher, "--student", student,
        "-o", tmp_path / "bench", "--repeats", "1", "--max-fields", "4", "--threads", "1",
    )  # fmt: skip
    assert timed.exit_code == 0, timed.output
    told = run("evaluate", student, "--report", tmp_path / "report")
    assert told.exit_code == 0, told.output
