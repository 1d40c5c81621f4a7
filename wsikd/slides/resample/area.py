"""Area averaging at any real factor, as a coarser sensor would record.

Output pixel ``i`` is the mean of the input over ``[start + i * factor, start + (i + 1) * factor)``,
input pixels at the borders of that interval counting with the share that lies inside.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from wsikd.slides.resample.fractional import kernel, weights
from wsikd.slides.resample.llvm import Effort
from wsikd.slides.resample.whole import FACTORS, LEAST_PX, mean_kernel

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_by_opencv = Effort(64 << 20)
"""Source pixels that OpenCV averages before LLVM is loaded: 0.4 to 1 ms a megapixel."""


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
    shrinker(source, factor, out, (out.shape[1], out.shape[0]))(0, 0)


def shrinker(
    source: NDArray[np.uint8], factor: int, out: NDArray[np.uint8], size: tuple[int, int]
) -> Callable[[int, int], None]:
    """What averages ``source``, as it is when called, into ``out`` from (row, column) on.

    It keeps the places of both arrays, not the arrays: they must outlive it.

    Args:
        source: uint8 (height * factor, width * factor, 3).
        factor: how many pixels become one, along a side.
        out: uint8 (H, W, 3).
        size: (width, height) of what is written, which must lie inside ``out``.
    """
    width, height = size
    fits = source.shape == (height * factor, width * factor, 3)
    if (
        not fits
        or height < 1
        or width < LEAST_PX
        or factor not in FACTORS
        or not (_in_lines(source) and _in_lines(out))
    ):
        return partial(_shrink_by_opencv, source, factor, out, size)
    mean = mean_kernel(factor) if _by_opencv.add(0) else None
    if mean is None:
        return partial(_shrink_by_opencv, source, factor, out, size)
    first, step, place, pitch = _address(source), source.strides[0], _address(out), out.strides[0]

    def average(row: int, column: int) -> None:
        mean(first, step, place + row * pitch + column * 3, pitch, height, width)

    return average


def _shrink_by_opencv(
    source: NDArray[np.uint8],
    factor: int,
    out: NDArray[np.uint8],
    size: tuple[int, int],
    row: int,
    column: int,
) -> None:
    target = out[row : row + size[1], column : column + size[0]]
    if factor == 1:
        target[...] = source
        return
    _by_opencv.add(source.size // 3)
    written = cv2.resize(source, size, dst=target, interpolation=cv2.INTER_AREA)
    if written is not target:
        target[...] = written


def _in_lines(pixels: NDArray[np.uint8]) -> bool:
    """Whether the pixels of a row follow one another in memory."""
    return pixels.dtype == np.uint8 and pixels.shape[2:] == (3,) and pixels.strides[1:] == (3, 1)


def _address(pixels: NDArray[np.uint8]) -> int:
    address: int = pixels.__array_interface__["data"][0]
    return address


def is_whole(start: tuple[float, float], factor: tuple[float, float]) -> bool:
    """Whether every output pixel is a square of whole input pixels."""
    for value in (*start, *factor):
        if abs(value - round(value)) >= 1e-6:
            return False
    return round(factor[0]) == round(factor[1])


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
    return means_over(running_sums(values), start, factor, size, step)


def running_sums(values: NDArray[np.float32] | NDArray[np.bool_]) -> NDArray[Any]:
    """Sums of what lies above and left: (height + 1, width + 1), int32 of bools, else float64."""
    plane: Any = values
    if values.dtype == np.bool_:
        return np.asarray(cv2.integral(plane.view(np.uint8), sdepth=cv2.CV_32S))
    return np.asarray(cv2.integral(plane, sdepth=cv2.CV_64F))


def means_over(
    sums: NDArray[Any],
    start: tuple[float, float],
    factor: tuple[float, float],
    size: tuple[int, int],
    step: tuple[float, float] | None = None,
) -> NDArray[np.float32]:
    """As :func:`area_means`, of a plane whose :func:`running_sums` are known."""
    columns, rows = size
    across, down = step or factor
    x = start[0] + across * np.arange(columns, dtype=np.float64)
    y = start[1] + down * np.arange(rows, dtype=np.float64)
    strips = _interpolate(sums, y + factor[1]) - _interpolate(sums, y)
    cells = _interpolate(strips.T, x + factor[0]) - _interpolate(strips.T, x)
    return np.asarray(np.clip(cells.T / (factor[0] * factor[1]), 0, None), np.float32)


def _interpolate(table: NDArray[Any], at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of ``table`` at real positions, held constant beyond its ends."""
    clipped = np.clip(at, 0, len(table) - 1)
    low = np.minimum(clipped.astype(np.int64), max(len(table) - 2, 0))
    share = (clipped - low)[:, None]
    return np.asarray(table[low] * (1 - share) + table[np.minimum(low + 1, len(table) - 1)] * share)
