import json

import cv2
import numpy as np
import pytest
import tifffile
from scipy import ndimage

from tests.slides.pixels import GLASS, MemorySlide, tissue_rgb
from tests.slides.resample.test_area import slow_sums
from wsikd.core.errors import AnnotationError, ConfigError
from wsikd.slides.base import open_slide
from wsikd.slides.tissue import otsu as tissue_otsu
from wsikd.slides.tissue.find import (
    TissueAreas,
    TissueMask,
    default_areas,
    everything,
    filter_areas,
    find_tissue,
)
from wsikd.slides.tissue.maskers import MASKERS
from wsikd.slides.tissue.otsu import without_small

MPP = 8.0


def otsu(rgb, mpp):
    return filter_areas(tissue_otsu.otsu(rgb, mpp), mpp)


def glass(height=200, width=300, seed=1):
    rng = np.random.default_rng(seed)
    noise = rng.integers(-4, 5, (height, width, 1))
    return np.clip(np.full((height, width, 3), GLASS) + noise, 0, 255).astype(np.uint8)


def with_tissue(rgb, x, y, width, height):
    rgb = rgb.copy()
    rgb[y : y + height, x : x + width] = tissue_rgb(width, height, coarse=3)
    return rgb


def test_glass_has_no_tissue():
    assert not otsu(glass(), MPP).any()
    assert not otsu(np.full((50, 50, 3), 255, np.uint8), MPP).any()


def test_a_slide_full_of_tissue_is_all_tissue():
    assert otsu(tissue_rgb(300, 200, coarse=3), MPP).all()


def test_half_and_half():
    mask = otsu(with_tissue(glass(), 0, 0, 150, 200), MPP)
    assert mask[:, :148].all()
    assert not mask[:, 152:].any()


def test_pale_tissue_counts():
    rgb = glass()
    rgb[50:150, 50:250] = (225, 195, 215)
    mask = otsu(rgb, MPP)
    assert mask[53:147, 53:247].all()
    assert not mask[:46].any()


@pytest.mark.parametrize("ink", [(0, 0, 0), (40, 40, 42), (120, 120, 120)])
def test_black_pen_and_shadows_stay_out(ink):
    rgb = with_tissue(glass(), 20, 50, 100, 100)
    rgb[:, 200:230] = ink
    mask = otsu(rgb, MPP)
    assert mask[55:145, 25:115].all()
    assert not mask[:, 125:].any()


def test_dust_is_dropped_and_pinholes_are_filled():
    rgb = with_tissue(glass(), 40, 40, 120, 120)
    rgb[10:14, 10:14] = (150, 60, 120)  # 32 um across
    rgb[90:98, 90:98] = GLASS  # 64 um across
    mask = otsu(rgb, MPP)
    assert not mask[:30].any()
    assert mask[45:155, 45:155].all()


def test_areas_count_in_micrometres():
    mask = np.zeros((300, 300), bool)
    mask[20:60, 20:60] = True
    assert filter_areas(mask, 8.0)[30, 30]  # 320 um across
    assert not filter_areas(mask, 2.0).any()  # 80 um across


@pytest.mark.parametrize("side", [10, 17, 30])
@pytest.mark.parametrize("mpp", [4.0, 8.0])
def test_areas_are_limits_to_the_pixel(side, mpp):
    piece = np.zeros((80, 90), bool)
    piece[20 : 20 + side, 30 : 30 + side] = True
    hole = ~piece
    area = (side * mpp) ** 2
    for smaller, tissue in ((0.0, piece), (area, piece), (area + 1, np.zeros_like(piece))):
        np.testing.assert_array_equal(filter_areas(piece, mpp, TissueAreas(smaller, 0.0)), tissue)
    for larger, tissue in ((0.0, hole), (area, hole), (area + 1, np.ones_like(hole))):
        np.testing.assert_array_equal(filter_areas(hole, mpp, TissueAreas(0.0, larger)), tissue)


def test_areas_reach_the_slide():
    rgb = np.full((800, 1200, 3), GLASS, np.uint8)
    rgb[100:500, 100:700] = tissue_rgb(600, 400, coarse=30)
    rgb[600:700, 900:1000] = tissue_rgb(100, 100, coarse=30)  # 80 um across
    rgb[250:330, 300:400] = GLASS  # 64 x 80 um
    slide = MemorySlide(rgb, mpp=(0.8, 0.8))
    usual = find_tissue(slide)
    assert (usual.mask[60:70, 90:100].any(), usual.mask[27:31, 33:38].all()) == (False, True)
    fine = find_tissue(slide, areas=TissueAreas(2_000, 2_000))
    assert fine.mask[61:69, 91:99].all()
    assert not fine.mask[27:31, 33:38].any()
    assert default_areas("otsu") == TissueAreas(20_000, 20_000)
    assert default_areas("tiatoolbox-otsu") == default_areas("all") == TissueAreas(0, 0)


