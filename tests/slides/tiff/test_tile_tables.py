"""A claimed size costs nothing: impossible tile tables are refused, absent tiles are not read."""

import time

import numpy as np
import pytest
import tifffile

from tests.slides.pixels import tissue_rgb
from wsikd.core.errors import SlideError
from wsikd.slides.base import open_slide
from wsikd.slides.tiff.absent_tiles import Stored, lost
from wsikd.slides.tiff.tile_tables import absent_tiles
from wsikd.slides.tissue.find import find_tissue

TILE = 256


def sparse(path, width, height, there, *, compression="jpeg", tile=TILE, levels=1):
    """A TIFF that stores the tiles (column, row) of ``there`` alone; they are of ``rgb``."""
    rgb = tissue_rgb(tile, tile, seed=5)
    how = {"tile": (tile, tile), "photometric": "rgb", "compression": compression}
    tifffile.imwrite(path, rgb, metadata=None, **how)
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        tiff.filehandle.seek(page.dataoffsets[0])
        stored = tiff.filehandle.read(page.databytecounts[0])
    columns, rows = -(-width // tile), -(-height // tile)

    def tiles(factor):
        for index in range((columns // factor) * (rows // factor)):
            row, column = divmod(index, columns // factor)
            yield stored if factor == 1 and (column, row) in there else b""

    with tifffile.TiffWriter(path, bigtiff=True) as out:
        for n in range(levels):
            shape = (height >> n, width >> n, 3)
            out.write(
                tiles(1 << n), shape=shape, dtype=np.uint8, metadata=None, subfiletype=bool(n),
                resolution=(40000, 40000), resolutionunit="CENTIMETER", **how,
            )  # fmt: skip
    return rgb


@pytest.mark.parametrize("compression", ["jpeg", "zlib"])
def test_a_file_of_absent_tiles_alone_holds_no_pixels(compression, tmp_path):
    path = tmp_path / "claims.tif"
    sparse(path, 60160, 60160, {}, compression=compression)
    assert path.stat().st_size < 1_500_000
    start = time.process_time()
    with pytest.raises(SlideError, match="level 0 holds no pixels: all its 55225 tiles are"):
        open_slide(path)
    assert time.process_time() - start < 2


@pytest.mark.parametrize(("compression", "reader"), [("jpeg", "direct"), ("zlib", "openslide")])
def test_absent_tiles_are_background_and_cost_nothing(compression, reader, tmp_path):
    path = tmp_path / "sparse.tif"
    rgb = sparse(path, 40960, 40960, {(3, 7), (150, 20)}, compression=compression)
    start = time.process_time()
    with open_slide(path) as slide:
        assert slide.info.reader == reader
        tissue = find_tissue(slide, workers=1, picture=True)
        took = time.process_time() - start
        got = slide.read_level(0, (3 * TILE - 50, 7 * TILE - 50), (TILE + 100, TILE + 100))
    assert took < 6  # reading all of it takes ten times as long
    assert (got[:50] == 255).all()
    assert (got[:, -50:] == 255).all()
    inner = got[50:-50, 50:-50].astype(int)
    assert np.abs(inner - rgb).mean() < (6 if compression == "jpeg" else 0.01)
    picture = tissue.thumbnail
    assert picture.shape[:2] == (8 * 14, 8 * 148)  # OpenSlide's bounds, the box of what is there
    dark = picture.min(2) < 240
    assert dark[:8, :8].all()
    assert dark[-8:, -8:].all()
    assert dark.sum() == 2 * 8 * 8


def _count(path, page, index, value):
    """Overwrite a number of a directory's table of tile sizes (index 0) or places (1)."""
    with tifffile.TiffFile(path) as tiff:
        tag = tiff.pages[page].tags[(325, 324)[index]]
        width = tag.valuebytecount // tag.count
        offset, count, order = tag.valueoffset, tag.count, tiff.byteorder
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(np.full(count, value, f"{order}u{width}").tobytes())


@pytest.mark.parametrize("compression", [None, "jpeg", "zlib", "lzw", "packbits"])
@pytest.mark.parametrize(
    ("table", "value", "fault"),
    [
        (1, 1 << 30, "(is truncated: its pixels reach to byte|Short read of file)"),
        (1, 0, "has tiles outside the file"),
        (0, 3, "which [0-9]+ bytes cannot hold"),
    ],
)
def test_impossible_tables_are_one_line(compression, table, value, fault, tmp_path):
    path = tmp_path / "a.tif"
    rgb = tissue_rgb(512, 512)
    tifffile.imwrite(
        path, rgb, tile=(TILE, TILE), photometric="rgb", compression=compression, metadata=None
    )
    _count(path, 0, table, value)
    for reader in ("auto", "openslide", "tiatoolbox"):
        with pytest.raises(SlideError, match=rf"a\.tif: .*{fault}") as caught:
            open_slide(path, slide_mpp=0.5, reader=reader)
        assert "\n" not in str(caught.value)


def test_one_tile_that_stands_for_thousands_is_refused(tmp_path):
    path = tmp_path / "bomb.tif"
    rgb = tissue_rgb(64, 64)
    tifffile.imwrite(
        path, np.tile(rgb, (32, 32, 1)), tile=(64, 64), photometric="rgb", compression="jpeg",
        metadata=None,
    )  # fmt: skip
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages.first.dataoffsets[0]
        count = tiff.pages.first.databytecounts[0]
    _count(path, 0, 1, offset)
    _count(path, 0, 0, count)
    with pytest.raises(SlideError, match="repeats 1 tiles in the place of 1024"):
        open_slide(path, slide_mpp=0.5)


def test_a_level_that_lacks_tiles_of_level_0_is_refused(tmp_path):
    path = tmp_path / "a.tif"
    sparse(path, 1024, 1024, {(x, y) for x in range(4) for y in range(4)}, levels=2)
    with pytest.raises(SlideError, match="level 1 holds no pixels"):
        open_slide(path)


def test_what_of_level_0_a_level_lacks():
    checkers = np.indices((5, 7)).sum(0) % 2 == 0
    full = Stored(checkers, (256, 256), (1700, 1200))
    half = np.ones((3, 4), bool)
    assert lost(None, full) == 0
    assert lost(Stored(half, (256, 256), (850, 600)), full) == 0
    half[0, 0] = False  # over two of the 18 tiles
    assert lost(Stored(half, (256, 256), (850, 600)), full) == pytest.approx(2 / 18)
    assert lost(Stored(half, (256, 256), (850, 600)), None) == pytest.approx(1 / 12)
    half[0, 0], half[2, 3] = True, False  # over the corner alone
    assert lost(Stored(half, (256, 256), (850, 600)), full) == pytest.approx(1 / 18)
    empty = Stored(np.arange(35).reshape(5, 7) < 34, (256, 256), (1700, 1200))
    assert lost(Stored(half, (256, 256), (850, 600)), empty) == 0


def test_where_no_tile_is_stored(tmp_path):
    path = tmp_path / "a.tif"
    sparse(path, 1024, 512, {(1, 0)})
    with tifffile.TiffFile(path) as tiff:
        absent = absent_tiles([tiff.pages.first])
    assert absent
    assert absent.covers(0, 0, 0, 256, 512)
    assert not absent.covers(0, 0, 0, 257, 1)
    assert absent.covers(0, 512, 0, 999, 999)
    assert absent.covers(0, -50, -50, 10, 10)
    assert not absent.covers(0, 511, 255, 1, 1)
    assert not absent.covers(1, 0, 0, 9, 9)


def test_a_jp2_that_claims_what_its_bytes_cannot_hold(tmp_path):
    def box(name, body):
        return (8 + len(body)).to_bytes(4, "big") + name + body

    head = np.array([60000, 60000], ">u4").tobytes() + bytes([0, 3, 7, 7, 0, 0])
    start = b"\0\0\0\x0cjP  \r\n\x87\n"
    path = tmp_path / "a.jp2"
    path.write_bytes(start + box(b"jp2h", box(b"ihdr", head)) + bytes(900_000))
    with pytest.raises(SlideError, match=r"claims 60000 x 60000 px|cut short"):
        open_slide(path, slide_mpp=0.5)
