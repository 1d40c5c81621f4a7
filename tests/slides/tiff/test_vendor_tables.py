"""Tile tables of the TIFFs that OpenSlide composes: impossible ones are refused, others read."""

import time

import numpy as np
import pytest
import tifffile

from tests.slides.pixels import tissue_rgb
from tests.slides.vendor_tiffs import TILE, hamamatsu, leica, philips, ventana
from wsikd.core.errors import SlideError
from wsikd.slides.base import open_slide
from wsikd.slides.tissue.find import find_tissue

RGB = tissue_rgb(1024, 1024)
FORMATS = {"leica": (leica, 1), "philips": (philips, 0), "ventana": (ventana, 1)}
"""By OpenSlide's name, with the directory of level 0."""
PLACES, COUNTS, STRIP_COUNTS = 324, 325, 279


def overwrite(path, page, tag, values):
    """Set numbers of a directory's table: ``values`` by index."""
    with tifffile.TiffFile(path) as tiff:
        found = tiff.pages[page].tags[tag]
        width, order = found.valuebytecount // found.count, tiff.byteorder
        offset = found.valueoffset
    with path.open("r+b") as stream:
        for index, value in values.items():
            stream.seek(offset + index * width)
            stream.write(np.array(value, f"{order}u{width}").tobytes())


def refused(path, reader="auto"):
    with pytest.raises(SlideError) as caught:
        open_slide(path, reader=reader)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("vendor", FORMATS)
def test_a_whole_one_is_read(vendor, tmp_path):
    FORMATS[vendor][0](tmp_path / "a.tif", RGB)
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.info.vendor == vendor
        x, y = slide.info.bounds[:2]
        got = slide.read_level(0, (x, y), (1024, 1024)).astype(int)
    assert np.abs(got - RGB).mean() < 6


@pytest.mark.parametrize("vendor", FORMATS)
@pytest.mark.parametrize(
    ("tag", "value", "fault"),
    [
        (PLACES, 1 << 30, "is truncated: its pixels reach to byte"),
        (PLACES, 0, "has tiles outside the file"),
        (PLACES, 3000, "repeats 1 tiles in the place of 64"),
        (COUNTS, 3, "which 192 bytes cannot hold"),
        (COUNTS, 0, "holds no pixels: all its 64 tiles are absent"),
    ],
)
def test_impossible_tables_are_one_line(vendor, tag, value, fault, tmp_path):
    write, page = FORMATS[vendor]
    path = tmp_path / "a.tif"
    write(path, np.tile(RGB, (2, 2, 1)))
    overwrite(path, page, tag, dict.fromkeys(range(64), value))
    said = refused(path)
    assert said.startswith(f"a.tif: directory {page} ")
    assert fault in said
    assert refused(path, "openslide") == said


def test_absent_tiles_of_philips_are_white_and_cost_nothing(tmp_path):
    path, side, there = tmp_path / "a.tiff", 160, {(3, 7), (150, 20)}
    tifffile.imwrite(
        path, RGB[:TILE, :TILE], tile=(TILE, TILE), photometric="rgb", compression="jpeg"
    )
    with tifffile.TiffFile(path) as tiff:
        offset, count = tiff.pages.first.dataoffsets[0], tiff.pages.first.databytecounts[0]
    stored = path.read_bytes()[offset : offset + count]
    tiles = (stored if (n % side, n // side) in there else b"" for n in range(side * side))
    philips(path, None, tiles, (side * TILE, side * TILE))
    start = time.process_time()
    with open_slide(path) as slide:
        assert slide.info.vendor == "philips"
        tissue = find_tissue(slide, workers=1, picture=True)
        got = slide.read_level(0, (3 * TILE - 50, 7 * TILE), (TILE + 50, TILE))
        assert slide.absent.covers(0, 0, 0, 3 * TILE, side * TILE)
    assert time.process_time() - start < 6
    assert (got[:, :50] == 255).all()
    assert np.abs(got[:, 50:] - RGB[:TILE, :TILE].astype(int)).mean() < 6
    assert (tissue.thumbnail.min(2) < 240).sum() == 2 * 16 * 16


def test_absent_tiles_of_philips_may_be_absent_in_lower_levels(tmp_path):
    path = tmp_path / "a.tiff"
    philips(path, RGB)
    corner = dict.fromkeys((0, 1, 4, 5), 0)
    for tag in (PLACES, COUNTS):
        overwrite(path, 0, tag, corner)
        overwrite(path, 1, tag, {0: 0})
    with open_slide(path) as slide:
        low = slide.read_level(1, (0, 0), (512, 512))
    assert (low[:250, :250] == 255).all()
    assert np.abs(low[256:, 256:] - RGB[512::2, 512::2].astype(int)).mean() < 12
    overwrite(path, 1, PLACES, {3: 0})
    overwrite(path, 1, COUNTS, {3: 0})
    assert "level 1 lacks 33% of the tiles that level 0 has" in refused(path)


def test_a_bif_may_lack_tiles(tmp_path):
    ventana(tmp_path / "a.bif", RGB)
    for tag in (PLACES, COUNTS):
        overwrite(tmp_path / "a.bif", 1, tag, {0: 0})
    with open_slide(tmp_path / "a.bif") as slide:
        assert slide.info.vendor == "ventana"
        got = slide.read_level(0, (256, 0), (256, 256)).astype(int)
    assert np.abs(got - RGB[:256, 256:512]).mean() < 6


def test_a_strip_of_ndpi_longer_than_the_file_is_refused(tmp_path):
    path = tmp_path / "a.tif"
    hamamatsu(path, RGB)
    with open_slide(path) as slide:
        assert slide.info.vendor == "hamamatsu"
        assert (
            np.abs(slide.read_level(0, (0, 0), (256, 256)) - RGB[:256, :256].astype(int)).mean() < 6
        )
    overwrite(path, 0, STRIP_COUNTS, {0: 1 << 30})
    assert f"directory 0 claims a strip of {1 << 30} bytes, and the file has" in refused(path)
