"""The direct reader against tifffile's stored pixels and OpenSlide's."""

import re
from dataclasses import replace
from functools import lru_cache

import numpy as np
import openslide
import pytest
import simplejpeg
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from tests.slides.pixels import area_average, break_tile, tissue_rgb
from wsikd.core.errors import RegionReadError
from wsikd.slides.readers.direct_tiff import DirectReader, compare, direct
from wsikd.slides.readers.direct_tiff_index import TileLevelError
from wsikd.slides.readers.openslide import OpenSlideReader
from wsikd.slides.scaled_view import Canvas
from wsikd.synthetic.cohort import write_pyramid

WIDTH, HEIGHT = 1301, 907


def write(path, tile_px=256, subsampling="420", mpp=0.5, **more):
    rgb = tissue_rgb(WIDTH, HEIGHT, (100, 100, 1100, 700))
    write_pyramid(path, rgb, mpp=mpp, power=20, tile_px=tile_px, subsampling=subsampling, **more)
    return path


@pytest.fixture(scope="module", params=[(256, "420"), (240, "420"), (64, "444")])
def slide(request, tmp_path_factory):
    path = write(tmp_path_factory.mktemp("direct") / "d.svs", *request.param)
    with direct(OpenSlideReader(path)) as reader:
        assert reader.info.reader == "direct"
        yield reader


@lru_cache(maxsize=1)
def stored(path):
    with tifffile.TiffFile(path) as tiff:
        return [page.asarray() for page in tiff.pages if page.is_tiled]


def padded(level, x, y, width, height):
    out = np.full((height, width, 3), 255, np.uint8)
    h, w = level.shape[:2]
    y0, y1, x0, x1 = max(y, 0), min(y + height, h), max(x, 0), min(x + width, w)
    if y0 < y1 and x0 < x1:
        out[y0 - y : y1 - y, x0 - x : x1 - x] = level[y0:y1, x0:x1]
    return out


boxes = st.tuples(
    st.integers(-300, WIDTH + 50),
    st.integers(-300, HEIGHT + 50),
    st.integers(1, 400),
    st.integers(1, 400),
)


@given(box=boxes, level=st.integers(0, 2))
def test_every_level_shows_its_stored_pixels_on_its_own_grid(slide, box, level):
    # 1301 / 325 = 4.003: OpenSlide would resample these levels between their pixels.
    x, y, width, height = box
    own = slide.read_level(level, (x, y), (width, height))
    np.testing.assert_array_equal(own, padded(stored(slide.path)[level], x, y, width, height))


@given(box=boxes)
def test_level_0_is_openslides(slide, box):
    x, y, width, height = box
    with openslide.OpenSlide(slide.path) as reference:
        rgba = np.asarray(reference.read_region((x, y), 0, (width, height))).astype(np.int64)
    alpha = rgba[..., 3:]
    on_white = (rgba[..., :3] * alpha + 255 * (255 - alpha)) // 255
    own = slide.read_level(0, (x, y), (width, height))
    np.testing.assert_array_equal(own, on_white)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_averages_within_tiles_are_the_mean(slide, factor):
    x, y = 8 * factor, 3 * factor
    out = np.empty((60, 100, 3), np.uint8)
    assert slide.average_into(0, (x, y), factor, out)
    exact = area_average(stored(slide.path)[0], (x, y), (factor,) * 2, (100, 60), beyond=255)
    assert np.abs(out - exact).max() <= 0.51


def test_squares_across_two_tiles_are_left_to_others(slide):
    out = np.empty((10, 10, 3), np.uint8)
    assert not slide.average_into(0, (0, 0), 7, out)
    assert not slide.average_into(0, (1, 0), 2, out)


