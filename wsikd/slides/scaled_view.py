"""A slide's plane at one resolution, exact to the fraction of a pixel."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from wsikd.core.errors import SlideError
from wsikd.core.timing import StageClock
from wsikd.core.workers.progress import progressing
from wsikd.slides.resample.area import area_resample, is_whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsikd.slides.base import Slide
    from wsikd.slides.tiff.absent_tiles import AbsentTiles

_SOURCE_BLOCK_PX = 1536
_FINER_TOLERANCE = 1e-6
_BLOCK_PX = 8
_MARGIN_PX = 8
_EVENED_OUT = 3.9


@runtime_checkable
class InPlace(Protocol):
    """A slide that reads into arrays of the caller's, see ``tiff_tiles.DirectReader``."""

    def reductions(self, level: int) -> tuple[int, ...]:
        """Factors by which the decoder can reduce a level."""

    def read_into(
        self, level: int, location: tuple[int, int], out: NDArray[np.uint8], *, reduction: int = 1
    ) -> None:
        """Fill ``out``, uint8 (height, width, 3), with pixels of a level."""

    def average_into(
        self,
        level: int,
        location: tuple[int, int],
        factor: int,
        out: NDArray[np.uint8],
        *,
        reduction: int = 1,
    ) -> bool:
        """Fill ``out`` with averages over squares of ``factor`` pixels, if it can."""


