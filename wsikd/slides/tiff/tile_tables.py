"""Checks of a TIFF's tile tables before pixels are read: impossible sizes, absent tiles.

The size that a file claims costs nothing. What is read is what its tiles hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wsikd.core.errors import MALFORMED, SlideError
from wsikd.slides.base import printable
from wsikd.slides.tiff.absent_tiles import AbsentTiles, Stored, lost

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import tifffile

MOST_SEGMENT_PX = 1 << 28
_MOST_TIMES_SMALLER = {1: 1, 5: 1500, 7: 1024, 8: 1040, 32773: 64, 32946: 1040}
"""By compression: none, LZW, JPEG, deflate, PackBits. Others have no such limit."""
_MOST_SHARED = 16
_YCBCR, _APART = 6, 2
NO_PIXELS = "holds no pixels: all its {} tiles are absent"
REMEDY = "the file is damaged or forged; copy or scan it again"
_SLACK = 0.01


def check_tables(
    path: Path, file_bytes: int, levels: Sequence[tifffile.TiffPage], *, filled: bool = False
) -> None:
    """Refuse a TIFF whose tiles or strips cannot hold the pixels that it claims.

    Args:
        path: the file, for messages.
        file_bytes: its length.
        levels: the directories of its levels, the largest first.
        filled: whether the reader fills absent tiles of lower levels from the levels above.

    Raises:
        SlideError: tiles lie beyond the end of the file, all of them are absent, a level lacks
            tiles that level 0 has, or their bytes are far too few or far too often the same.
    """
    stored = [
        stored_tiles(path, f"level {number}", page, file_bytes)
        for number, page in enumerate(levels)
    ]
    if not filled:
        check_lower(path, stored)


def check_lower(path: Path, levels: Sequence[Stored | None], what: str = "tiles") -> None:
    """Refuse levels that lack tiles which level 0, the first, has; raises SlideError."""
    for number, level in enumerate(levels[1:], 1):
        share = lost(level, levels[0])
        if share > _SLACK:
            fault = f"level {number} lacks {share:.0%} of the {what} that level 0 has"
            raise SlideError(printable(path.name), fault, REMEDY)


def stored_tiles(path: Path, what: str, page: tifffile.TiffPage, file_bytes: int) -> Stored | None:
    """The tiles of a directory that are stored, None for all of them.

    ``what`` names the directory in messages; ``file_bytes`` is the length of the file.
    Raises SlideError where its table is impossible.
    """
    try:
        fault = _fault(page, file_bytes)
        stored = None if fault else _stored(page)
    except MALFORMED as error:
        fault = f"has an invalid table of tiles ({error})"
    if fault:
        remedy = "copy it again" if "cut short" in fault else REMEDY
        raise SlideError(printable(path.name), f"{what} {fault}", remedy)
    return stored


def segment_px(page: tifffile.TiffPage) -> tuple[int, int]:
    """(width, height) in px of a directory's tiles or strips."""
    if page.is_tiled:
        return (page.tilewidth, page.tilelength)
    return (page.imagewidth, max(1, min(page.rowsperstrip, page.imagelength)))


def absent_tiles(levels: Sequence[tifffile.TiffPage]) -> AbsentTiles:
    """Where the levels of a TIFF have no tiles."""
    return AbsentTiles([_stored(page) for page in levels])


def _fault(page: tifffile.TiffPage, file_bytes: int) -> str:
    """The fault of a level's tile table, as text; else empty."""
    wide, high = segment_px(page)
    if min(wide, high) < 1:
        return f"is in tiles of {wide} x {high} px"
    if min(wide, page.imagewidth) * min(high, page.imagelength) > MOST_SEGMENT_PX:
        return f"is in strips or tiles of {wide} x {high} px, too large to be held in memory"
    columns, rows = -(-page.imagewidth // wide), -(-page.imagelength // high)
    planes = page.samplesperpixel if page.planarconfig == _APART else 1
    wanted = columns * rows * planes
    offsets = np.asarray(page.dataoffsets, np.float64)
    counts = np.asarray(page.databytecounts, np.float64)
    if len(offsets) != len(counts) or len(counts) != wanted:
        return f"lists {min(len(counts), len(offsets))} tiles or strips, not {wanted}"
    present = counts > 0
    if not present.any():
        return NO_PIXELS.format(wanted)
    offsets, counts = offsets[present], counts[present]
    end = (offsets + counts).max()
    if end > file_bytes:
        return f"is truncated: its pixels reach to byte {end:.0f}, and the file has {file_bytes}"
    if offsets.min() <= 0:
        return "has tiles outside the file (offset 0)"
    total = counts.sum()
    _, first = np.unique(offsets, return_index=True)
    if total > _MOST_SHARED * counts[first].sum():
        return f"repeats {len(first)} tiles in the place of {len(counts)}"
    return _too_few(page, len(counts), total)


def _too_few(page: tifffile.TiffPage, segments: int, total: float) -> str:
    """Whether so many tiles or strips cannot be as few bytes."""
    wide, high = segment_px(page)
    samples = 1 if page.planarconfig == _APART else page.samplesperpixel
    pixels = float(segments) * wide * high
    if not page.is_tiled:  # the last strip may be lower
        pixels -= wide * (high - 1)
    bits = samples * page.bitspersample
    subsampled = page.photometric == _YCBCR
    return cannot_hold(total, pixels, bits, int(page.compression), subsampled=subsampled)


def cannot_hold(
    total_bytes: float, pixels: float, bits: int, compression: int, *, subsampled: bool
) -> str:
    """Whether so many pixels, of ``bits`` each, cannot be as few bytes; empty where they can.

    ``compression`` is TIFF's number of it.
    """
    times = _MOST_TIMES_SMALLER.get(compression)
    if times is None:
        return ""
    least = pixels * bits / 8 / times / (2 if subsampled else 1)
    if total_bytes >= least:
        return ""
    return f"claims {pixels / 1e6:.1f} million pixels, which {total_bytes:.0f} bytes cannot hold"


def _stored(page: tifffile.TiffPage) -> Stored | None:
    """The tiles of a level; None where all are stored."""
    if all(page.databytecounts):
        return None
    wide, high = segment_px(page)
    columns, rows = -(-page.imagewidth // wide), -(-page.imagelength // high)
    counts = np.asarray(page.databytecounts, np.float64).reshape(-1, rows, columns)
    return Stored(counts.max(0) > 0, (wide, high), (page.imagewidth, page.imagelength))
