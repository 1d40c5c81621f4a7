"""Polygons, thumbnails and colours: what the exports are drawn with."""

import itertools
import json

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.grade.maps import CELL, CLASSES, FakeSlide, map_of
from wsikd.grade.exports import geojson as geojson_export
from wsikd.grade.exports.overlay import paint
from wsikd.grade.reports.class_colours import class_colour
from wsikd.grade.reports.thumbnail import View, thumbnail, view
from wsikd.grade.vectorise import regions

# --- polygons --------------------------------------------------------------------------------

RASTERS = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda shape: arrays(np.int16, shape, elements=st.integers(-1, 2))
)


@given(RASTERS)
def test_regions_equal_the_union_of_their_cells(grade_hw):
    found, component_hw = regions(grade_hw)
    shapes = [shapely.Polygon(r.rings[0], r.rings[1:]) for r in found]
    assert all(shape.is_valid for shape in shapes)
    assert [r.component for r in found] == list(range(1, component_hw.max() + 1))
    for region, shape in zip(found, shapes, strict=True):
        cells = np.argwhere(component_hw == region.component)
        union = shapely.union_all([shapely.box(c, r, c + 1, r + 1) for r, c in cells])
        assert shape.equals(union)
        assert (grade_hw[component_hw == region.component] == region.grade).all()
        corners = sum(len(ring) - 1 for ring in region.rings)
        least = shapely.get_num_coordinates(shapely.simplify(union, 0))
        assert corners + len(region.rings) <= least + 2 * len(region.rings)
    for grade in range(3):
        cells = np.argwhere(grade_hw == grade)
        boxes = [shapely.box(c, r, c + 1, r + 1) for r, c in cells]
        parts = shapely.get_parts(shapely.union_all(boxes)) if boxes else []
        assert len(parts) == sum(r.grade == grade for r in found)


def test_ring_that_closes_only_at_a_corner():
    grade_hw = np.array([[0, 0, 0], [0, -1, 0], [0, 0, -1]], np.int16)
    (region,), _ = regions(grade_hw)
    shape = shapely.Polygon(region.rings[0], region.rings[1:])
    assert shape.is_valid
    assert shape.area == 7
    assert len(region.rings) == 2
    assert shapely.LinearRing(region.rings[0]).is_ccw
    assert not shapely.LinearRing(region.rings[1]).is_ccw


def test_a_slide_of_100_000_fields_keeps_its_areas(tmp_path):
    rng = np.random.default_rng(3)
    coarse = rng.integers(-1, 4, (42, 42))
    grades = coarse.repeat(8, 0).repeat(8, 1)
    noisy = rng.random(grades.shape) < 0.03
    grades[noisy] = rng.integers(0, 4, int(noisy.sum()))
    geojson_export.write(map_of(grades), tmp_path / "a.geojson")
    features = json.loads((tmp_path / "a.geojson").read_text("utf-8"))["features"]
    shapes = shapely.from_geojson([json.dumps(f["geometry"]) for f in features])
    assert shapely.is_valid(shapes).all()
    names = np.array([f["properties"]["classification"]["name"] for f in features])
    for index, name in enumerate(CLASSES):
        area = shapely.area(shapes[names == name]).sum()
        assert area == pytest.approx((grades == index).sum() * CELL**2, rel=1e-5)


# --- thumbnails ------------------------------------------------------------------------------


def test_thumbnail_is_an_area_average_read_in_blocks():
    rgb = np.random.default_rng(1).integers(0, 255, (3000, 4500, 3), np.uint8)
    slide = FakeSlide(rgb)
    small, scale = thumbnail(slide, 900)
    assert small.shape == (600, 900, 3)
    assert scale == (0.2, 0.2)
    difference = np.abs(small.astype(float) - rgb.reshape(600, 5, 900, 5, 3).mean((1, 3)))
    assert difference.max() <= 0.51
    assert slide.largest_read <= 2048**2