def test_the_thumbnail_comes_along():
    rgb = np.full((800, 1200, 3), GLASS, np.uint8)
    rgb[100:500, 100:700] = tissue_rgb(600, 400, coarse=30)
    slide = MemorySlide(rgb, mpp=(0.8, 0.8))
    tissue = find_tissue(slide)
    mean = rgb.reshape(80, 10, 120, 10, 3).mean((1, 3))
    assert np.abs(tissue.thumbnail - mean).max() <= 1
    assert "thumbnail" not in repr(tissue)
    assert find_tissue(slide, method="all").thumbnail is None
    seen = find_tissue(slide, method="all", picture=True).thumbnail
    np.testing.assert_array_equal(seen, tissue.thumbnail)


@pytest.mark.parametrize(("side", "told"), [(0, True), (50, True), (300, False)])
def test_little_tissue_is_told(caplog, side, told):
    caplog.set_level("INFO")
    rgb = np.full((1000, 1500, 3), GLASS, np.uint8)
    rgb[100 : 100 + side, 100 : 100 + side] = (200, 120, 170)
    tissue = find_tissue(MemorySlide(rgb, mpp=(0.8, 0.8)), areas=TissueAreas(0, 0))
    assert tissue.fraction == pytest.approx(side**2 / 1.5e6, rel=0.25)
    assert ("memory: tissue on only" in caplog.text) is told


def test_everything():
    assert everything(np.zeros((3, 4, 3), np.uint8), MPP).tolist() == [[True] * 4] * 3


@pytest.mark.parametrize("name", [n for n in MASKERS if "tiatoolbox" not in n])
def test_tissue_of_a_slide_lies_on_it(slide_file, name):
    with open_slide(slide_file) as slide:
        tissue = find_tissue(slide, method=name, workers=3)
    assert tissue.method == name
    assert tissue.mpp == 8.0
    assert tissue.origin_xy == (0.0, 0.0)
    assert tissue.scale_xy == (8 / 0.499, 8 / 0.499)
    assert tissue.mask.shape == (57, 82)  # 907 and 1301 px of 16.03
    if name == "otsu":
        box = np.array([300, 200, 1000, 700]) / 16.032
        x0, y0, x1, y1 = box
        inner, outer = tissue.mask.copy(), tissue.mask.copy()
        assert inner[int(y0) + 2 : int(y1) - 1, int(x0) + 2 : int(x1) - 1].all()
        outer[int(y0) - 1 : int(y1) + 3, int(x0) - 1 : int(x1) + 3] = False
        assert not outer.any()
    assert tissue.fraction == tissue.mask.mean()


def test_an_unknown_masker(slide_file):
    with open_slide(slide_file) as slide, pytest.raises(ConfigError, match="otsu, all"):
        find_tissue(slide, method="ostu")


def test_cover_is_exact():
    rng = np.random.default_rng(3)
    tissue = TissueMask(rng.random((9, 12)) < 0.5, 8.0, (40.0, 24.0), (16.0, 15.0), "test")
    got = tissue.cover((29.5, 10.25), (37.3, 41.9), (7, 5))
    start = ((29.5 - 40) / 16, (10.25 - 24) / 15)
    factor = (37.3 / 16, 41.9 / 15)
    exact = slow_sums(tissue.mask, start, factor, (7, 5)) / (factor[0] * factor[1])
    np.testing.assert_allclose(got, exact, atol=1e-6)
    assert got.dtype == np.float32
    assert got.max() <= 1


