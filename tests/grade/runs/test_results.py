"""Folders of results: whole or absent, resumed, never mixed."""

import csv
import json
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
import zarr

from tests.grade.graded import infer_slide
from tests.slides.pixels import tissue_rgb
from wsikd.core.errors import (
    AnnotationError,
    BundleError,
    OutputError,
    RegionReadError,
    SlideError,
    StoreMismatchError,
)
from wsikd.core.output.lock import locked
from wsikd.grade.domain_shift import COLUMNS, trained_on
from wsikd.grade.exports import DEFAULT, EXPORTERS, find_exporter
from wsikd.grade.predict import PredictSettings, SlidePredictor
from wsikd.grade.runs import results
from wsikd.grade.runs.results import ResultSettings
from wsikd.grade.runs.summary_file import Summary
from wsikd.models.files.bundle import InputSpec, StudentBundle
from wsikd.models.files.card import GraderCard
from wsikd.slides.appearance import FAR, STATISTICS, Appearance, Watcher, field_statistics
from wsikd.slides.listing.manifest import SlideEntry, open_entry
from wsikd.slides.scaled_view import Canvas
from wsikd.synthetic.pyramid import write_pyramid


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
    assert len(shares) == 4  # no other column is taken for a class
    assert sum(shares) == pytest.approx(1)
    files = {p.name for p in (tmp_path / "odd").iterdir()}
    assert files == {*(find_exporter(name).file for name in DEFAULT), "result.json"}
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


def test_a_png_overlay_of_before_counts_where_a_jpeg_is_asked_for(predictor, entry, tmp_path):
    before = ResultSettings(formats=("zarr", "csv", "uncertain", "geojson", "png"))
    run(predictor, entry, tmp_path, before)
    _, made = run(predictor, entry, tmp_path)
    assert not made
    run(predictor, entry, tmp_path, overwrite=True)
    assert (tmp_path / "odd" / "overlay.jpg").exists()
    assert not (tmp_path / "odd" / "overlay.png").exists()
    with pytest.raises(StoreMismatchError, match="formats"):
        run(predictor, entry, tmp_path, before)


def test_all_is_what_the_slide_can_have(predictor, entry, tmp_path):
    run(predictor, entry, tmp_path, ResultSettings(formats=("all",)))
    files = {p.name for p in (tmp_path / "odd").iterdir()}
    every = {*(find_exporter(n).file for n in EXPORTERS), "result.json"}
    assert files == every - {"grades.dcm", "overlay.png", "overlay.webp"}
    with pytest.raises(SlideError, match="not a DICOM slide"):
        run(predictor, entry, tmp_path / "x", ResultSettings(formats=("csv", "dicom-seg")))
    assert not (tmp_path / "x").exists()


def test_another_slide_or_student_is_refused(predictor, entry, tmp_path):
    run(predictor, entry, tmp_path)
    with pytest.raises(StoreMismatchError, match="student abc there, xyz asked"):
        infer_slide(predictor, entry, tmp_path, ResultSettings(), student="xyz")
    with pytest.raises(StoreMismatchError, match="slide_mpp"):
        run(predictor, replace(entry, mpp=0.25, mpp_source="column mpp of m.csv"), tmp_path)


def test_a_slide_that_fails_midway_leaves_no_result(predictor, entry, tmp_path, monkeypatch):
    from wsikd.slides.readers.openslide import OpenSlideReader

    read = OpenSlideReader.read_level

    def broken(self, level, location, size):
        if location[0] > 30:
            raise RegionReadError("odd.svs", "cut", "copy it")
        return read(self, level, location, size)

    monkeypatch.setattr(OpenSlideReader, "read_level", broken)
    with pytest.raises(RegionReadError):
        run(predictor, entry, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [ZeroDivisionError("what"), OSError(28, "No space left")])
