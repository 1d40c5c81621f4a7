"""A slide's plane at one resolution, exact to the fraction of a pixel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wsikd.core.clock import StageClock
from wsikd.core.errors import SlideError
from wsikd.slides.resample import area_resample

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsikd.slides.base import Slide

_SOURCE_BLOCK_PX = 1536
_FINER_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Canvas:
    """The scanned box of a slide, seen at ``mpp``.

    Canvas pixel (i, j) covers the level-0 box from ``origin_xy + (i, j) * scale_xy`` on, of size
    ``scale_xy``; at 0.499 um/px a canvas of 1 um/px has a scale of 2.004008. It is filled by area
    averaging from ``level``, the coarsest one that is at least as fine as ``mpp``.
    """

    slide: Slide
    mpp: float
    level: int
    origin_xy: tuple[float, float]
    scale_xy: tuple[float, float]
    size: tuple[int, int]

    @classmethod
    def plan(cls, slide: Slide, mpp: float) -> Canvas:
        """Lay a canvas of ``mpp`` um/px over the slide's bounds.

        Raises:
            MissingMppError: the slide has no resolution.
            SlideError: ``mpp`` is finer than the slide.
        """
        own = slide.mpp
        scale = (mpp / own.x, mpp / own.y)
        if min(scale) < 1 - _FINER_TOLERANCE:
            raise SlideError(
                slide.info.file,
                f"{mpp:g} um/px is finer than its own {own.x:g} um/px",
                "ask for a lower magnification (--mag) or a larger --mpp",
            )
        x, y, width, height = slide.info.bounds
        size = (math.ceil(width / scale[0] - 1e-6), math.ceil(height / scale[1] - 1e-6))
        level = source_level(slide.info.level_downsamples, scale)
        return cls(slide, mpp, level, (float(x), float(y)), scale, size)

    def read(
        self, x: int, y: int, width: int, height: int, clock: StageClock | None = None
    ) -> NDArray[np.uint8]:
        """Pixels of a canvas rectangle: uint8 (height, width, 3).

        What lies beyond the slide is its background. ``clock`` is told the stages ``read`` (file
        to level pixels) and ``resize``. Raises RegionReadError.
        """
        clock = clock or StageClock()
        out = np.empty((height, width, 3), np.uint8)
        down = self.slide.info.level_downsamples[self.level]
        factor = (self.scale_xy[0] / down[0], self.scale_xy[1] / down[1])
        step = max(1, int(_SOURCE_BLOCK_PX / max(factor)))
        for top in range(0, height, step):
            for left in range(0, width, step):
                part = (min(step, width - left), min(step, height - top))
                corner = self._level_xy(x + left, y + top, down)
                out[top : top + part[1], left : left + part[0]] = self._read_part(
                    corner, factor, part, clock
                )
        return out

    def _level_xy(self, x: int, y: int, down: tuple[float, float]) -> tuple[float, float]:
        return (
            (self.origin_xy[0] + x * self.scale_xy[0]) / down[0],
            (self.origin_xy[1] + y * self.scale_xy[1]) / down[1],
        )

    def _read_part(
        self,
        corner: tuple[float, float],
        factor: tuple[float, float],
        size: tuple[int, int],
        clock: StageClock,
    ) -> NDArray[np.uint8]:
        first = (_floor(corner[0]), _floor(corner[1]))
        end = (
            _ceil(corner[0] + size[0] * factor[0]),
            _ceil(corner[1] + size[1] * factor[1]),
        )
        span = (end[0] - first[0], end[1] - first[1])
        with clock("read"):
            pixels = self.slide.read_level(self.level, first, span)
        start = (max(0.0, corner[0] - first[0]), max(0.0, corner[1] - first[1]))
        with clock("resize"):
            return area_resample(pixels, start, factor, size)


def source_level(downsamples: tuple[tuple[float, float], ...], scale: tuple[float, float]) -> int:
    """The coarsest level that is not coarser than ``scale`` level-0 pixels per pixel."""
    fine_enough = [
        level
        for level, down in enumerate(downsamples)
        if down[0] <= scale[0] * (1 + 1e-6) and down[1] <= scale[1] * (1 + 1e-6)
    ]
    return max(fine_enough, key=lambda level: downsamples[level][0], default=0)


def _floor(value: float) -> int:
    return math.floor(value + 1e-6)


def _ceil(value: float) -> int:
    return math.ceil(value - 1e-6)
