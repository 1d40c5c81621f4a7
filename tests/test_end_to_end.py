"""The whole way, as a user goes it: `wsikd demo --small`, and what is left behind.

It runs in this process, on smaller slides, and a test marked slow runs it as a user does.
"""

import csv
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import shapely
from click.testing import CliRunner
from shapely.geometry import shape
from wsikd.cli.main import main

from wsikd.models.files.bundle import load_bundle
from wsikd.tiles.store import TileStore

TEST_SLIDES = ("demo-07", "demo-08")
CHEAPER = {"tile": {"jobs": 0}, "infer": {"jobs": 0}, "bench": {"repeats": 1}}


def wsikd(*arguments, code=0):
    done = subprocess.run(
        [sys.executable, "-m", "wsikd", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def here(folder):
    """The small demo in this process, without workers, on slides of a quarter of the area."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["wsikd.cli.demo"], "_SMALL_PX", 1280)
        for command, defaults in CHEAPER.items():
            for parameter in main.commands[command].params:
                if parameter.name in defaults:
                    patch.setattr(parameter, "default", defaults[parameter.name])
        arguments = ["demo", "-o", str(folder), "--small", "--device", "cpu"]
        done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "out"
    assert "report.html" in here(folder).stdout
    return folder


def test_report_stands_alone(demo):
    html = (demo / "report.html").read_text(encoding="utf-8")
    sources = re.findall(r'(?:src|href)="([^"]+)"', html)
    assert len(sources) == 2 * 4 + 1  # tissue, truth, teacher, student of two slides; one plot
    assert all(s.startswith("data:image/png;base64,") for s in sources)
    assert "http" not in re.sub(r"data:[^\"]+", "", html)
    for word in (
        "truth",
        "teacher 10x",
        "student 2.5x",
        "kappa",
        "not for diagnosis",
        "wsikd tile",
    ):
        assert word in html, word
    markdown = (demo / "report.md").read_text(encoding="utf-8")
    pictures = re.findall(r"\]\((report_files/[^)]+)\)", markdown)
    assert len(pictures) == 8
    assert all((demo / p).is_file() for p in pictures)
    for page in (html, markdown):  # bench looks once, the report at both networks
        assert re.search(r"This test part has been looked at \d+ times by 2 runs", page)
    assert (demo / "looks.json").is_file()


def test_teacher_and_student_saw_the_same_fields(demo):
    teacher, student = (load_bundle(demo / "runs" / w) for w in ("teacher", "student"))
    assert teacher.spec.mpp == 1.0
    assert student.spec.mpp == 4.0
    assert teacher.spec.field_um == student.spec.field_um == 256
    assert teacher.spec.classes == student.spec.classes == ("NC", "G3", "G4", "G5")
    assert student.card.teacher.sha256 == teacher.sha256
    store = TileStore.open(demo / "stores" / "demo-01.zarr")
    high, low = (store.read_patch(0, mpp) for mpp in (1.0, 4.0))
    mean = high.reshape(64, 4, 64, 4, 3).mean((1, 3))
    assert np.abs(mean - low).max() <= 1


def test_training_never_saw_the_test_slides(demo):
    with (demo / "slides" / "slides.csv").open(newline="") as stream:
        split = {row["slide"].removesuffix(".svs"): row["split"] for row in csv.DictReader(stream)}
    assert {name for name, s in split.items() if s == "test"} == set(TEST_SLIDES)
    for name, wanted in split.items():
        assert TileStore.open(demo / "stores" / f"{name}.zarr").split == wanted
    made = json.loads((demo / "runs" / "student" / "provenance.json").read_text())
    assert made["seed"] == 0
    counts = load_bundle(demo / "runs" / "student").card.metrics
    val = TileStore.open(demo / "stores" / "demo-06.zarr").patches
    assert counts["patches"] == (val.label >= 0).sum()


def test_maps_lie_on_the_annotated_tissue(demo):
    for name in TEST_SLIDES:
        folder = demo / "maps" / "student" / name
        content = json.loads((folder / "grades.geojson").read_text())
        drawn = json.loads((demo / "slides" / f"{name}.geojson").read_text())
        graded = [shape(f["geometry"]) for f in content["features"]]
        truth = shapely.union_all([shape(f["geometry"]) for f in drawn["features"]])
        assert graded
        assert all(g.is_valid for g in graded)
        found = shapely.union_all(graded)
        assert found.intersection(truth).area / truth.area > 0.9
        assert (folder / "overlay.jpg").stat().st_size > 1000


def test_summary_and_bench_tell_what_was_done(demo):
    with (demo / "maps" / "student" / "summary.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["slide"] for row in rows] == list(TEST_SLIDES)
    for row in rows:
        shares = [float(v) for k, v in row.items() if k.endswith("_share")]
        assert sum(shares) == pytest.approx(1, abs=1e-4)
    record = json.loads((demo / "bench" / "bench.json").read_text())
    teacher, student = (record["totals"][c["name"]] for c in record["contenders"])
    assert teacher["fields"] == student["fields"]
    assert (
        record["contenders"][0]["macs_per_field"] > 15 * record["contenders"][1]["macs_per_field"]
    )
    assert record["agreement"]["fields"] == teacher["fields"]


def test_a_second_demo_does_nothing_again(demo):
    kept = [demo / "runs/student/checkpoints/last.ckpt", demo / "stores/demo-01.zarr/zarr.json",
            demo / "maps/student/demo-07/grades.geojson", demo / "slides/demo-01.svs"]  # fmt: skip
    before = [p.stat().st_mtime_ns for p in kept]
    here(demo)
    assert [p.stat().st_mtime_ns for p in kept] == before


def test_other_settings_are_refused(demo):
    done = wsikd("demo", "-o", demo, "--seed", "1", code=2)
    assert re.search(r"holds another demo .*; choose another -o", done.stderr)


@pytest.mark.slow
def test_the_whole_demo_meets_its_marks(tmp_path):
    """Five minutes on two cores: kappa of the student, its distance to the teacher, colour."""
    wsikd("demo", "-o", tmp_path / "demo", "--device", "cpu")
    text = (tmp_path / "demo" / "report.md").read_text(encoding="utf-8")
    kappa = {
        who: float(re.search(rf"^\| {who}[^|]*\| (-?[\d.]+) \|", text, re.MULTILINE)[1])
        for who in ("teacher", "student", "colour histograms alone")
    }
    assert kappa["student"] >= 0.6
    assert kappa["teacher"] - kappa["student"] <= 0.15
    assert kappa["colour histograms alone"] < 0.3
