"""What the tile tables of a TIFF say before a pixel is read: impossible claims, absent tiles.

The size that a file claims costs nothing. What is read is what its tiles hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wsikd.core.errors import MALFORMED, SlideError
from wsikd.slides.base import printable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import tifffile
    from numpy.typing import NDArray

MOST_SEGMENT_PX = 1 << 28
_MOST_TIMES_SMALLER = {1: 1, 5: 1500, 7: 1024, 8: 1040, 32773: 64, 32946: 1040}
"""By compression: none, LZW, JPEG, deflate, PackBits. Others have no such limit."""
_MOST_SHARED = 16
_YCBCR, _APART = 6, 2
_REMEDY = "the file is damaged or made up; copy or scan it again"
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
    full = 0.0
    for number, page in enumerate(levels):
        try:
            fault, absent = _fault(page, file_bytes)
        except MALFORMED as error:
            fault, absent = f"has a table of tiles that makes no sense ({error})", 0.0
        if not fault and number and not filled and absent > full + _SLACK:
            fault = f"lacks {absent:.0%} of its tiles, which level 0 has"
        if fault:
            remedy = "copy it again" if "cut short" in fault else _REMEDY
            raise SlideError(printable(path.name), f"level {number} {fault}", remedy)
        full = full if number else absent


def segment_px(page: tifffile.TiffPage) -> tuple[int, int]:
    """(width, height) in px of a directory's tiles or strips."""
    if page.is_tiled:
        return (page.tilewidth, page.tilelength)
    return (page.imagewidth, max(1, min(page.rowsperstrip, page.imagelength)))


class AbsentTiles:
    """Where the levels of a TIFF have no tiles: nothing was scanned there."""

    def __init__(self, levels: Sequence[tifffile.TiffPage]) -> None:
        """Note the tiles of each level; nothing is kept of a level that has all of them."""
        self._levels = [_presence(page) for page in levels]

    def __bool__(self) -> bool:
        return any(level is not None for level in self._levels)

    def covers(self, level: int, x: int, y: int, width: int, height: int) -> bool:
        """Whether no tile is stored of a box in px of a level; what lies beyond it counts not."""
        found = self._levels[level] if level < len(self._levels) else None
        if found is None:
            return False
        sums, (wide, high) = found
        rows, columns = sums.shape[0] - 1, sums.shape[1] - 1
        left, right = (min(max(v, 0), columns) for v in (x // wide, -(-(x + width) // wide)))
        top, bottom = (min(max(v, 0), rows) for v in (y // high, -(-(y + height) // high)))
        corners = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
        return not corners


def _fault(page: tifffile.TiffPage, file_bytes: int) -> tuple[str, float]:
    """What is impossible about a level, and which share of its tiles is absent."""
    wide, high = segment_px(page)
    if min(wide, high) < 1:
        return f"is in tiles of {wide} x {high} px", 0.0
    if min(wide, page.imagewidth) * min(high, page.imagelength) > MOST_SEGMENT_PX:
        return f"is in strips or tiles of {wide} x {high} px, too large to be held in memory", 0.0
    columns, rows = -(-page.imagewidth // wide), -(-page.imagelength // high)
    planes = page.samplesperpixel if page.planarconfig == _APART else 1
    wanted = columns * rows * planes
    offsets = np.asarray(page.dataoffsets, np.float64)
    counts = np.asarray(page.databytecounts, np.float64)
    if len(offsets) != len(counts) or len(counts) != wanted:
        return f"lists {min(len(counts), len(offsets))} tiles or strips, not {wanted}", 0.0
    present = counts > 0
    if not present.any():
        return f"holds no pixels: all its {wanted} tiles are absent", 0.0
    offsets, counts = offsets[present], counts[present]
    end = (offsets + counts).max()
    if end > file_bytes:
        return f"is cut short: its pixels reach to byte {end:.0f}, and the file has {file_bytes}", 0
    if offsets.min() <= 0:
        return "has tiles that lie nowhere in the file (offset 0)", 0.0
    total = counts.sum()
    _, first = np.unique(offsets, return_index=True)
    if total > _MOST_SHARED * counts[first].sum():
        return f"is made of {len(first)} tiles that stand for {len(counts)}", 0.0
    return _too_few(page, len(counts), total), 1 - len(counts) / wanted


def _too_few(page: tifffile.TiffPage, segments: int, total: float) -> str:
    """Whether so many tiles or strips cannot be as few bytes."""
    times = _MOST_TIMES_SMALLER.get(int(page.compression))
    if times is None:
        return ""
    wide, high = segment_px(page)
    samples = 1 if page.planarconfig == _APART else page.samplesperpixel
    pixels = float(segments) * wide * high
    if not page.is_tiled:  # the last strip may be lower
        pixels -= wide * (high - 1)
    least = pixels * samples * page.bitspersample / 8 / times
    if page.photometric == _YCBCR:
        least /= 2
    if total < least:
        return f"claims {pixels / 1e6:.1f} million pixels, which {total:.0f} bytes cannot hold"
    return ""


def _presence(
    page: tifffile.TiffPage,
) -> tuple[NDArray[np.int64], tuple[int, int]] | None:
    """Running sums of the tiles that are there, (rows + 1, columns + 1), and a tile's size."""
    if all(page.databytecounts):
        return None
    wide, high = segment_px(page)
    columns, rows = -(-page.imagewidth // wide), -(-page.imagelength // high)
    there = np.asarray(page.databytecounts, np.float64) > 0
    grid = there.reshape(-1, rows, columns).any(0)
    sums = np.zeros((rows + 1, columns + 1), np.int64)
    sums[1:, 1:] = grid.cumsum(0).cumsum(1)
    return sums, (wide, high)
