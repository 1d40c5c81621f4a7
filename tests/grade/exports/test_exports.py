"""Every export is read back by a reader that knows nothing of wsikd."""

import csv
import json
import os
import uuid
from dataclasses import replace
from pathlib import Path

import dask.array
import numpy as np
import pytest
import shapely
import zarr
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader
from PIL import Image

from tests.grade.maps import (
    BOUNDS,
    CELL,
    CLASSES,
    MPP,
    ORIGIN,
    SQUARE,
    FakeSlide,
    map_of,
    square_map,
    white_slide,
)
from wsikd.core.errors import ConfigError, OutputError, SlideError
from wsikd.grade.exports import EXPORTERS, Exporter, aside, find_exporter, formats_for, write_all
from wsikd.grade.exports import geojson as geojson_export
from wsikd.grade.exports import overlay as overlay_export
from wsikd.grade.reports.class_colours import class_colour
from wsikd.grade.reports.thumbnail import thumbnail
from wsikd.slides.base import Slide, open_slide

FILES = {name: find_exporter(name).file for name in EXPORTERS}
OF_ANY_SLIDE = [name for name in EXPORTERS if name != "dicom-seg"]


@pytest.fixture(params=OF_ANY_SLIDE)
def exporter(request):
    return request.param, find_exporter(request.param).write


def near_boundary(made):
    """The same map with its probabilities drawn together."""
    return replace(made, probability_khw=made.probability_khw * 0.1 + 0.9 / len(made.classes))


