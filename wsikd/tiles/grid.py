"""Where fields lie on a slide: pure arithmetic, one grid for all magnifications.

A *field* is a square of tissue. At each resolution it is a patch of another size: 512 px at
1 um/px and 128 px at 4 um/px show the same 512 um.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from wsikd.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from wsikd.slides.base import Slide
    from wsikd.slides.tissue.find import TissueMask


@dataclass(frozen=True)
class TileGrid:
    """Fields over the scanned box of a slide, row by row.

    Field (row, column) starts at ``origin_xy + (column, row) * step_px`` and is ``field_px`` large,
    all float level-0 (x, y). The last row and column may reach beyond the slide: every scanned
    pixel lies in a field.

    At 0.499 um/px a patch of 256 px at 1 um/px covers 513.03 level-0 px:

    >>> grid = TileGrid.over((0, 0, 2220, 2967), (0.499, 0.499), mpp=1.0, patch_px=256)
    >>> grid.columns, grid.rows, round(grid.field_px[0], 2)
    (5, 6, 513.03)
    """

    mpp: float
    patch_px: int
    stride_px: int
    origin_xy: tuple[float, float]
    field_px: tuple[float, float]
    step_px: tuple[float, float]
    columns: int
    rows: int

    @classmethod
    def plan(
        cls, slide: Slide, mpp: float, patch_px: int, stride_px: int | None = None
    ) -> TileGrid:
        """Lay a grid over an open slide; raises MissingMppError, ConfigError."""
        own = slide.mpp
        return cls.over(
            slide.info.bounds, (own.x, own.y), mpp=mpp, patch_px=patch_px, stride_px=stride_px
        )

    @classmethod
    def over(
        cls,
        bounds: tuple[int, int, int, int],
        slide_mpp: tuple[float, float],
        *,
        mpp: float,
        patch_px: int,
        stride_px: int | None = None,
    ) -> TileGrid:
        """Lay a grid over a level-0 box.

        Args:
            bounds: level-0 (x, y, width, height).
            slide_mpp: um per level-0 pixel on x and y.
            mpp: um per patch pixel.
            patch_px: patch side at ``mpp``.
            stride_px: distance of neighbouring patches at ``mpp``; default ``patch_px``.

        Raises:
            ConfigError: a size is not positive.
        """
        stride_px = patch_px if stride_px is None else stride_px
        for name, value in (("--patch-size", patch_px), ("--stride", stride_px), ("--mpp", mpp)):
            if value <= 0:
                raise ConfigError(name, f"{value} is not positive", "give a positive number")
        x, y, width, height = bounds
        scale = (mpp / slide_mpp[0], mpp / slide_mpp[1])
        field = (patch_px * scale[0], patch_px * scale[1])
        step = (stride_px * scale[0], stride_px * scale[1])
        return cls(
            mpp,
            patch_px,
            stride_px,
            (float(x), float(y)),
            field,
            step,
            _count(width, field[0], step[0]),
            _count(height, field[1], step[1]),
        )

    def boxes(self, rows: NDArray[np.integer], columns: NDArray[np.integer]) -> NDArray[np.float64]:
        """Level-0 (x, y, width, height) of fields: float64 (N, 4)."""
        corner = np.column_stack([columns, rows]) * self.step_px + self.origin_xy
        size = np.broadcast_to(np.asarray(self.field_px, np.float64), corner.shape)
        return np.column_stack([corner, size]).astype(np.float64)

    def cover(self, tissue: TissueMask) -> NDArray[np.float32]:
        """Tissue share of each field: float32 (rows, columns)."""
        size = (self.columns, self.rows)
        return tissue.cover(self.origin_xy, self.field_px, size, self.step_px)


def patch_sizes(mpps: Sequence[float], patch_px: int, stride_px: int) -> list[tuple[int, int]]:
    """Patch and stride at each resolution, in whole pixels.

    Args:
        mpps: um/px, finest first.
        patch_px: patch side at the finest.
        stride_px: stride at the finest.

    Raises:
        ConfigError: a patch is not a whole number of pixels at some resolution.

    >>> patch_sizes([1.0, 4.0], 512, 256)
    [(512, 256), (128, 64)]
    """
    sizes = []
    for mpp in mpps:
        ratio = mpp / mpps[0]
        pair = (patch_px / ratio, stride_px / ratio)
        whole = (round(pair[0]), round(pair[1]))
        if min(whole) < 1 or any(abs(a - b) > 1e-6 for a, b in zip(pair, whole, strict=True)):
            raise ConfigError(
                "--patch-size",
                f"{patch_px} px (stride {stride_px}) at {mpps[0]:g} um/px is {pair[0]:g} px "
                f"(stride {pair[1]:g}) at {mpp:g} um/px",
                f"give multiples of {_whole_multiple(mpps)}",
            )
        sizes.append(whole)
    return sizes


def _whole_multiple(mpps: Sequence[float]) -> int:
    """Smallest size at the finest resolution that is whole at all of them."""
    ratios = (Fraction(mpp / mpps[0]).limit_denominator(1000) for mpp in mpps)
    return math.lcm(*(ratio.numerator for ratio in ratios))


def _count(length: int, field: float, step: float) -> int:
    """Fields needed to reach the end of ``length``."""
    return max(1, math.ceil((length - field) / step - 1e-9) + 1)
