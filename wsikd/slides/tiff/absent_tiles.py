"""Which tiles of a slide's levels are stored. Where none is, nothing was scanned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Stored:
    """The stored tiles of a level: ``there`` is bool (rows, columns), not all of it true.

    ``tile_px`` and ``size`` are (width, height) in px of a tile and of the level.
    """

    there: NDArray[np.bool_]
    tile_px: tuple[int, int]
    size: tuple[int, int]


def lost(level: Stored | None, full: Stored | None) -> float:
    """Share of the stored tiles of level 0 in whose place a level has none.

    Both are None where all tiles are stored.
    """
    if level is None:
        return 0.0
    if full is None:
        return float(1 - level.there.mean())
    column, row = (_under(full, level, axis) for axis in (0, 1))
    kept = level.there[np.ix_(row, column)]
    return float(1 - kept[full.there].mean()) if full.there.any() else 0.0


def _under(full: Stored, level: Stored, axis: int) -> NDArray[np.int64]:
    """For each column (axis 0) or row (axis 1) of level 0, that of the level under its centre."""
    count = level.there.shape[1 - axis]
    centre = (np.arange(full.there.shape[1 - axis]) + 0.5) * full.tile_px[axis]
    scaled = centre * level.size[axis] / full.size[axis]
    place: NDArray[np.int64] = (scaled // level.tile_px[axis]).astype(np.int64)
    return place.clip(max=count - 1)


class AbsentTiles:
    """Where the levels of a slide have no tiles: nothing was scanned there."""

    def __init__(self, levels: Sequence[Stored | None]) -> None:
        """The stored tiles of each level; None means all."""
        self._levels = [None if level is None else _sums(level) for level in levels]

    def __bool__(self) -> bool:
        return any(level is not None for level in self._levels)

    def covers(self, level: int, x: int, y: int, width: int, height: int) -> bool:
        """Whether no tile of a box (px of a level) is stored; outside the level does not count."""
        found = self._levels[level] if level < len(self._levels) else None
        if found is None:
            return False
        sums, (wide, high) = found
        rows, columns = sums.shape[0] - 1, sums.shape[1] - 1
        left, right = (min(max(v, 0), columns) for v in (x // wide, -(-(x + width) // wide)))
        top, bottom = (min(max(v, 0), rows) for v in (y // high, -(-(y + height) // high)))
        corners = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
        return not corners


def _sums(level: Stored) -> tuple[NDArray[np.int64], tuple[int, int]]:
    """Running sums of the tiles that are there, (rows + 1, columns + 1), and a tile's size."""
    rows, columns = level.there.shape
    sums = np.zeros((rows + 1, columns + 1), np.int64)
    sums[1:, 1:] = level.there.cumsum(0).cumsum(1)
    return sums, level.tile_px