@pytest.mark.parametrize("name", ["m.png", "m.tif"])
@pytest.mark.parametrize("bounds", [None, (160, 80, 800, 640)])
@pytest.mark.parametrize("scale", [1, 4, 5])
def test_a_mask_image_covers_the_whole_slide(tmp_path, bounds, scale, name):
    slide = MemorySlide(np.full((800, 1200, 3), 255, np.uint8), mpp=(0.8, 0.8), bounds=bounds)
    image = np.zeros((800 // scale, 1200 // scale), np.uint8)
    image[200 // scale : 600 // scale, 400 // scale : 900 // scale] = 255
    if name == "m.png":
        cv2.imwrite(str(tmp_path / name), image)
    else:
        tifffile.imwrite(tmp_path / name, image, tile=(64, 64), compression="deflate")
    tissue = find_tissue(slide, mask_file=tmp_path / name)
    x, y, width, height = bounds or (0, 0, 1200, 800)
    expected = np.zeros((800, 1200), bool)
    expected[200:600, 400:900] = True
    expected = expected[y : y + height, x : x + width]
    assert tissue.method == name
    np.testing.assert_array_equal(tissue.mask, expected[5::10, 5::10])


def test_a_mask_of_polygons_counts_from_the_bounds(tmp_path):
    slide = MemorySlide(
        np.full((800, 1200, 3), 255, np.uint8), mpp=(0.8, 0.8), bounds=(100, 50, 900, 700)
    )
    outer = [[200, 100], [700, 100], [700, 500], [200, 500], [200, 100]]
    hole = [[300, 200], [300, 300], [400, 300], [400, 200], [300, 200]]
    drawn = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [outer, hole]},
        "properties": {"classification": {"name": "Tissue"}},
    }
    (tmp_path / "m.geojson").write_text(json.dumps(drawn))
    tissue = find_tissue(slide, mask_file=tmp_path / "m.geojson")
    expected = np.zeros((70, 90), bool)
    expected[10:50, 20:70] = True
    expected[20:30, 30:40] = False
    # A pixel on an outline may fall to either side.
    assert (tissue.mask != expected).sum() <= 2 * (50 + 40) + 4 * 10
    core = cv2.erode(expected.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    assert tissue.mask[core].all()
    assert not tissue.mask[22:28, 32:38].any()
    assert tissue.cover((300.0, 150.0), (500.0, 400.0), (1, 1))[0, 0] == pytest.approx(
        0.95, abs=0.04
    )


def ring(x, y, side):
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]


@pytest.mark.parametrize("order", [1, -1])
def test_a_hole_of_one_polygon_leaves_others_be(tmp_path, order):
    slide = MemorySlide(np.full((800, 1200, 3), 255, np.uint8), mpp=(0.8, 0.8))
    island = [ring(300, 300, 100)]
    around = [ring(-100, 100, 700), ring(200, 200, 300)]  # reaches beyond the slide
    beyond = [ring(1300, 100, 100)]
    drawn = [
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": rings}, "properties": {}}
        for rings in (island, around, beyond)[::order]
    ]
    content = {"type": "FeatureCollection", "features": drawn}
    (tmp_path / "m.geojson").write_text(json.dumps(content))
    mask = find_tissue(slide, mask_file=tmp_path / "m.geojson").mask
    assert mask[31:39, 31:39].all()
    assert mask[11:79, :19].all()
    assert not mask[22:29, 22:48].any()
    assert not mask[:, 62:].any()


def test_polygons_of_no_class_are_tissue_too(tmp_path):
    slide = MemorySlide(np.full((800, 1200, 3), 255, np.uint8), mpp=(0.8, 0.8))
    square = [[200, 100], [700, 100], [700, 500], [200, 500], [200, 100]]
    drawn = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [square]}}
    (tmp_path / "m.geojson").write_text(json.dumps({**drawn, "properties": {}}))
    tissue = find_tissue(slide, mask_file=tmp_path / "m.geojson")
    assert tissue.fraction == pytest.approx(500 * 400 / (800 * 1200), abs=0.02)


@pytest.mark.parametrize("name", ["m.geojson", "m.png"])
def test_a_mask_that_covers_nothing_is_refused(tmp_path, name):
    slide = MemorySlide(np.full((80, 80, 3), 255, np.uint8))
    (tmp_path / "m.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    cv2.imwrite(str(tmp_path / "m.png"), np.zeros((80, 80), np.uint8))
    with pytest.raises(AnnotationError, match=f"{name}: covers no part of the slide; "):
        find_tissue(slide, mask_file=tmp_path / name)


def test_a_mask_that_cannot_be_used(tmp_path, capfd):
    slide = MemorySlide(np.full((80, 80, 3), 255, np.uint8))
    (tmp_path / "m.png").write_text("no image")
    for file in ("m.png", "gone.png", "gone.geojson"):
        with pytest.raises(AnnotationError, match=f"{file}: cannot be read"):
            find_tissue(slide, mask_file=tmp_path / file)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("least", [0, 0.5, 1, 7.5, 40, 5000])
def test_small_components_are_dropped_as_scipy_counts_them(seed, least):
    rng = np.random.default_rng(seed)
    mask = rng.random((rng.integers(1, 60), rng.integers(1, 60))) < rng.random()
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    sizes = ndimage.sum_labels(mask, labels, np.arange(1, count + 1))
    expected = np.isin(labels, 1 + np.flatnonzero(sizes >= least))
    np.testing.assert_array_equal(without_small(mask, least), expected)
    apart = np.repeat(mask, 2, 1)[:, ::2]  # pixels lie apart in memory
    np.testing.assert_array_equal(without_small(apart, least), expected)
