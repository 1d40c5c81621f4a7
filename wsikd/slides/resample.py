"""Area averaging at any real factor: what a coarser sensor would have recorded.

Output pixel ``i`` is the mean of the input over ``[start + i * factor, start + (i + 1) * factor)``,
input pixels at the borders of that interval counting with the share that lies inside.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BLOCK_SOURCE_PX = 128


def area_resample(
    source: NDArray[np.uint8],
    start: tuple[float, float],
    factor: tuple[float, float],
    size: tuple[int, int],
) -> NDArray[np.uint8]:
    """Average an image down to a coarser grid that may lie anywhere on it.

    Args:
        source: uint8 (height, width, 3).
        start: (x, y) of the output's corner in source pixels, not negative.
        factor: (x, y) source pixels per output pixel, at least 1.
        size: (width, height) of the output; it must end inside the source.

    Returns:
        uint8 (height, width, 3), rounded to nearest.
    """
    width, height = size
    if _is_whole(start, factor):
        x, y, d = round(start[0]), round(start[1]), round(factor[0])
        crop = source[y : y + height * d, x : x + width * d]
        if d == 1:
            return np.ascontiguousarray(crop)
        return np.asarray(cv2.resize(crop, size, interpolation=cv2.INTER_AREA), np.uint8)
    rows = np.empty((height, 3, source.shape[1]), np.float32)
    for begin, end, first, weights in _bands(height, start[1], factor[1], source.shape[0]):
        band = source[first : first + weights.shape[1]].astype(np.float32)
        mixed = weights @ band.reshape(len(band), -1)
        rows[begin:end] = mixed.reshape(end - begin, -1, 3).transpose(0, 2, 1)
    flat = rows.reshape(height * 3, -1)
    out = np.empty((height * 3, width), np.float32)
    for begin, end, first, weights in _bands(width, start[0], factor[0], source.shape[1]):
        out[:, begin:end] = flat[:, first : first + weights.shape[1]] @ weights.T
    out += 0.5
    # The weights sum to 1 up to float32, so 255 + 0.5 never reaches 256.
    return np.ascontiguousarray(out.astype(np.uint8).reshape(height, 3, width).transpose(0, 2, 1))


def area_means(
    values: NDArray[np.float32] | NDArray[np.bool_],
    start: tuple[float, float],
    factor: tuple[float, float],
    size: tuple[int, int],
) -> NDArray[np.float32]:
    """Means of a plane over a grid of cells; outside the plane counts as zero.

    Args:
        values: (height, width).
        start: (x, y) of the grid's corner in pixels of ``values``; may be negative.
        factor: (x, y) pixels per cell, any positive number.
        size: (columns, rows).

    Returns:
        float32 (rows, columns).
    """
    columns, rows = size
    integral = np.zeros((values.shape[0] + 1, values.shape[1] + 1), np.float64)
    integral[1:, 1:] = values.astype(np.float64).cumsum(0).cumsum(1)
    x = start[0] + factor[0] * np.arange(columns + 1, dtype=np.float64)
    y = start[1] + factor[1] * np.arange(rows + 1, dtype=np.float64)
    along_y = _interpolate(integral, y)
    sums = _interpolate(along_y.T, x).T
    cells = np.diff(np.diff(sums, axis=0), axis=1) / (factor[0] * factor[1])
    return np.asarray(np.clip(cells, 0, None), np.float32)


def _interpolate(table: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of ``table`` at real positions, held constant beyond its ends."""
    clipped = np.clip(at, 0, len(table) - 1)
    low = np.minimum(clipped.astype(np.int64), max(len(table) - 2, 0))
    share = (clipped - low)[:, None]
    return np.asarray(table[low] * (1 - share) + table[np.minimum(low + 1, len(table) - 1)] * share)


def _is_whole(start: tuple[float, float], factor: tuple[float, float]) -> bool:
    near = all(abs(v - round(v)) < 1e-6 for v in (*start, *factor))
    return near and round(factor[0]) == round(factor[1])


@lru_cache(maxsize=256)
def _bands(
    count: int, start: float, factor: float, limit: int
) -> list[tuple[int, int, int, NDArray[np.float32]]]:
    """Weights in bands of a few outputs: (begin, end, first source pixel, (outputs, pixels))."""
    step = max(4, int(_BLOCK_SOURCE_PX / factor))
    bands = []
    for begin in range(0, count, step):
        end = min(begin + step, count)
        edges = start + factor * np.arange(begin, end + 1)
        first, last = int(edges[0]), min(int(np.ceil(edges[-1] - 1e-9)), limit)
        pixels = np.arange(first, max(last, first + 1))
        low = np.maximum(edges[:-1, None], pixels)
        high = np.minimum(edges[1:, None], pixels + 1)
        overlap = np.clip(high - low, 0, None)
        weights = overlap / overlap.sum(1, keepdims=True)
        bands.append((begin, end, first, weights.astype(np.float32)))
    return bands
