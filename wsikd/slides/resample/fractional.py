"""The inner loop of the fractional area average, compiled at its first use and kept on disk."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


@lru_cache(maxsize=1)
def kernel() -> Callable[..., None]:
    """The compiled ``_average``; it releases the interpreter's lock."""
    from numba import njit

    options: dict[str, Any] = {"nogil": True, "fastmath": True, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(_average)  # type: ignore[no-any-return]
    except RuntimeError:  # no folder to keep it in can be written to
        return njit(**options)(_average)  # type: ignore[no-any-return]


def weights(
    count: int, start: float, factor: float, limit: int
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Which inputs an output averages, and with what share.

    Output ``i`` covers ``[start + i * factor, start + (i + 1) * factor)`` of ``limit`` inputs.

    Returns:
        first input int64 (count,), shares float32 (count, taps) that sum to 1, number of taps
        int64 (count,).
    """
    edges = np.clip(start + factor * np.arange(count + 1), 0, limit)
    # An edge that rounding put a hair beside a pixel's border belongs on it.
    near = np.rint(edges)
    edges = np.where(np.abs(edges - near) < 1e-6, near, edges)
    first = np.minimum(np.floor(edges[:-1]).astype(np.int64), limit - 1)
    taps = np.maximum(np.ceil(edges[1:]).astype(np.int64) - first, 1)
    pixel = first[:, None] + np.arange(int(taps.max()))
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    share = np.clip(overlap, 0, None)
    share /= share.sum(1, keepdims=True)
    return first, share.astype(np.float32), taps


def _average(
    source: Any, out: Any, top: Any, down: Any, rows: Any, left: Any, across: Any, columns: Any
) -> None:
    """Mean over rectangles: source uint8 (H, W, 3) -> out uint8 (h, w, 3), rounded to nearest.

    ``top``, ``down``, ``rows`` are ``weights`` of the rows, the others those of the columns. Three
    taps, the case of a factor just above two, are written out: twice as fast.
    """
    height, width = out.shape[0], out.shape[1]
    line = np.zeros(source.shape[1] * 3, np.float32)
    half = np.float32(0.5)
    for i in range(height):
        first, taps = top[i], rows[i]
        if taps == 3:
            a = source[first].reshape(-1)
            b = source[first + 1].reshape(-1)
            c = source[first + 2].reshape(-1)
            u, v, w = down[i, 0], down[i, 1], down[i, 2]
            for k in range(len(line)):
                line[k] = u * np.float32(a[k]) + v * np.float32(b[k]) + w * np.float32(c[k])
        else:
            a = source[first].reshape(-1)
            u = down[i, 0]
            for k in range(len(line)):
                line[k] = u * np.float32(a[k])
            for t in range(1, taps):
                a = source[first + t].reshape(-1)
                u = down[i, t]
                for k in range(len(line)):
                    line[k] += u * np.float32(a[k])
        for j in range(width):
            p, taps = left[j] * 3, columns[j]
            if taps == 3:
                u, v, w = across[j, 0], across[j, 1], across[j, 2]
                for c3 in range(3):
                    s = u * line[p + c3] + v * line[p + 3 + c3] + w * line[p + 6 + c3]
                    out[i, j, c3] = np.uint8(s + half)
            else:
                red, green, blue = half, half, half
                for t in range(taps):
                    u = across[j, t]
                    red += u * line[p]
                    green += u * line[p + 1]
                    blue += u * line[p + 2]
                    p += 3
                out[i, j, 0] = np.uint8(red)
                out[i, j, 1] = np.uint8(green)
                out[i, j, 2] = np.uint8(blue)