@dataclass(frozen=True)
class Canvas:
    """The scanned box of a slide, seen at ``mpp``.

    Canvas pixel (i, j) covers the level-0 box from ``origin_xy + (i, j) * scale_xy`` on, of size
    ``scale_xy``; at 0.499 um/px a canvas of 1 um/px has a scale of 2.004008. It is filled by area
    averaging from ``level``, the coarsest one that is at least as fine as ``mpp``, which the JPEG
    decoder has reduced by ``reduction`` where that is not 1.
    """

    slide: Slide
    mpp: float
    level: int
    origin_xy: tuple[float, float]
    scale_xy: tuple[float, float]
    size: tuple[int, int]
    reduction: int = 1

    @classmethod
    def plan(
        cls,
        slide: Slide,
        mpp: float,
        *,
        rough: bool = False,
        close: bool = False,
        finest: float | None = None,
    ) -> Canvas:
        """Lay a canvas of ``mpp`` um/px over the slide's bounds.

        Args:
            slide: an open slide.
            mpp: um per canvas pixel.
            rough: let the JPEG decoder reduce what it can, where the slide's reader allows it;
                the pixels are then a grey level or so from the area average.
            close: let it reduce where that is within 1.5 grey levels (RMSE) of the area average: by
                whole blocks of the JPEG, or by so little that averaging evens it out.
            finest: um/px; take no level coarser than this one, though ``mpp`` would allow it.

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
        downs = slide.info.level_downsamples
        limit = scale if finest is None else (finest / own.x, finest / own.y)
        level = source_level(downs, limit)
        reduction = 1
        if (rough or close) and isinstance(slide, InPlace):
            factor = (scale[0] / downs[level][0], scale[1] / downs[level][1])
            fits = _reduces if rough else _reduces_closely
            fit = (r for r in slide.reductions(level) if fits(r, factor, (x, y)))
            reduction = max(fit, default=1)
        return cls(slide, mpp, level, (float(x), float(y)), scale, size, reduction)

    @cached_property
    def source_px(self) -> tuple[float, float]:
        """Level-0 pixels on x and y of one pixel of the source."""
        down = self.slide.info.level_downsamples[self.level]
        return (down[0] * self.reduction, down[1] * self.reduction)

    @cached_property
    def _factor(self) -> tuple[float, float]:
        """Source pixels on x and y of one canvas pixel."""
        return (self.scale_xy[0] / self.source_px[0], self.scale_xy[1] / self.source_px[1])

    @cached_property
    def _in_place(self) -> InPlace | None:
        """The slide, if it reads into others' arrays; to ask a protocol takes many microseconds."""
        return self.slide if isinstance(self.slide, InPlace) else None

    @cached_property
    def _absent(self) -> AbsentTiles | None:
        """Where the slide's file has no tiles, if that is known and there are such places."""
        return getattr(self.slide, "absent", None) or None

    def read(
        self,
        x: int,
        y: int,
        width: int,
        height: int,
        clock: StageClock | None = None,
        *,
        out: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.uint8]:
        """Pixels of a canvas rectangle: uint8 (height, width, 3).

        What lies beyond the slide is its background. ``clock`` times the stages ``read`` (file
        to level pixels, averaged within their tiles where that fits) and ``resize``; ``out`` is
        filled and returned if given. Raises RegionReadError.
        """
        clock = clock or StageClock()
        if out is None:
            out = np.empty((height, width, 3), np.uint8)
        source, factor = self.source_px, self._factor
        corner = (
            (self.origin_xy[0] + x * self.scale_xy[0]) / source[0],
            (self.origin_xy[1] + y * self.scale_xy[1]) / source[1],
        )
        if self._average(corner, factor, out, clock):
            progressing()
            return out
        step = max(1, int(_SOURCE_BLOCK_PX / max(factor)))
        for top in range(0, height, step):
            for left in range(0, width, step):
                part = out[top : top + step, left : left + step]
                start = (corner[0] + left * factor[0], corner[1] + top * factor[1])
                self._read_part(start, factor, part, clock)
            progressing()
        return out

    def _average(
        self,
        corner: tuple[float, float],
        factor: tuple[float, float],
        out: NDArray[np.uint8],
        clock: StageClock,
    ) -> bool:
        """Average within each tile as it is decoded, where whole pixels make up the output's."""
        slide = self._in_place
        if slide is None or not is_whole(corner, factor):
            return False
        first = (round(corner[0]), round(corner[1]))
        with clock("read"):
            return slide.average_into(
                self.level, first, round(factor[0]), out, reduction=self.reduction
            )

    def _in_level(
        self, corner: tuple[int, int], span: tuple[int, int]
    ) -> tuple[int, int, int, int]:
        """A box (x, y, width, height) of the source in px of its level, with a margin."""
        x, y, width, height = (v * self.reduction for v in (*corner, *span))
        return (x - _MARGIN_PX, y - _MARGIN_PX, width + 2 * _MARGIN_PX, height + 2 * _MARGIN_PX)

    def _read_part(
        self,
        corner: tuple[float, float],
        factor: tuple[float, float],
        out: NDArray[np.uint8],
        clock: StageClock,
    ) -> None:
        first = (_floor(corner[0]), _floor(corner[1]))
        end = (
            _ceil(corner[0] + out.shape[1] * factor[0]),
            _ceil(corner[1] + out.shape[0] * factor[1]),
        )
        span = (end[0] - first[0], end[1] - first[1])
        if self._absent and self._absent.covers(self.level, *self._in_level(first, span)):
            out[...] = self.slide.info.background
            return
        with clock("read"):
            if self._in_place is not None:
                pixels = _scratch(span)
                self._in_place.read_into(self.level, first, pixels, reduction=self.reduction)
            else:
                pixels = self.slide.read_level(self.level, first, span)
        start = (max(0.0, corner[0] - first[0]), max(0.0, corner[1] - first[1]))
        with clock("resize"):
            area_resample(pixels, start, factor, (out.shape[1], out.shape[0]), out)


_own = threading.local()


def _scratch(size: tuple[int, int]) -> NDArray[np.uint8]:
    """This thread's memory for a block, uint8 (height, width, 3): fresh pages cost a lot."""
    need = size[0] * size[1] * 3
    memory: NDArray[np.uint8] | None = getattr(_own, "memory", None)
    if memory is None or memory.size < need:
        memory = _own.memory = np.empty(need, np.uint8)
    return memory[:need].reshape(size[1], size[0], 3)


def _reduces(reduction: int, factor: tuple[float, float], corner: tuple[int, int]) -> bool:
    """Whether reduced pixels are still fine enough: half an output's, or whole parts of it."""
    fine = (factor[0] / reduction, factor[1] / reduction)
    return min(fine) >= 2 or (min(fine) >= 1 and is_whole((0.0, 0.0), fine) and corner == (0, 0))


def _reduces_closely(reduction: int, factor: tuple[float, float], corner: tuple[int, int]) -> bool:
    """Whether the decoder's low-pass is evened out: four of its pixels to one, or whole blocks."""
    if is_whole((0.0, 0.0), factor) and round(factor[0]) % _BLOCK_PX == 0 and corner == (0, 0):
        return True
    return min(factor) / reduction >= _EVENED_OUT


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
