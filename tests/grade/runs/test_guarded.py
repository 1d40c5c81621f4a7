"""Slides that a student's guard withholds: no grade, the map, the reason; --grade-anyway."""

import csv
import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.numpy import save
from wsikd.cli.main import main

import wsikd
from tests.slides.pixels import tissue_rgb
from wsikd.grade.guard_verdict import guard_text
from wsikd.grade.verdict import UNLIKE
from wsikd.models.files.bundle import InputSpec, load_bundle, save_bundle
from wsikd.models.graders.pooled import build_grader
from wsikd.models.guard import Sample, fit_guard
from wsikd.slides.texture import texture
from wsikd.synthetic.pyramid import write_pyramid

SPEC = InputSpec(4.0, 16, (0.0,) * 3, (1.0,) * 3, ("NC", "G3", "G4", "G5"))
SCORE = ("primary", "secondary", "gleason_score", "isup_grade_group", "isup_low")


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    path = tmp_path_factory.mktemp("slide") / "good.svs"
    rgb = tissue_rgb(1200, 900, (100, 100, 900, 700), seed=4)
    write_pyramid(path, rgb, mpp=0.5, power=20, downsamples=(1,))
    return path


def drawn_fields(count):
    """Fields of noise, uint8 (count, 16, 16, 3), that no slide looks like."""
    return np.random.default_rng(2).integers(0, 255, (count, 16, 16, 3)).astype(np.uint8)


def student(folder, threshold, count=20):
    """A student that calls everything pattern 4; its guard has that threshold, None: no guard."""
    torch.manual_seed(1)
    grader = build_grader("vgg_small", 4, width=0.25)
    with torch.no_grad():
        grader.head.bias[2] += 50
    guard = None
    if threshold is not None:
        seen = Sample(texture(drawn_fields(count)), [str(n) for n in range(count)])
        guard = replace(fit_guard(seen, seen), threshold=threshold)
    return save_bundle(
        folder / "student", grader, SPEC, arch="vgg_small", width=0.25, temperature=1.0,
        min_area_mm2=0.0, guard=guard,
    )  # fmt: skip


def infer(slide, bundle, out, *more):
    done = CliRunner().invoke(main, ["infer", "-i", str(slide), "-m", str(bundle), "-o", str(out),
                                     "--jobs", "0", "--threads", "1", "--format", "zarr",
                                     *more])  # fmt: skip
    assert done.exit_code == 0, done.output
    with (out / "summary.csv").open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    return row, done.output, json.loads((out / "good" / "result.json").read_text())


def test_a_slide_beyond_the_guard_gets_a_map_and_no_grade(slide, tmp_path):
    bundle = student(tmp_path, 0.01)
    row, said, record = infer(slide, bundle, tmp_path / "out")
    assert row["grade_status"] == "withheld: unlike training"
    assert not any(row.get(name) for name in SCORE)
    assert "worst_core_score" not in row
    assert float(row["guard_distance"]) > 1
    assert float(row["G4_share"]) > 0.9
    assert (tmp_path / "out" / "good" / "grades.zarr").is_dir()
    assert "grade withheld: the slide" in said
    assert "1 graded, 0 already there, the grade of 1 withheld" in said
    assert "1 of 1 slide needs a second look: good (unlike training" in said
    assert row["review"] == record["summary"]["review"] != ""
    assert record["intervals"] is None
    assert "grade_anyway" not in record["made_with"]


def test_grade_anyway_grades_and_is_recorded(slide, tmp_path):
    bundle = student(tmp_path, 0.01)
    row, _, record = infer(slide, bundle, tmp_path / "out", "--grade-anyway")
    assert (row["grade_status"], row["isup_grade_group"]) == ("graded", "4")
    assert float(row["guard_distance"]) > 1
    assert record["made_with"]["grade_anyway"] is True
    again = ["-i", slide, "-m", bundle, "-o", tmp_path / "out", "--format", "zarr", "--jobs", "0"]
    done = CliRunner().invoke(main, ["infer", *map(str, again)])
    assert "grade_anyway True there, None asked" in done.output


def test_a_slide_within_is_graded_as_without_a_guard(slide, tmp_path, caplog):
    """Looking at the fields does not change the logits."""
    guarded, _, _ = infer(slide, student(tmp_path / "a", 1e6), tmp_path / "with")
    assert "guard" not in caplog.text
    plain, _, _ = infer(slide, student(tmp_path / "b", None), tmp_path / "without")
    assert "has no guard" in caplog.text
    assert guarded.pop("guard_distance")
    for name in ("seconds", "student"):
        guarded.pop(name), plain.pop(name)
    assert guarded == plain


