"""Area averaging at any real factor: what a coarser sensor would have recorded.

Output pixel ``i`` is the mean of the input over ``[start + i * factor, start + (i + 1) * factor)``,
input pixels at the borders of that interval counting with the share that lies inside.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from wsikd.slides.area_kernel import kernel, weights

if TYPE_CHECKING:
    from numpy.typing import NDArray


def area_resample(
    source: NDArray[np.uint8],
    start: tuple[float, float],
    factor: tuple[float, float],
    size: tuple[int, int],
    out: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Average an image down to a coarser grid that may lie anywhere on it.

    Args:
        source: uint8 (height, width, 3).
        start: (x, y) of the output's corner in source pixels, not negative.
        factor: (x, y) source pixels per output pixel, at least 1.
        size: (width, height) of the output; it must end inside the source.
        out: where to write, uint8 (height, width, 3), rows may lie apart.

    Returns:
        uint8 (height, width, 3), rounded to nearest: ``out`` if given.
    """
    width, height = size
    if out is None:
        out = np.empty((height, width, 3), np.uint8)
    if is_whole(start, factor):
        x, y, d = round(start[0]), round(start[1]), round(factor[0])
        shrink(source[y : y + height * d, x : x + width * d], d, out)
        return out
    rows = _weights(height, start[1], factor[1], source.shape[0])
    columns = _weights(width, start[0], factor[0], source.shape[1])
    if not source.flags.c_contiguous:
        source = np.ascontiguousarray(source)
    kernel()(source, out, *rows, *columns)
    return out


def shrink(source: NDArray[np.uint8], factor: int, out: NDArray[np.uint8]) -> None:
    """Average squares of ``factor`` pixels: uint8 (h * factor, w * factor, 3) -> (h, w, 3)."""
    if factor == 1:
        out[...] = source
        return
    size = (out.shape[1], out.shape[0])
    written = cv2.resize(source, size, dst=out, interpolation=cv2.INTER_AREA)
    if written is not out:
        out[...] = written


def is_whole(start: tuple[float, float], factor: tuple[float, float]) -> bool:
    """Whether every output pixel is a square of whole input pixels."""
    near = all(abs(v - round(v)) < 1e-6 for v in (*start, *factor))
    return near and round(factor[0]) == round(factor[1])


_weights = lru_cache(maxsize=512)(weights)


def area_means(
    values: NDArray[np.float32] | NDArray[np.bool_],
    start: tuple[float, float],
    factor: tuple[float, float],
    size: tuple[int, int],
    step: tuple[float, float] | None = None,
) -> NDArray[np.float32]:
    """Means of a plane over a grid of cells; outside the plane counts as zero.

    Args:
        values: (height, width).
        start: (x, y) of the grid's corner in pixels of ``values``; may be negative.
        factor: (x, y) pixels per cell, any positive number.
        size: (columns, rows).
        step: (x, y) pixels from cell to cell, where they overlap or leave gaps; default ``factor``.

    Returns:
        float32 (rows, columns).
    """
    columns, rows = size
    plane: Any = values.view(np.uint8) if values.dtype == np.bool_ else values
    integral = np.asarray(cv2.integral(plane, sdepth=cv2.CV_64F), np.float64)
    across, down = step or factor
    x = start[0] + across * np.arange(columns, dtype=np.float64)
    y = start[1] + down * np.arange(rows, dtype=np.float64)
    strips = _interpolate(integral, y + factor[1]) - _interpolate(integral, y)
    cells = _interpolate(strips.T, x + factor[0]) - _interpolate(strips.T, x)
    return np.asarray(np.clip(cells.T / (factor[0] * factor[1]), 0, None), np.float32)


def _interpolate(table: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of ``table`` at real positions, held constant beyond its ends."""
    clipped = np.clip(at, 0, len(table) - 1)
    low = np.minimum(clipped.astype(np.int64), max(len(table) - 2, 0))
    share = (clipped - low)[:, None]
    return np.asarray(table[low] * (1 - share) + table[np.minimum(low + 1, len(table) - 1)] * share)
