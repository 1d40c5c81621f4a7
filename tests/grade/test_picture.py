"""The picture under a map is put together from what was read, and lies where the slide lies."""

import cv2
import numpy as np
import pytest

from tests.slides.pixels import tissue_rgb
from wsikd.grade.picture import Picture
from wsikd.slides.base import open_slide
from wsikd.slides.scaled_view import Canvas
from wsikd.slides.tissue.find import find_tissue
from wsikd.synthetic.cohort import write_pyramid
from wsikd.tiles.grid import TileGrid
from wsikd.tiles.stream import stream_patches


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    path = tmp_path_factory.mktemp("slide") / "s.svs"
    rgb = tissue_rgb(2411, 1803, (100, 100, 2000, 1500), seed=4)
    rgb[400:800, 500:1100] = (40, 60, 150)  # a landmark
    write_pyramid(path, rgb, mpp=0.499, power=20, downsamples=(1, 4))
    with open_slide(path) as opened:
        yield opened


def collected(slide, mpp, patch_px, **how):
    grid, tissue = TileGrid.plan(slide, mpp, patch_px), find_tissue(slide)
    rows, columns = np.nonzero(grid.cover(tissue) > 0)
    picture = Picture(tissue, grid, rows, columns, **how)
    for index, patches in stream_patches(Canvas.plan(slide, mpp), grid, rows, columns):
        picture(index, patches)
    return picture.view


@pytest.mark.parametrize(
    ("mpp", "patch_px", "max_px"),
    [(4.0, 32, 1200), (1.0, 100, 1200), (1.0, 128, 500), (4.0, 64, 90)],
)
def test_it_shows_what_a_reading_of_its_own_shows(slide, mpp, patch_px, max_px):
    found = collected(slide, mpp, patch_px, max_px=max_px)
    height, width = found.rgb.shape[:2]
    longest = min(max_px, 2411 * 0.499 / mpp)
    assert longest - 2 <= max(height, width) <= min(max_px, longest + 2)
    whole = slide.read_level(0, (0, 0), (2411, 1803))
    read = cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)
    smooth = [cv2.blur(picture.astype(np.float32), (9, 9)) for picture in (found.rgb, read)]
    assert np.abs(smooth[0] - smooth[1]).mean() < 5
    blue = (found.rgb[..., 2] > found.rgb[..., 0] + 60.0).nonzero()
    for axis, (start, end) in enumerate(((400, 800), (500, 1100))):
        at = np.quantile(blue[axis], [0, 1])
        scale = found.scale[1 - axis]
        assert at[0] == pytest.approx(start * scale, abs=2.5)
        assert at[1] == pytest.approx(end * scale, abs=2.5)


def test_without_a_thumbnail_there_is_none(slide, tmp_path):
    grid, tissue = TileGrid.plan(slide, 4.0, 32), find_tissue(slide, method="all")
    picture = Picture(tissue, grid, np.zeros(1, int), np.zeros(1, int))
    picture(np.zeros(1, int), np.zeros((1, 32, 32, 3), np.uint8))
    assert picture.view is None


def test_fields_beyond_the_slide_are_cut(slide):
    tissue, grid = find_tissue(slide), TileGrid.plan(slide, 4.0, 128)
    rows, columns = np.array([grid.rows, 0]), np.array([grid.columns, 0])
    picture = Picture(tissue, grid, rows, columns)
    picture(np.arange(2), np.full((2, 128, 128, 3), 7, np.uint8))
    assert (picture.view.rgb[:100, :100] == 7).all()
