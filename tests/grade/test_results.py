"""Folders of results: whole or absent, resumed, never mixed."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from wsikd.core.errors import RegionReadError, StoreMismatchError
from wsikd.grade.predict import PredictSettings, SlidePredictor
from wsikd.grade.results import ResultSettings, infer_slide, write_summary
from wsikd.models.bundle import InputSpec
from wsikd.slides.manifest import SlideEntry


class Purple(torch.nn.Module):
    """The darker the green channel, the higher the grade."""

    def forward(self, x):
        dark = 255 - x[:, 1].float().mean((1, 2))
        return torch.stack([80 - dark, dark - 80, dark - 140, dark - 200], 1) / 20


SPEC = InputSpec(4.0, 16, (0.0,) * 3, (1.0,) * 3, ("NC", "G3", "G4", "G5"))


@pytest.fixture
def predictor():
    return SlidePredictor(Purple(), SPEC, device="cpu", settings=PredictSettings(workers=2))


@pytest.fixture
def entry(slide_file):
    return SlideEntry(slide_file, "odd")


def run(predictor, entry, out, settings=None, **more):
    settings = settings or ResultSettings()
    return infer_slide(predictor, entry, out, settings, student="abc", **more)


def test_a_slide_is_graded_once(predictor, entry, tmp_path):
    row, made = run(predictor, entry, tmp_path)
    assert made
    assert row["slide"] == "odd"
    assert row["fields"] > 0
    shares = [v for k, v in row.items() if k.endswith("_share")]
    assert sum(shares) == pytest.approx(1)
    files = {p.name for p in (tmp_path / "odd").iterdir()}
    assert files == {"grades.zarr", "tiles.csv", "grades.geojson", "overlay.png", "result.json"}
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    again, made = run(predictor, entry, tmp_path)
    assert not made
    assert again == row
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"min_area_mm2": 0.5}, "min_area_mm2 0.0 there, 0.5 asked"),
        ({"specimen": "prostatectomy"}, "specimen biopsy there, prostatectomy asked"),
        ({"formats": ("csv",)}, "formats"),
    ],
)
def test_other_settings_are_refused_by_name(predictor, entry, tmp_path, change, named):
    run(predictor, entry, tmp_path)
    other = replace(ResultSettings(), **change)
    with pytest.raises(StoreMismatchError, match=named):
        run(predictor, entry, tmp_path, other)
    _, made = run(predictor, entry, tmp_path, other, overwrite=True)
    assert made


def test_another_slide_or_student_is_refused(predictor, entry, tmp_path):
    run(predictor, entry, tmp_path)
    with pytest.raises(StoreMismatchError, match="student abc there, xyz asked"):
        infer_slide(predictor, entry, tmp_path, ResultSettings(), student="xyz")
    with pytest.raises(StoreMismatchError, match="slide_mpp"):
        run(predictor, replace(entry, mpp=0.25), tmp_path)


def test_a_slide_that_fails_midway_leaves_no_result(predictor, entry, tmp_path, monkeypatch):
    from wsikd.slides.openslide import OpenSlideReader

    read = OpenSlideReader.read_level

    def broken(self, level, location, size):
        if location[0] > 30:
            raise RegionReadError("odd.svs", "cut", "copy it")
        return read(self, level, location, size)

    monkeypatch.setattr(OpenSlideReader, "read_level", broken)
    with pytest.raises(RegionReadError):
        run(predictor, entry, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_no_result(predictor, entry, tmp_path):
    run(predictor, entry, tmp_path)
    (tmp_path / "odd").rename(tmp_path / "odd.part")
    (tmp_path / "odd.part" / "result.json").unlink()
    assert write_summary(tmp_path).read_text().count("\n") == 1  # the header alone
    _, made = run(predictor, entry, tmp_path)
    assert made
    assert not (tmp_path / "odd.part").exists()


def test_summary_collects_every_slide(predictor, entry, tmp_path):
    run(predictor, entry, tmp_path)
    run(predictor, replace(entry, name="also"), tmp_path)
    with write_summary(tmp_path).open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["slide"] for row in rows] == ["also", "odd"]
    assert all("not for diagnosis" in row["note"] for row in rows)
    assert float(rows[0]["seconds"]) > 0
    areas = [float(rows[0][f"{c}_mm2"]) for c in SPEC.classes]
    assert sum(areas) == pytest.approx(float(rows[0]["tissue_mm2"]), abs=1e-5)


def test_the_record_tells_stages_and_no_folder(predictor, entry, tmp_path):
    run(predictor, entry, tmp_path)
    text = (tmp_path / "odd" / "result.json").read_text()
    record = json.loads(text)
    assert {"open", "tissue", "read", "resize", "forward", "write"} <= set(record["seconds"])
    assert np.isfinite(list(record["seconds"].values())).all()
    assert str(entry.path.parent) not in text
