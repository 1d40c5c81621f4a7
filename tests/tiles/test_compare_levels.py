"""What ``wsikd tile --compare`` reports, against slides whose levels were made to differ."""

import math
from dataclasses import replace

import numpy as np
import pytest
import tifffile

from tests.slides.pixels import GLASS, MemorySlide, tissue_rgb
from wsikd.slides.base import open_slide
from wsikd.tiles.compare_levels import compare_routes
from wsikd.tiles.estimate import estimate
from wsikd.tiles.metadata import SlideNotes, describe
from wsikd.tiles.store import StoreSettings

SETTINGS = StoreSettings((1.0, 4.0), 256, 256, "all", 0.1, (), 0.5)


def slide(path, change):
    """Level 0 at 1 um/px and a level four times coarser: its exact mean, changed."""
    rgb = tissue_rgb(2048, 1536, seed=4, coarse=12)
    low = rgb.reshape(384, 4, 512, 4, 3).mean((1, 3))
    options = {"tile": (64, 64), "photometric": "rgb", "metadata": None, "resolutionunit": 3}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(rgb, resolution=(10000, 10000), **options)
        low = np.clip(change(low) + 0.5, 0, 255).astype(np.uint8)
        tiff.write(low, resolution=(2500, 2500), subfiletype=1, **options)
    return open_slide(path)


def test_equal_routes_are_told_as_equal(tmp_path):
    with slide(tmp_path / "s.tiff", lambda low: low) as own:
        (found,) = compare_routes(own, SETTINGS)
    assert found.levels == (0, 1)
    assert found.fields == 48
    assert found.psnr_db > 50  # rounding of the two averages
    assert np.abs(found.colour_shift).max() < 0.5
    assert np.abs(found.shift_px).max() < 0.05


def test_a_change_of_colour_is_measured(tmp_path):
    with slide(tmp_path / "s.tiff", lambda low: low + [4, 0, -8]) as own:
        (found,) = compare_routes(own, SETTINGS, limit=10)
    assert found.fields == 10
    assert found.colour_shift == pytest.approx((4, 0, -8), abs=0.5)
    assert found.psnr_db == pytest.approx(10 * math.log10(255**2 / ((16 + 64) / 3)), abs=0.3)


def test_a_shift_is_measured(tmp_path):
    with slide(tmp_path / "s.tiff", lambda low: np.roll(low, (2, 1), (0, 1))) as own:
        (found,) = compare_routes(own, SETTINGS, limit=20)
    assert found.shift_px == pytest.approx((1, 2), abs=0.35)


def test_a_slide_of_one_level_has_one_route(tmp_path):
    path = tmp_path / "s.tiff"
    tifffile.imwrite(
        path, tissue_rgb(700, 600), tile=(64, 64), photometric="rgb", metadata=None,
        resolution=(10000, 10000), resolutionunit=3,
    )  # fmt: skip
    with open_slide(path) as own:
        (found,) = compare_routes(own, SETTINGS)
    assert found.psnr_db == math.inf
    assert found.levels == (0, 0)


@pytest.mark.parametrize("areas", [(20_000.0, 20_000.0), (2_000.0, 20_000.0), (20_000.0, 2_000.0)])
def test_the_fields_are_those_that_would_be_tiled(tmp_path, areas):
    rgb = np.full((800, 1200, 3), GLASS, np.uint8)
    rgb[100:500, 100:700] = tissue_rgb(600, 400, coarse=30)
    rgb[600:700, 900:1000] = tissue_rgb(100, 100, coarse=30)  # 80 um across
    rgb[250:330, 300:400] = GLASS  # 64 x 80 um
    own = MemorySlide(rgb, mpp=(0.8, 0.8))
    settings = StoreSettings((0.8, 3.2), 32, 32, "otsu", 0.5, (), 0.5, 0.0, (), *areas)
    (found,) = compare_routes(own, settings, limit=10_000)
    meta = describe(own, settings, SlideNotes(), tmp_path)
    told = estimate(own, tmp_path / "s.zarr", settings, SlideNotes(), meta)
    whole = compare_routes(own, replace(settings, tissue="all"), limit=10_000)[0]
    assert 0 < found.fields == told.patches < whole.fields