def test_a_fault_while_writing_leaves_no_part(predictor, entry, tmp_path, monkeypatch, error):
    def broken(_, part, *args, **more):
        part.mkdir(exist_ok=True)
        (part / "tiles.csv").write_text("half")
        raise error

    monkeypatch.setattr(results, "write_all", broken)
    expected = OutputError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected):
        run(predictor, entry, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_mask_that_is_missing_is_one_line(predictor, entry, tmp_path):
    with pytest.raises(AnnotationError, match=r"none\.png: cannot be read \(No such file"):
        run(predictor, replace(entry, mask=tmp_path / "none.png"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_slide_that_another_process_grades_is_left_to_it(predictor, entry, tmp_path):
    with locked(tmp_path / "odd"), pytest.raises(OutputError, match="another process"):
        run(predictor, entry, tmp_path)
    assert list(tmp_path.iterdir()) == []
    run(predictor, entry, tmp_path)
    with locked(tmp_path / "odd"):  # what is whole can be read all the time
        assert not run(predictor, entry, tmp_path)[1]


def test_the_summary_passes_over_folders_of_another_name(predictor, entry, tmp_path):
    run(predictor, entry, tmp_path)
    shutil.copytree(tmp_path / "odd", tmp_path / "also.part")
    shutil.copytree(tmp_path / "odd", tmp_path / "copy of odd")
    assert Summary(tmp_path).write().read_text().count("\nodd,") == 1
    assert Summary(tmp_path).write().read_text().count("\n") == 2


def test_the_summary_tells_how_each_row_was_made(predictor, entry, tmp_path):
    settings = ResultSettings(specimen="prostatectomy", min_area_mm2=0.25)
    infer_slide(predictor, entry, tmp_path, settings, student="0123456789abcdef")
    run(predictor, replace(entry, name="also"), tmp_path)
    with Summary(tmp_path).write().open(newline="") as stream:
        also, odd = csv.DictReader(stream)
    how = ["student", "specimen", "min_area_mm2", "min_pattern", "rules"]
    assert list(odd)[-9:] == [*how, "mpp", "temperature", "engine", "note"]
    assert odd["rules"] == "GUPS 2019"
    made = ["4.0", "", "torch fp32"]
    said = ["0123456789ab", "prostatectomy", "0.25", "0.0", "GUPS 2019"]
    assert list(odd.values())[-9:-1] == [*said, *made]
    assert list(also.values())[-9:-1] == ["abc", "biopsy", "0.0", "0.0", "GUPS 2019", *made]


def test_the_summary_has_four_decimals_and_the_record_all(predictor, entry, tmp_path):
    run(predictor, entry, tmp_path, ResultSettings(min_area_mm2=0.0123456))
    with Summary(tmp_path).write().open(newline="") as stream:
        (row,) = csv.DictReader(stream)
    summary = json.loads((tmp_path / "odd" / "result.json").read_text())["summary"]
    measured = [k for k, v in summary.items() if isinstance(v, float) and k not in results.HOW]
    assert {"tissue_mm2", "NC_mm2", "NC_share", "mean_uncertainty"} <= set(measured)
    for key in measured:
        assert len(row[key].partition(".")[2]) <= 4
        assert float(row[key]) == pytest.approx(summary[key], abs=5.1e-5)
    assert any(len(str(summary[key])) > 8 for key in measured)
    assert row["min_area_mm2"] == "0.0123456"  # as it was given


def test_what_a_killed_run_left_is_no_result(predictor, entry, tmp_path):
    run(predictor, entry, tmp_path)
    (tmp_path / "odd").rename(tmp_path / "odd.part")
    (tmp_path / "odd.part" / "result.json").unlink()
    assert Summary(tmp_path).write().read_text().count("\n") == 1  # the header alone
    _, made = run(predictor, entry, tmp_path)
    assert made
    assert not (tmp_path / "odd.part").exists()


def test_summary_collects_every_slide(predictor, entry, tmp_path):
    run(predictor, entry, tmp_path)
    run(predictor, replace(entry, name="also"), tmp_path)
    with Summary(tmp_path).write().open(newline="") as stream:
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


def test_maps_are_calibrated_and_say_so(predictor, entry, tmp_path):
    run(predictor, entry, tmp_path / "raw")
    row, _ = run(predictor, entry, tmp_path / "soft", ResultSettings(temperature=2.5))
    assert row["temperature"] == 2.5
    raw, soft = (zarr.open_group(tmp_path / n / "odd" / "grades.zarr") for n in ("raw", "soft"))
    assert raw.attrs["wsikd"]["temperature"] is None
    assert soft.attrs["wsikd"]["temperature"] == 2.5
    odds = np.log(raw["0"][:].astype(float)) / 2.5
    expected = np.exp(odds) / np.exp(odds).sum(0)
    np.testing.assert_allclose(soft["0"][:], expected, rtol=1e-5)
    with (tmp_path / "soft" / "odd" / "tiles.csv").open(newline="") as file:
        table = [float(line["prob_G3"]) for line in csv.DictReader(file)]
    np.testing.assert_allclose(table, expected[1][~np.isnan(expected[1])], atol=1e-6)
    with pytest.raises(StoreMismatchError, match=r"temperature 2\.5 there, None asked"):
        run(predictor, entry, tmp_path / "soft")


def statistics_of(slide_file):
    with open_entry(SlideEntry(slide_file, "odd")) as slide:
        canvas = Canvas.plan(slide, SPEC.mpp)
        found = [canvas.read(x, y, 16, 16) for x in range(40, 80, 16) for y in range(30, 60, 16)]
    return np.array([field_statistics(patch) for patch in found])


def test_a_slide_unlike_the_training_is_flagged(predictor, entry, tmp_path, caplog):
    seen = statistics_of(entry.path)
    near = Appearance.of(seen, ["a"] * len(seen))
    row, _ = run(predictor, entry, tmp_path / "near", trained_on=near)
    assert row["unlike_training"] is False
    assert row["distance_from_training"] <= FAR
    assert not caplog.records
    sharper = seen.copy()
    sharper[:, list(STATISTICS).index("focus")] += 2
    far = Appearance.of(sharper, ["a"] * len(seen))
    row, _ = run(predictor, entry, tmp_path / "far", trained_on=far)
    assert (row["unlike_training"], row["farthest_in"]) == (True, "focus")
    assert "odd: differs from the training data in focus" in caplog.text
    summary = Summary(tmp_path / "far").write().read_text()
    assert ",True," in summary
    again, made = run(predictor, entry, tmp_path / "far", trained_on=far)
    assert (again, made) == (row, False)


def test_without_statistics_no_slide_is_flagged(predictor, entry, tmp_path, caplog):
    row, _ = run(predictor, entry, tmp_path)
    assert [row[name] for name in COLUMNS] == [None] * 3
    assert not caplog.records


@pytest.fixture(scope="module")
def trained_on_pink(tmp_path_factory):
    """Stain and focus of three slides of mottled pink."""
    folder = tmp_path_factory.mktemp("pink")
    rows, names = [], []
    for seed in range(3):
        write_pyramid(folder / f"{seed}.svs", pink(seed), mpp=0.5, power=20)
        watcher = Watcher()
        with open_entry(SlideEntry(folder / f"{seed}.svs", f"{seed}")) as slide:
            SlidePredictor(Purple(), SPEC, device="cpu").predict(slide, watch=watcher)
        rows.append(watcher.statistics)
        names += [f"{seed}"] * len(watcher.statistics)
    return Appearance.of(np.concatenate(rows), names)


def pink(seed):
    return tissue_rgb(1301, 1107, (200, 150, 900, 800), seed=seed, coarse=24)


def hue_turned(rgb):
    hsv = cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0].astype(int) + 150) % 180
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


@pytest.mark.parametrize(
    ("change", "far"),
    [
        (lambda rgb: rgb, None),
        (lambda rgb: cv2.GaussianBlur(rgb, (0, 0), 30), ("focus",)),
        (hue_turned, ("od_share_red", "od_share_green", "od_share_blue")),
        (lambda rgb: 255 - (255 - rgb) // 4, tuple(n for n in STATISTICS if "sd" not in n)),
    ],
    ids=["untouched", "blurred", "recoloured", "faded"],
)
def test_the_same_slide_recoloured_or_blurred_is_flagged(
    predictor, trained_on_pink, tmp_path, change, far
):
    write_pyramid(tmp_path / "s.svs", np.ascontiguousarray(change(pink(7))), mpp=0.5, power=20)
    entry = SlideEntry(tmp_path / "s.svs", "s", mask=None)
    row, _ = run(predictor, entry, tmp_path / "out", trained_on=trained_on_pink)
    assert row["fields"] > 50
    assert row["unlike_training"] is (far is not None)
    assert far is None or row["farthest_in"] in far


def test_what_a_card_tells_of_its_training(trained_on_pink, tmp_path, caplog):
    def bundle(card):
        return StudentBundle(tmp_path, SPEC, GraderCard.model_construct(**card))

    assert trained_on(bundle({"appearance": trained_on_pink.as_card()})).slides == 3
    assert not caplog.records
    assert trained_on(bundle({})) is None
    assert "holds no stain and focus" in caplog.text
    with pytest.raises(BundleError, match=r"card\.json: its entry 'appearance' is malformed"):
        trained_on(bundle({"appearance": {"quantiles": 3}}))