def contents(path):
    """Every file under a path, by name, for comparing two writings."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return {str(p.relative_to(path)): p.read_bytes() for p in files}


# --- what every exporter keeps ---------------------------------------------------------------


def test_fake_slide_is_a_slide():
    assert isinstance(white_slide(), Slide)


def test_export_replaces_the_earlier_one_and_leaves_nothing_beside_it(exporter, tmp_path):
    name, write = exporter
    path = tmp_path / "made" / FILES[name]
    write(near_boundary(map_of([[3, 3], [-1, 3]])), path, slide=white_slide())
    earlier = contents(path)
    write(square_map(), path, slide=white_slide())
    first = contents(path)
    write(square_map(), path, slide=white_slide())
    assert first == contents(path) != earlier
    assert [p.name for p in path.parent.iterdir()] == [FILES[name]]


def test_export_takes_maps_of_any_extent(exporter, tmp_path):
    name, write = exporter
    for index, grades in enumerate(([[-1, -1]], [[1]], np.zeros((1, 9)), np.zeros((9, 1)) - 1)):
        write(map_of(grades), tmp_path / f"{index}{FILES[name]}", slide=white_slide())
    assert len(list(tmp_path.iterdir())) == 4


def test_export_takes_class_names_of_any_script(exporter, tmp_path):
    name, write = exporter
    classes = ("Größe, 3", "γλώσσα", "组织", 'a"b\\c', "n" * 90)
    write(map_of([[0, 1, 2, 3, 4]], classes), tmp_path / FILES[name], slide=white_slide())
    assert contents(tmp_path / FILES[name])


def test_export_to_an_impossible_place_says_so(exporter, tmp_path):
    name, write = exporter
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match=r"cannot be written .*-o"):
        write(square_map(), tmp_path / "file" / FILES[name], slide=white_slide())
    assert contents(tmp_path) == {"file": b"in the way"}


def test_export_carries_nothing_that_names_a_patient(exporter, tmp_path):
    name, write = exporter
    write(near_boundary(square_map()), tmp_path / FILES[name], slide=white_slide())
    everything = b"".join(contents(tmp_path / FILES[name]).values())
    assert len(everything) > 100
    for secret in (b"PATIENT", b"SECRETVENDOR", b"/home", os.fsencode(tmp_path)):
        assert secret not in everything


def test_write_all(tmp_path):
    made = write_all(square_map(), tmp_path / "s", OF_ANY_SLIDE, slide=white_slide())
    assert made == {name: tmp_path / "s" / FILES[name] for name in OF_ANY_SLIDE}
    assert {p.name for p in (tmp_path / "s").iterdir()} == {FILES[n] for n in OF_ANY_SLIDE}


def test_formats_of_a_slide():
    slide = white_slide()
    assert formats_for(["png", "zarr"], slide) == ("zarr", "png")
    every = tuple(name for name in OF_ANY_SLIDE if name not in ("png", "webp"))
    assert formats_for(["all"], slide) == formats_for(["all", "csv"], slide) == every
    assert formats_for(["all", "png"], slide) == tuple(n for n in OF_ANY_SLIDE if n != "webp")
    with pytest.raises(SlideError, match=r"PATIENT-7\.svs: is not a DICOM slide.*remove dicom-seg"):
        formats_for(["csv", "dicom-seg"], slide)
    with pytest.raises(SlideError, match="not a DICOM slide"):
        formats_for(["all", "dicom-seg"], slide)
    with pytest.raises(ConfigError, match="dwg"):
        formats_for(["dwg"], slide)
    slide.info = replace(slide.info, vendor="dicom")
    assert formats_for(["all"], slide) == (*every, "dicom-seg")


def test_the_file_of_an_exporter_is_recognised_in_a_result():
    assert Exporter("grades.sqlite", write_all).file == "grades.sqlite"
    for file in ("slide.sqlite", "grades", "grades.a.b.c", "a/grades.csv", "../grades.csv"):
        with pytest.raises(ValueError, match=r"named grades\.SUFFIX, not '"):
            Exporter(file, write_all)


def test_write_all_refuses_an_unknown_format_before_writing(tmp_path):
    with pytest.raises(ConfigError, match="zarr, ome-tiff, csv, uncertain, geojson"):
        write_all(square_map(), tmp_path / "s", ["csv", "dwg"])
    assert not (tmp_path / "s").exists()


def test_a_failed_writing_keeps_what_was_there(tmp_path):
    path = tmp_path / "result"
    with aside(path) as part:
        part.write_text("whole")

    def write_and_fail(error):
        with aside(path) as part:
            part.write_text("half")
            raise error

    with pytest.raises(ZeroDivisionError):
        write_and_fail(ZeroDivisionError())
    with pytest.raises(OutputError, match="No space left"):
        write_and_fail(OSError(28, "No space left on device"))
    assert path.read_text() == "whole"
    assert [p.name for p in tmp_path.iterdir()] == ["result"]


@pytest.mark.parametrize("name", ["grades.zarr", "grades.zarr.part"])
def test_a_folder_of_somebody_else_is_left_alone(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "x").write_text("mine")
    with pytest.raises(OutputError, match=f"{name}: was not written by wsikd as a grade map"):
        write_all(square_map(), tmp_path, ["zarr"])
    assert (tmp_path / name / "x").read_text() == "mine"


def test_a_grade_map_is_replaced_and_leaves_nothing_else(tmp_path):
    for _ in range(2):
        write_all(square_map(), tmp_path, ["zarr"])
    assert [p.name for p in tmp_path.iterdir()] == ["grades.zarr"]
    assert not (tmp_path / "grades.zarr" / ".wsikd").exists()


# --- the square comes back in its place ------------------------------------------------------


def test_square_through_csv(tmp_path):
    made = square_map()
    path = write_all(made, tmp_path, ["csv"])["csv"]
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    probabilities = [f"prob_{name}" for name in CLASSES]
    corners = ["minx", "miny", "width", "height"]
    assert list(rows[0]) == [*corners, *probabilities, "tissue", "uncertainty"]
    assert len(rows) == 40
    best = [max(probabilities, key=lambda p, row=row: float(row[p])) for row in rows]
    square = [row for row, name in zip(rows, best, strict=True) if name == "prob_G4"]
    boxes = np.array([[float(row[key]) for key in corners] for row in square])
    assert len(square) == 9
    extent = [*boxes[:, :2].min(0), *(boxes[:, :2] + boxes[:, 2:]).max(0)]
    assert extent == pytest.approx(SQUARE, abs=2e-3)
    table = np.array([[float(row[p]) for p in probabilities] for row in rows])
    expected = made.probability_khw[:, made.valid_hw].T
    np.testing.assert_allclose(table, expected, atol=6e-7)
    assert {row["tissue"] for row in rows} == {"0.500000"}


def test_csv_writes_whole_numbers_as_wsinfer_does(tmp_path):
    made = square_map(origin_xy=(16.0, 0.5), cell_px=(128.0, 128.0))
    lines = write_all(made, tmp_path, ["csv"])["csv"].read_text("utf-8").splitlines()
    assert lines[1].startswith("16,0.5,128,128,0.")


@pytest.mark.parametrize(("name", "count"), [("geojson", 2), ("geojson-tiles", 40)])
def test_square_through_geojson(name, count, tmp_path):
    made = square_map()
    find_exporter(name).write(made, tmp_path / "a.geojson")
    features = json.loads((tmp_path / "a.geojson").read_text("utf-8"))["features"]
    assert len(features) == count
    shapes = {}
    for feature in features:
        shape = shapely.from_geojson(json.dumps(feature["geometry"]))
        assert shape.is_valid
        properties = feature["properties"]
        assert properties["objectType"] == {"geojson": "annotation", "geojson-tiles": "tile"}[name]
        measured = properties["measurements"]
        assert measured["area_mm2"] == pytest.approx(shape.area * MPP**2 / 1e6, rel=1e-4)
        assert measured["tissue_mm2"] == pytest.approx(measured["area_mm2"] / 2, abs=1e-6)
        shapes.setdefault(properties["classification"]["name"], []).append(shape)
    square = shapely.box(*np.subtract(SQUARE, (*BOUNDS[:2], *BOUNDS[:2])))
    found = shapely.union_all(shapes["G4"], grid_size=1e-3)
    assert found.bounds == pytest.approx(square.bounds, abs=2e-3)
    assert found.symmetric_difference(square).area < 1
    around = shapely.union_all(shapes["NC"], grid_size=1e-3)
    assert len(around.interiors) == 1
    assert shapely.Polygon(around.interiors[0]).symmetric_difference(square).area < 1
    ids = [uuid.UUID(feature["id"]) for feature in features]
    assert len(set(ids)) == count


def test_geojson_measurements_are_means_over_the_region(tmp_path):
    made = map_of([[1, 1, 2], [2, 1, -1]])
    geojson_export.write(made, tmp_path / "a.geojson")
    features = json.loads((tmp_path / "a.geojson").read_text("utf-8"))["features"]
    first = next(f for f in features if f["properties"]["classification"]["name"] == "G3")
    cells = [(0, 0), (0, 1), (1, 1)]
    for index, name in enumerate(CLASSES):
        mean = np.mean([made.probability_khw[index, r, c] for r, c in cells])
        assert first["properties"]["measurements"][f"prob_{name}"] == pytest.approx(mean, abs=1e-6)
    assert len(features) == 3
    assert first["properties"]["classification"]["color"] == list(class_colour("G3", 1))
    outline = np.array(first["geometry"]["coordinates"][0])
    assert outline[0].tolist() == outline[-1].tolist()
    assert shapely.LinearRing(outline).is_ccw


def test_square_through_zarr_and_dask(tmp_path):
    made = square_map()
    path = write_all(made, tmp_path, ["zarr"])["zarr"]
    group = zarr.open_group(path, mode="r")
    ome = group.attrs["ome"]
    assert ome["version"] == "0.5"
    assert [axis["name"] for axis in ome["multiscales"][0]["axes"]] == ["c", "y", "x"]
    probability = dask.array.from_zarr(group["0"]).compute()
    np.testing.assert_array_equal(probability, made.probability_khw)
    assert probability.dtype == np.float32
    label = group["labels/grade/0"][:]
    assert label.dtype == np.uint8
    assert (label[5] == 0).all()
    labels = group["labels/grade"].attrs["ome"]["multiscales"][0]["datasets"][0]
    image = ome["multiscales"][0]["datasets"][0]
    for found, dataset in ((label == 3, labels), (np.argmax(probability, 0) == 2, image)):
        scale, shift = dataset["coordinateTransformations"]
        centres = np.argwhere(found) * scale["scale"][-2:] + shift["translation"][-2:]
        half = np.array(scale["scale"][-2:]) / 2
        (top, left), (bottom, right) = centres.min(0) - half, centres.max(0) + half
        assert np.array([left, top, right, bottom]) / MPP == pytest.approx(SQUARE)
    placed = group.attrs["wsikd"]
    assert placed["complete"] is True
    assert placed["classes"] == list(CLASSES)
    assert (placed["origin_xy"], placed["cell_px"]) == (list(ORIGIN), [CELL, CELL])
    assert placed["slide"] == {
        "name": "slide 1",
        "dimensions": [1237, 991],
        "mpp": [MPP, MPP],
        "bounds": list(BOUNDS),
    }


def test_ome_zarrs_own_reader(tmp_path):
    made = square_map()
    path = write_all(made, tmp_path, ["zarr"])["zarr"]
    nodes = list(Reader(parse_url(path))())
    image = next(n for n in nodes if str(n.zarr.path).endswith("grades.zarr"))
    assert image.data[0].shape == (4, 6, 8)
    np.testing.assert_array_equal(image.data[0].compute(), made.probability_khw)
    assert image.metadata["channel_names"] == list(CLASSES)
    grade = next(n for n in nodes if str(n.zarr.path).endswith("grade"))
    np.testing.assert_array_equal(grade.data[0].compute(), made.grade_hw + 1)
    assert {k: v["class"] for k, v in grade.metadata["properties"].items()} == dict(
        enumerate(CLASSES, 1)
    )
    assert grade.metadata["color"][3] == [*np.divide(class_colour("G4", 2), 255), 1.0]


def test_many_classes_still_fit_the_label_image(tmp_path):
    classes = tuple(f"class {i}" for i in range(300))
    path = write_all(map_of([[299, 255, -1]], classes), tmp_path, ["zarr"])["zarr"]
    assert zarr.open_group(path, mode="r")["labels/grade/0"][:].tolist() == [[300, 256, 0]]


def tinted(name, background=255):
    colour = np.array(class_colour(name, CLASSES.index(name)))
    return np.round(0.55 * background + 0.45 * colour)


@pytest.mark.parametrize("max_px", [400, 733, 5000])
@pytest.mark.parametrize("with_slide", [True, False])
def test_square_through_png(max_px, with_slide, tmp_path):
    slide = white_slide() if with_slide else None
    overlay_export.write(square_map(), tmp_path / "o.png", slide=slide, max_px=max_px)
    scale = min(1, max_px / BOUNDS[2])
    with Image.open(tmp_path / "o.png") as opened:
        assert set(opened.info) <= {overlay_export.PICTURE_KEY}
        pixels = np.asarray(opened.convert("RGB")).astype(float)
    picture = pixels[: round(BOUNDS[3] * scale), : round(BOUNDS[2] * scale)]
    solid, tint = np.array(class_colour("G4", 2)), tinted("G4")
    found = (np.abs(picture - tint) <= 1).all(-1) | (picture == solid).all(-1)
    (top, left), (bottom, right) = np.argwhere(found).min(0), np.argwhere(found).max(0) + 1
    expected = np.subtract(SQUARE, (*BOUNDS[:2], *BOUNDS[:2])) * scale
    assert np.array([left, top, right, bottom]) == pytest.approx(expected, abs=1.2)
    assert found[top:bottom, left:right].all()
    inner = picture[(top + bottom) // 2, (left + right) // 2]
    assert np.abs(inner - tint).max() <= 1
    unread = (ORIGIN[1] + 5 * CELL - BOUNDS[1]) * scale
    assert (picture[round(unread) + 2 :] == 255).all()
    assert len(np.unique(pixels[picture.shape[0] :].reshape(-1, 3), axis=0)) > 4


def test_png_tints_the_tissue_and_leaves_the_rest_alone(tmp_path):
    rgb = np.random.default_rng(2).integers(0, 255, (300, 400, 3), np.uint8)
    slide = FakeSlide(rgb)
    placed = {"origin_xy": (100.0, 50.0), "cell_px": (8.0, 8.0), "mpp": 8 * MPP}
    made = map_of(np.full((10, 20), 3), info=slide.info, **placed)
    overlay_export.write(made, tmp_path / "o.png", slide=slide, alpha=0.3)
    with Image.open(tmp_path / "o.png") as opened:
        picture = np.asarray(opened.convert("RGB"))[:300, :400].astype(float)
    expected = rgb.astype(float)
    expected[50:130, 100:260] *= 0.7
    expected[50:130, 100:260] += 0.3 * np.array(class_colour("G5", 3))
    np.testing.assert_allclose(picture, expected, atol=0.51)


@pytest.mark.parametrize(
    ("longest", "length"), [(0.34, 0.2), (1, 1.0), (7.9, 5.0), (0.05, 0.05), (19.99, 10.0)]
)
def test_scale_bars_have_round_lengths(longest, length):
    assert overlay_export.nice_length(longest) == length


# --- a real slide ----------------------------------------------------------------------------


@pytest.mark.slides
def test_overlay_lies_on_a_real_slide(tmp_path):
    folder = os.environ.get("WSIKD_TEST_DATA")
    if not folder:
        pytest.skip("WSIKD_TEST_DATA is not set")
    with open_slide(Path(folder) / "slides" / "CMU-1-Small-Region.svs") as slide:
        small, scale = thumbnail(slide, 1200)
        grades = np.where(np.indices((23, 17)).sum(0) % 5, 1, -1)
        made = map_of(grades, info=replace(slide.info, name="CMU-1"))
        made_paths = write_all(made, tmp_path, ["png"], slide=slide)
    with Image.open(made_paths["png"]) as opened:
        picture = np.asarray(opened.convert("RGB"))[: small.shape[0], : small.shape[1]]
    changed = (picture != small).any(-1)
    at = (np.argwhere(changed) + 0.5) / scale[::-1]
    cells = np.floor((at - ORIGIN[::-1]) / CELL).astype(int)
    assert (grades[tuple(cells.T)] == 1).all()
    assert changed.sum() == pytest.approx((grades == 1).sum() * (CELL * scale[0]) ** 2, rel=0.02)


def test_zarr_reads_back_whole(tmp_path: Path) -> None:
    from wsikd.core.errors import StoreNotFoundError
    from wsikd.grade.exports import ome_zarr

    made = square_map()
    ome_zarr.write(made, tmp_path / "g.zarr")
    back = ome_zarr.read(tmp_path / "g.zarr", made.slide)
    np.testing.assert_array_equal(back.probability_khw, made.probability_khw)
    np.testing.assert_array_equal(back.valid_hw, made.valid_hw)
    np.testing.assert_array_equal(back.tissue_hw, made.tissue_hw)
    assert (back.origin_xy, back.cell_px, back.mpp) == (made.origin_xy, made.cell_px, made.mpp)
    with pytest.raises(StoreNotFoundError, match="run wsikd infer"):
        ome_zarr.read(tmp_path / "nothing.zarr", made.slide)


def test_heat_is_as_full_as_the_last_class_is_probable():
    """Each cell's colour lies between the slide's white and the class's, at its probability."""
    made = map_of([[0, 1, -1]], ("rest", "attention"))
    share = np.array([[0.25, 1.0, np.nan]], np.float32)
    made = replace(made, probability_khw=np.stack([1 - share, share]))
    seen = overlay_export.blank(made, 1200)
    painted = overlay_export.paint_heat(made, seen, alpha=0.8)
    colour = np.array(class_colour("attention", 1))
    found = [
        made.cells_at(axis, seen.origin_xy[axis] + (np.arange(n) + 0.5) / seen.scale[axis]).tolist()
        for axis, n in ((0, painted.shape[1]), (1, painted.shape[0]))
    ]
    for cell, weight in enumerate([0.2, 0.8, 0.0]):
        pixel = painted[found[1].index(0), found[0].index(cell)]
        assert (pixel == np.round((1 - weight) * 255 + weight * colour)).all(), cell


def test_a_long_name_in_a_caption_is_not_cut_off(tmp_path):
    grade_map = replace(square_map(), caption=f"Graded by student {'W' * 80} (0123456789ab).")
    write_all(grade_map, tmp_path, ("png",))
    with Image.open(tmp_path / "overlay.png") as picture:
        _, high = overlay_export.slide_size(picture)
        legend = np.asarray(picture.convert("L"))[high:]
    assert (legend[:, -6:] == 255).all()
    assert (legend[:, :-6] < 128).any()