def test_a_weak_guard_says_so(slide, tmp_path, caplog):
    row, _, _ = infer(slide, student(tmp_path, 0.01, count=5), tmp_path / "out")
    assert row["grade_status"] == "withheld: unlike training"
    assert "guard is weak: its threshold rests on 5 validation slide(s)" in caplog.text


def test_python_withholds_what_the_command_withholds(slide, tmp_path):
    bundle = student(tmp_path, 0.01)
    row, _, _ = infer(slide, bundle, tmp_path / "out")
    opened = wsikd.load_student(bundle, threads=1, device="cpu")
    grades = opened.predict(slide)
    for found in (grades, wsikd.GradeMap.load(tmp_path / "out" / "good")):
        said = found.summary()
        assert said["grade_status"] == row["grade_status"] == "withheld: unlike training"
        assert not any(said.get(name) for name in SCORE)
        assert said["guard_distance"] == pytest.approx(float(row["guard_distance"]), rel=1e-3)
        assert found.score().startswith("grade withheld")
        assert said["review"].startswith("unlike training")
        assert "Do not trust the map." in found._repr_html_()
        assert found.cores() == []
    with wsikd.open_slide(slide) as own:
        anyway = opened.predict(own, grade_anyway=True)
    assert anyway.summary()["isup_grade_group"] == 4
    assert len(anyway.cores()) == 1


def older(bundle, threshold):
    """Give a student the guard of an early wsikd, which reads the network's features."""
    count = 2 * sum(tap.channels for tap in load_bundle(bundle).network().backbone.taps.values())
    arrays = {"mean": np.zeros(count), "scale": np.ones(count), "axes": np.eye(count)[:, :4],
              "rest": np.ones(1)}  # fmt: skip
    data = save({k: np.ascontiguousarray(v, np.float32) for k, v in arrays.items()})
    (bundle / "guard.safetensors").write_bytes(data)
    card = json.loads((bundle / "card.json").read_text())
    card["guard"] = {"version": 1, "sha256": hashlib.sha256(data).hexdigest(), "weak": True,
                     "threshold": threshold, "train_slides": 5, "val_slides": 1}  # fmt: skip
    (bundle / "card.json").write_text(json.dumps(card))
    return bundle


@pytest.mark.parametrize(("threshold", "status"), [(1e-3, UNLIKE), (1e3, "graded")])
def test_the_guard_of_an_early_wsikd_still_decides(slide, tmp_path, threshold, status):
    row, _, _ = infer(slide, older(student(tmp_path, None), threshold), tmp_path / "out")
    assert row["grade_status"] == status
    assert (float(row["guard_distance"]) > 1) == (status == UNLIKE)


def test_info_and_the_page_of_a_student_show_its_guard(slide, tmp_path):
    strong = student(tmp_path / "strong", 4.126)
    weak = student(tmp_path / "weak", 4.0, count=1)
    bare = student(tmp_path / "bare", None)
    old = older(student(tmp_path / "old", None), 0.5)
    said = {
        strong: "colour and texture, threshold 4.13, 20 training slides, 20 validation slides",
        weak: "colour and texture, threshold 4, 1 training slide, 1 validation slide; weak (below "
        "19 validation slides)",
        bare: "none: slides unlike the training are graded like others",
        old: "network features, threshold 0.5, 5 training slides, 1 validation slide; weak (below "
        "19 validation slides)",
    }
    done = CliRunner().invoke(main, ["info", *map(str, said)])
    lines = [line.split(None, 1)[1] for line in done.output.splitlines() if "  guard " in line]
    assert lines == list(said.values())
    for bundle, text in said.items():
        assert text in wsikd.load_student(bundle)._repr_html_()
    done = CliRunner().invoke(main, ["info", str(strong), str(slide), "--json"])
    network, image = json.loads(done.output)
    assert (network["guard"], image["file"]) == (said[strong], "good.svs")


def test_the_guard_of_a_network_in_words(tmp_path):
    card = load_bundle(student(tmp_path / "a", 1.0, count=1)).card
    assert guard_text(card) == "a weak guard (1 training slide, 1 validation slide)"
    card = load_bundle(student(tmp_path / "b", 1.0)).card
    assert guard_text(card) == "a guard (20 training slides, 20 validation slides)"
    assert guard_text(None) == guard_text(load_bundle(student(tmp_path / "c", None)).card)
