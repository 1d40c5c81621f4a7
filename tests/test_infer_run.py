"""wsikd infer over many slides: damaged ones, workers that die, kills, and taking it up again."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import psutil
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from wsikd.cli.main import main

from tests.grade.deadly import deadly_job, deadly_writing_job, stuck_job
from tests.slides.pixels import copy_slide, tissue_rgb
from wsikd.core.workers.process import _Worker
from wsikd.grade.exports.overlay import slide_size
from wsikd.models.files.bundle import InputSpec, save_bundle
from wsikd.models.files.naming import name_bundle
from wsikd.models.graders.pooled import build_grader
from wsikd.synthetic.cohort import write_pyramid

FAST = ("--format", "zarr,csv", "--threads", "1")


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    """A slide of 0.5 um/px, level 0 only, with some tissue."""
    path = tmp_path_factory.mktemp("slide") / "good.svs"
    rgb = tissue_rgb(1200, 900, (100, 100, 900, 700), seed=4)
    write_pyramid(path, rgb, mpp=0.5, power=20, downsamples=(1,))
    return path


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """A bundle of an untrained student."""
    torch.manual_seed(1)
    network = build_grader("vgg_small", 4, width=0.25)
    spec = InputSpec(4.0, 16, (0.0,) * 3, (1.0,) * 3, ("NC", "G3", "G4", "G5"))
    folder = tmp_path_factory.mktemp("student") / "student"
    return save_bundle(
        folder, network, spec, arch="vgg_small", width=0.25, min_area_mm2=0.0, temperature=1.0
    )


HERE = ("--jobs", "0")  # without a worker process, which takes seconds to start


def run(*arguments):
    return CliRunner().invoke(main, ["infer", *map(str, arguments)])


def failures(out):
    with (out / "failures.csv").open(encoding="utf-8") as file:
        return {row["slide"]: row for row in csv.DictReader(file)}


def copies(slide, folder, names):
    folder.mkdir()
    for name in names:
        copy_slide(slide, folder / f"{name}.svs")
    return folder


def made(out):
    return {path.parent.name for path in out.glob("*/result.json")}


def test_a_damaged_slide_stops_no_other_and_is_taken_up_when_mended(slide, student, tmp_path):
    slides = copies(slide, tmp_path / "slides", "abc")
    whole = (slides / "b.svs").read_bytes()
    (slides / "b.svs").write_bytes(whole[: len(whole) // 2])
    out = tmp_path / "out"
    done = run("-i", slides, "-m", student, "-o", out, *FAST, *HERE)
    assert done.exit_code == 3, done.output
    assert made(out) == {"a", "c"}
    assert set(failures(out)) == {"b"}
    assert failures(out)["b"]["remedy"]
    assert "Traceback" not in done.output
    assert "2 graded, 0 already there, 1 failed" in done.output
    left = {p.name for p in out.iterdir() if not p.name.startswith("student-")}
    assert left == {".results.jsonl", "a", "c", "cores.csv", "failures.csv", "summary.csv"}
    (slides / "b.svs").write_bytes(whole)
    again = run("-i", slides, "-m", student, "-o", out, *FAST, *HERE)
    assert again.exit_code == 0, again.output
    assert "1 graded, 2 already there" in again.output
    assert made(out) == {"a", "b", "c"}
    assert not (out / "failures.csv").exists()


def test_a_name_changes_captions_and_no_result(slide, student, tmp_path):
    slides, named = copies(slide, tmp_path / "slides", "a"), tmp_path / "named"
    shutil.copytree(student, named)
    more = ("--format", "csv,png", "--threads", "1", *HERE)
    assert run("-i", slides, "-m", named, "-o", tmp_path / "before", *more).exit_code == 0
    before = {f: f.read_bytes() for f in (tmp_path / "before/a").iterdir()}
    called = name_bundle(named, "Prostate", "1.2").called
    again = run("-i", slides, "-m", named, "-o", tmp_path / "before", *more)
    assert "0 graded, 1 already there" in again.output
    assert {f: f.read_bytes() for f in (tmp_path / "before/a").iterdir()} == before
    assert run("-i", slides, "-m", named, "-o", tmp_path / "after", *more).exit_code == 0
    old, new = tmp_path / "before/a", tmp_path / "after/a"
    assert (new / "tiles.csv").read_bytes() == (old / "tiles.csv").read_bytes()
    records = [json.loads((place / "result.json").read_text()) for place in (old, new)]
    for record in records:
        for changing in ("seconds", "created"):
            del record[changing]
        del record["summary"]["seconds"]
    assert records[0] == records[1]
    with Image.open(old / "overlay.png") as one, Image.open(new / "overlay.png") as two:
        width, height = slide_size(one)
        box = (0, 0, width, height)
        assert one.convert("RGB").crop(box).tobytes() == two.convert("RGB").crop(box).tobytes()
        assert one.convert("RGB").tobytes() != two.convert("RGB").tobytes()
    done = CliRunner().invoke(main, ["report", str(tmp_path / "before")])
    assert done.exit_code == 0
    assert f"Graded by student {called} on" in (tmp_path / "before/report.html").read_text()


def test_a_slide_that_kills_its_worker_takes_no_other_along(slide, student, tmp_path, monkeypatch):
    """The slide before it is opened beside it, dies with it, and is graded again alone.

    So it is where the last slide kills.
    """
    monkeypatch.setattr("wsikd.grade.runs.folder.infer_job", deadly_job)
    slides = copies(slide, tmp_path / "slides", ["a", "killer", "z", "zz-killer"])
    out = tmp_path / "out"
    done = run("-i", slides, "-m", student, "-o", out, *FAST)
    assert done.exit_code == 3, done.output
    assert made(out) == {"a", "z"}
    told = failures(out)
    assert set(told) == {"killer", "zz-killer"}
    for row in told.values():
        assert "killed the worker process (signal 11, SIGSEGV)" in row["fault"]
        assert row["remedy"]
    monkeypatch.undo()
    alone = run("-i", slides, "-m", student, "-o", tmp_path / "alone", *FAST, *HERE)
    assert alone.exit_code == 0, alone.output
    for name in ("a", "z"):
        ours, theirs = (tmp_path / o / name / "tiles.csv" for o in ("out", "alone"))
        assert ours.read_bytes() == theirs.read_bytes()


def test_a_death_while_files_are_written_is_that_slides_alone(
    slide, student, tmp_path, monkeypatch
):
    """The slide that was computed meanwhile is graded again, as the one that killed is."""
    monkeypatch.setattr("wsikd.grade.runs.folder.infer_job", deadly_writing_job)
    slides = copies(slide, tmp_path / "slides", ["a", "killer", "z"])
    out = tmp_path / "out"
    done = run("-i", slides, "-m", student, "-o", out, *FAST)
    assert done.exit_code == 3, done.output
    assert made(out) == {"a", "z"}
    assert set(failures(out)) == {"killer"}
    assert "killed the worker process" in failures(out)["killer"]["fault"]
    with (out / "summary.csv").open(encoding="utf-8") as file:
        assert [row["slide"] for row in csv.DictReader(file)] == ["a", "z"]


def test_a_slide_that_stalls_is_given_up_and_stops_no_other(slide, student, tmp_path, monkeypatch):
    """The limit leaves the others the time that they need on a busy machine.

    For the slide that stalls, each look of the pool counts as eleven seconds.
    """

    def watch(worker, stall_s, watch=_Worker.watch):
        if worker.task and worker.task.name == "stuck" and not worker.ending:
            worker._sign -= 11
        return watch(worker, stall_s)

    monkeypatch.setattr(_Worker, "watch", watch)
    monkeypatch.setattr("wsikd.grade.runs.folder.infer_job", stuck_job)
    slides = copies(slide, tmp_path / "slides", ["a", "stuck", "z"])
    out = tmp_path / "out"
    done = run("-i", slides, "-m", student, "-o", out, *FAST, "--stall", "0.2")
    assert done.exit_code == 3, done.output
    assert made(out) == {"a", "z"}
    assert set(failures(out)) == {"stuck"}
    told = failures(out)["stuck"]
    assert "no progress in 0.2 minutes, so its worker process was stopped" in told["fault"]
    assert "--stall MINUTES" in told["remedy"]
    assert not (out / "stuck").exists()


def test_a_bundle_that_does_not_fit_is_one_line_and_leaves_nothing(slide, student, tmp_path):
    folder = tmp_path / "student"
    shutil.copytree(student, folder)
    card = json.loads((folder / "card.json").read_text())
    card["sha256"] = "0" * 64
    (folder / "card.json").write_text(json.dumps(card))
    done = run("-i", slide, "-m", folder, "-o", tmp_path / "out", *FAST)
    assert done.exit_code == 2
    (line,) = done.output.splitlines()
    assert line.startswith("BundleError: ")
    assert not (tmp_path / "out").exists()


def test_dense_is_refused_with_a_reason(slide, student, tmp_path):
    done = run("-i", slide, "-m", student, "-o", tmp_path / "out", "--dense")
    assert done.exit_code == 2
    (line,) = done.output.splitlines()
    assert line.startswith("ConfigError: --dense: ")
    assert line.endswith("give --stride N, which reads the patches themselves")


def test_results_of_full_decode_are_not_mixed_with_others(slide, student, tmp_path):
    out = tmp_path / "out"
    assert run("-i", slide, "-m", student, "-o", out, *FAST, *HERE).exit_code == 0
    told = json.loads((out / "good" / "result.json").read_text())
    assert told["read"] == {"level": 0, "reader": "direct", "reduced_by": 8}
    again = run("-i", slide, "-m", student, "-o", out, *FAST, *HERE, "--exact")
    assert again.exit_code == 3
    assert "exact False there, True asked" in again.output
    other = run("-i", slide, "-m", student, "-o", out, *FAST, *HERE, "--exact", "--overwrite")
    assert other.exit_code == 0
    told = json.loads((out / "good" / "result.json").read_text())
    assert told["read"]["reduced_by"] == 1


HEAVY = (
    "torch", "torchvision", "lightning", "tiatoolbox", "dask", "scipy", "zarr", "pandas", "yaml",
    "shapely", "numpy.ma", "wsikd.tia", "openvino.tools.ovc",
)  # fmt: skip
"""What takes long to import, and is not needed to grade with a kept graph into a table."""


def test_a_second_run_of_a_student_needs_no_pytorch(slide, student, tmp_path):
    """Its graph was kept by the first, and OpenVINO or ONNX Runtime runs it."""
    code = (
        "import sys; from pathlib import Path\n"
        "from wsikd.grade.runs.jobs import Grading, InferJob, load_job, infer_job\n"
        "from wsikd.grade.predict import PredictSettings\n"
        "from wsikd.grade.runs.results import ResultSettings\n"
        "from wsikd.slides.listing.manifest import find_slides\n"
        "grading = Grading(Path(sys.argv[1]), 'cpu', PredictSettings(exact=False))\n"
        "loaded = load_job(None, grading)\n"
        "(entry,) = find_slides([sys.argv[2]])\n"
        "job = InferJob(entry, grading, loaded.student.sha256, Path(sys.argv[3]),"
        " ResultSettings(formats=('csv',)))\n"
        "row, made = infer_job(lambda *_: None, job)\n"
        f"print(made, *(name for name in {HEAVY} if name in sys.modules))\n"
    )
    found = []
    environment = {**os.environ, "WSIKD_CACHE": str(tmp_path / "cache")}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        line = [sys.executable, "-c", code, student, slide, tmp_path / name]
        done = subprocess.run(line, capture_output=True, text=True, check=True, env=environment)
        found.append(done.stdout.strip())
    assert found[0].startswith("True torch")
    assert found[1] == "True"
    one, two = ((tmp_path / n / "good" / "tiles.csv").read_bytes() for n in ("one", "two"))
    assert one == two


def test_a_killed_run_leaves_nothing_that_looks_whole_and_is_taken_up(slide, student, tmp_path):
    slides = copies(slide, tmp_path / "slides", "abcdef")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "wsikd", "infer", "-i", slides, "-m", student, "-o", out]
    command = [*map(str, command), *FAST]
    for wanted in (0, 2):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        limit = time.monotonic() + 60
        while time.monotonic() < limit and process.poll() is None:
            if len(made(out)) >= wanted and list(out.glob("*.part")):
                break
            time.sleep(0.002)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
        process.wait()
        running = psutil.wait_procs(children, timeout=30)[1]  # none outlives the command
        assert all(p.status() == psutil.STATUS_ZOMBIE for p in running)  # what nobody reaps
        assert all(p.suffix or (p / "result.json").is_file() for p in out.iterdir() if p.is_dir())
    done = run("-i", slides, "-m", student, "-o", out, *FAST, *HERE)
    assert done.exit_code == 0, done.output
    assert made(out) == set("abcdef")
    assert not list(out.glob("*.part"))
    with (out / "summary.csv").open(encoding="utf-8") as file:
        assert [row["slide"] for row in csv.DictReader(file)] == list("abcdef")
    tiles = {(out / name / "tiles.csv").read_text().replace(f"{name}.svs", "") for name in "abcdef"}
    assert len(tiles) == 1  # the same slide six times
    assert np.isfinite([float(x) for x in next(iter(tiles)).split("\n")[1].split(",")[-4:]]).all()


def test_masks_of_the_users_own_are_the_tissue(slide, student, tmp_path):
    slides, masks, out = (
        copies(slide, tmp_path / "slides", "ab"),
        tmp_path / "masks",
        tmp_path / "o",
    )
    own = np.zeros((90, 120), np.uint8)
    own[:, :60] = 1
    masks.mkdir()
    cv2.imwrite(str(masks / "a.png"), own)
    for _ in range(2):  # the second finds it there
        done = run("-i", slides, "-m", student, "-o", out, *FAST, *HERE, "--tissue", masks)
        assert done.exit_code == 3, done.output
        assert failures(out)["b"]["fault"] == f"no mask for it in {masks}"
        assert made(out) == {"a"}
    with (out / "a" / "tiles.csv").open(encoding="utf-8") as file:
        xs = {float(row["minx"]) for row in csv.DictReader(file)}
    assert min(xs) == 0
    assert 400 < max(xs) < 600


def test_slides_of_one_stem_keep_their_results_and_copies_make_none(student, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    write_pyramid(folder / "X.svs", tissue_rgb(300, 300), mpp=1.0, power=10)
    how = ("-i", folder, "-m", student, "-o", out, *FAST, "--jobs", "0")
    assert run(*how).exit_code == 0
    before = (out / "X" / "result.json").read_bytes()
    copy_slide(folder / "X.svs", folder / "X.tif")
    shutil.copy(folder / "X.svs", folder / "A.svs")
    shutil.copy(folder / "X.svs", folder / "X_mask.tif")
    for count in (1, 0):
        done = run(*how)
        assert (done.exit_code, f"{count} graded, {2 - count} already there" in done.output) == (
            0, True,
        ), done.output  # fmt: skip
    results = sorted(p.parent.name for p in out.glob("*/result.json"))
    assert len(results) == 2
    assert results[0] == "X"
    assert results[1].startswith("X-")
    assert (out / "X" / "result.json").read_bytes() == before
    for name in ("X", "A"):  # X.tif alone keeps the name that it got beside X.svs
        (folder / f"{name}.svs").unlink()
    assert "0 graded, 1 already there" in run(*how).output
    with (out / "summary.csv").open(encoding="utf-8") as file:
        assert sorted(row["slide"] for row in csv.DictReader(file)) == results