def test_thumbnail_reads_the_coarsest_level_that_serves():
    slide = FakeSlide(np.full((1024, 2048, 3), 200, np.uint8), downsamples=(1, 4, 16))
    for max_px, level in ((100, 2), (256, 2), (257, 1), (512, 1), (1024, 1), (1025, 0), (4000, 0)):
        slide.reads.clear()
        small, scale = thumbnail(slide, max_px)
        assert set(slide.reads) == {level}
        assert small.shape[1] == min(max_px, 2048 // (1, 4, 16)[level])
        assert scale[0] == pytest.approx(small.shape[1] / 2048, rel=0.01)
        assert (small == 200).all()


@pytest.mark.parametrize("max_px", [97, 250, 731, 1000])
@pytest.mark.parametrize("box", [(0, 0, 1237, 991), (101.5, 57.25, 900, 633)])
def test_view_keeps_places(max_px, box):
    rgb = np.full((991, 1237, 3), 255, np.uint8)
    rgb[300:500, 400:700] = 0
    seen = view(FakeSlide(rgb, downsamples=(1, 4)), box, max_px)
    level_px = max(box[2:]) / (4 if 2 * max(box[2:]) / max_px >= 4 else 1)
    assert abs(max(seen.rgb.shape) - min(max_px, level_px)) <= 1.5
    dark = 1 - seen.rgb[..., 0] / 255
    assert dark.sum() == pytest.approx(60000 * seen.scale[0] * seen.scale[1], rel=0.01)
    rows, columns = np.indices(dark.shape) + 0.5
    for where, axis, centre in ((columns, 0, 550), (rows, 1, 400)):
        place = (where * dark).sum() / dark.sum() / seen.scale[axis] + seen.origin_xy[axis]
        assert place == pytest.approx(centre, abs=0.25 / seen.scale[axis])


# --- colours ---------------------------------------------------------------------------------

# Full dichromacy in linear RGB: Machado, Oliveira and Fernandes, IEEE TVCG 2009;15:1291-1298
SIGHT = {
    "normal": np.eye(3),
    "protan": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deutan": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritan": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def lab(rgb):
    """CIE L*a*b* (D65) of linear RGB rows."""
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    f = np.clip(rgb, 0, 1) @ np.transpose(to_xyz) / (0.9505, 1, 1.089)
    f = np.where(f > 216 / 24389, np.cbrt(f), (24389 / 27 * f + 16) / 116)
    return np.stack([116 * f[:, 1] - 16, *((f[:, :2] - f[:, 1:]) * (500, 200)).T], 1)


# White to nuclei: colours that are common in H&E.
STAINED = [(240, 240, 242), (235, 200, 220), (214, 150, 190), (180, 110, 170), (140, 80, 150),
           (100, 60, 130)]  # fmt: skip


def seen_by(srgb, sight):
    """CIE L*a*b* of sRGB colours (N, 3), 0 to 255, for readers with a kind of sight."""
    srgb = np.asarray(srgb, float) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return lab(linear @ np.transpose(SIGHT[sight]))


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize("tissue", STAINED)
def test_tinted_tissue_shows_its_grade_to_colour_blind_readers_and_in_grey(sight, tissue):
    ciede2000 = pytest.importorskip("skimage.color").deltaE_ciede2000
    made = map_of([range(len(CLASSES))], origin_xy=(0.0, 0.0), cell_px=(9.0, 9.0))
    picture = View(np.full((9, 36, 3), tissue, np.uint8), (0.0, 0.0), (1.0, 1.0))
    colours = seen_by(paint(made, picture)[4, 4::9], sight)
    for one, other in itertools.combinations(colours, 2):
        assert ciede2000(one, other) > 14
    if sight == "normal":
        assert np.diff(np.sort(colours[:, 0])).min() > 6


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize(
    ("names", "apart"), [(CLASSES, 20), ([f"class {i}" for i in range(8)], 15)]
)
def test_colours_stay_apart_for_colour_blind_readers(sight, names, apart):
    seen = seen_by([class_colour(name, i) for i, name in enumerate(names)], sight)
    distance = np.linalg.norm(seen[:, None] - seen[None], axis=-1)
    assert distance[np.triu_indices(len(names), 1)].min() > apart


def test_colour_follows_meaning_not_place():
    assert class_colour("G4", 2) == class_colour("gleason_4", 0)
    assert class_colour("NC", 0) == class_colour("benign", 3)
    assert class_colour("Viable", 1) == class_colour("other", 9)