@pytest.mark.parametrize("reduction", [2, 4, 8])
def test_reduced_decoding_is_near_the_average(slide, reduction):
    out = np.empty((50, 70, 3), np.uint8)
    slide.read_into(0, (30 // reduction, 40 // reduction), out, reduction=reduction)
    start = (30 // reduction * reduction, 40 // reduction * reduction)
    level = stored(slide.path)[0]
    exact = area_average(level, start, (reduction,) * 2, (70, 50), beyond=255)
    assert np.sqrt(((out - exact) ** 2).mean()) <= 1.5


@pytest.mark.parametrize("mpp", [0.5, 0.499, 0.2527])
@pytest.mark.parametrize("tile_px", [256, 240])
def test_each_tile_is_decoded_once_for_neighbouring_reads(tmp_path, monkeypatch, mpp, tile_px):
    with direct(OpenSlideReader(write(tmp_path / "d.svs", tile_px, mpp=mpp))) as reader:
        canvas, calls = Canvas.plan(reader, 1.0), []
        own = simplejpeg.decode_jpeg

        def counted(data, *args, **kwargs):
            calls.append(len(data))
            return own(data, *args, **kwargs)

        monkeypatch.setattr(simplejpeg, "decode_jpeg", counted)
        for y in range(0, canvas.size[1], 128):
            for x in range(0, canvas.size[0], 128):
                canvas.read(x, y, 128, 128)
        grid = reader.levels[canvas.level].grid
        assert len(calls) == grid[0] * grid[1]


def test_whole_tiles_are_not_kept(tmp_path):
    with direct(OpenSlideReader(write(tmp_path / "d.svs"))) as reader:
        level, beyond = stored(reader.path)[0], (1024, 768)  # the last tiles reach beyond it
        for corner, size in (((256, 256), (512, 256)), (beyond, (512, 256))):
            own = reader.read_level(0, corner, size)
            np.testing.assert_array_equal(own, padded(level, *corner, *size))
        assert reader.cache.decoded == 0
        reader.read_level(0, (256, 256), (512, 255))
        assert reader.cache.decoded == 2


def test_the_canvas_is_the_same_through_both_readers(slide):
    with OpenSlideReader(slide.path) as other:
        for mpp in (1.0, 1.1, 0.7):
            ours, theirs = Canvas.plan(slide, mpp), Canvas.plan(other, mpp)
            for box in ((-5, -7, 90, 80), (300, 211, 257, 130), (600, 400, 80, 90)):
                np.testing.assert_array_equal(ours.read(*box), theirs.read(*box))


def test_a_rough_canvas_is_near_the_exact_one(slide):
    exact, rough = Canvas.plan(slide, 8.0, finest=0.5), Canvas.plan(slide, 8.0, rough=True)
    rough = Canvas(slide, 8.0, 0, rough.origin_xy, rough.scale_xy, rough.size, 8)
    assert exact.level == 0
    difference = exact.read(5, 5, 60, 40).astype(float) - rough.read(5, 5, 60, 40)
    assert np.sqrt((difference**2).mean()) <= 1.5


@pytest.mark.parametrize("damage", ["head", "end", "short"])
def test_a_damaged_tile_is_told_as_openslide_tells_it(tmp_path, damage):
    path = write(tmp_path / "d.svs")
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        offset, count = page.dataoffsets[7], page.databytecounts[7]
    with direct(OpenSlideReader(path)) as reader:
        assert isinstance(reader, DirectReader)
        if damage == "head":
            break_tile(path, 7)
        elif damage == "end":
            with path.open("r+b") as stream:
                stream.seek(offset + count // 2)
                stream.write(b"\xff\xd9" * 20)
        else:
            with path.open("r+b") as stream:
                stream.truncate(offset + count // 2)
        where = r"^d\.svs: level 0 cannot be read at level-0 x=256, y=256 \("
        with pytest.raises(RegionReadError, match=where):
            reader.read_level(0, (256, 256), (256, 256))
        if damage != "short":
            with (
                OpenSlideReader(path) as other,
                pytest.raises(RegionReadError, match=r"^d\.svs: level 0 cannot be read at"),
            ):
                other.read_level(0, (256, 256), (256, 256))


def unfit(path):
    with direct(OpenSlideReader(path)) as slide:
        assert isinstance(slide, OpenSlideReader)
        return slide.info.reader_note


def test_strips_are_left_to_openslide(tmp_path):
    path = tmp_path / "s.tiff"
    tifffile.imwrite(path, tissue_rgb(300, 200), photometric="rgb", tile=(64, 64), metadata=None)
    assert unfit(path) == "not read directly: level 0 is NONE, not JPEG"


def test_other_pixels_than_openslides_are_refused(tmp_path, monkeypatch):
    path = write(tmp_path / "d.svs")
    own = OpenSlideReader.read_level

    def brighter(self, level, location, size):
        pixels = own(self, level, location, size)
        pixels[0, 0, 0] ^= 1
        return pixels

    monkeypatch.setattr(OpenSlideReader, "read_level", brighter)
    note = r"not read directly: tile \d+ of level 0 is not what OpenSlide shows"
    assert re.fullmatch(note, unfit(path))


@pytest.mark.parametrize("place", ["last pixel", "beyond the end", "richest tile's last row"])
def test_one_other_value_where_it_counts_is_seen(tmp_path, monkeypatch, place):
    """Level 0 is 1301 x 907 px: tile 23, the last, covers it up to its column 21 and row 139."""
    path = write(tmp_path / "d.svs")
    with tifffile.TiffFile(path) as tiff:
        richest = int(np.argmax(tiff.pages[0].databytecounts))
    x, y = {
        "last pixel": (1300, 906),
        "beyond the end": (1305, 907),
        "richest tile's last row": (richest % 6 * 256 + 255, richest // 6 * 256 + 255),
    }[place]
    own = OpenSlideReader.read_level

    def altered(self, level, location, size):
        pixels = own(self, level, location, size)
        row, column = y - location[1], x - location[0]
        if level == 0 and 0 <= row < size[1] and 0 <= column < size[0]:
            pixels[row, column, 2] ^= 1
        return pixels

    monkeypatch.setattr(OpenSlideReader, "read_level", altered)
    assert re.fullmatch(r"not read directly: tile \d+ of level 0 is .*", unfit(path))


def test_tiles_in_a_wrong_order_are_refused_at_every_level(tmp_path):
    """OpenSlide shows level 1 (1301 / 325) between its pixels only: it must still agree."""
    path = write(tmp_path / "d.svs", tile_px=64)
    with tifffile.TiffFile(path) as tiff:
        page = [page for page in tiff.pages if page.is_tiled][1]
        assert len(page.dataoffsets) > 12
    with direct(OpenSlideReader(path)) as slide:
        assert "at level 1, 2 but for its interpolation" in slide.info.reader_note
        level = slide.levels[1]
        turned = (level.offsets[0], *level.offsets[:0:-1])
        counts = (level.counts[0], *level.counts[:0:-1])
        slide.levels = [
            slide.levels[0],
            replace(level, offsets=turned, counts=counts),
            slide.levels[2],
        ]
        with OpenSlideReader(path) as other, pytest.raises(TileLevelError, match="of level 1 is"):
            compare(slide, other)


def test_tiles_that_were_never_scanned_are_left_to_openslide(tmp_path):
    path = write(tmp_path / "d.svs")
    with tifffile.TiffFile(path) as tiff:
        tag = tiff.pages[0].tags["TileByteCounts"]
        where = tag.valueoffset
    with path.open("r+b") as stream:
        stream.seek(where)
        stream.write(bytes(4))
    # In an Aperio slide OpenSlide leaves the place out of the lower levels too.
    assert unfit(path).startswith("not read directly: tile 0 of level 1 is not what OpenSlide")


def test_real_slides(real_slides):
    with direct(OpenSlideReader(real_slides / "CMU-1-Small-Region.svs")) as slide:
        assert slide.info.reader == "direct"  # RGB without a mark, tables shared by the tiles
        level = stored(slide.path)[0]
        own = slide.read_level(0, (333, 1111), (700, 500))
        np.testing.assert_array_equal(own, level[1111:1611, 333:1033])
    with direct(OpenSlideReader(real_slides / "tcga-cr-7395-01a-01-ts1.svs")) as slide:
        assert slide.info.reader == "openslide"
        assert "JP2000" in slide.info.reader_note
