"""How far the two routes to a low magnification differ on a slide.

A student trained on averages of the higher magnification (``area``) meets the scanner's own level
(``pyramid``) in practice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from wsikd.slides.resample.area import area_resample
from wsikd.slides.scaled_view import Canvas
from wsikd.slides.tissue.find import TissueAreas, find_tissue
from wsikd.tiles.grid import TileGrid, patch_sizes

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from wsikd.slides.base import Slide
    from wsikd.tiles.store import StoreSettings


@dataclass(frozen=True)
class RouteDifference:
    """``pyramid`` against ``area`` at one resolution, over ``fields`` fields of tissue.

    ``levels`` are the source levels of area and pyramid; ``psnr_db`` is infinite where no pixel
    differs; ``colour_shift`` is the mean of pyramid minus area in grey levels (R, G, B);
    ``shift_px`` is how far pyramid lies to the right of and below area, in pixels at ``mpp``, by
    phase correlation (median over the fields).
    """

    mpp: float
    levels: tuple[int, int]
    fields: int
    psnr_db: float
    colour_shift: tuple[float, float, float]
    shift_px: tuple[float, float]


def compare_routes(
    slide: Slide,
    settings: StoreSettings,
    *,
    mask_file: Path | None = None,
    limit: int = 64,
    workers: int = 2,
) -> list[RouteDifference]:
    """Read fields at every resolution but the finest by both routes.

    Args:
        slide: an open slide.
        settings: resolutions, patch size and tissue.
        mask_file: the user's own tissue mask.
        limit: fields to read, spread evenly over the tissue.
        workers: threads that search the tissue.

    Raises:
        MissingMppError, RegionReadError, SlideError: from the slide.
    """
    finest = Canvas.plan(slide, settings.mpps[0])
    grid = TileGrid.plan(slide, settings.mpps[0], settings.patch_px, settings.stride_px)
    areas = TissueAreas(settings.min_tissue_um2, settings.max_hole_um2)
    tissue = find_tissue(
        slide, method=settings.tissue, mask_file=mask_file, workers=workers, areas=areas
    )
    cover = grid.cover(tissue)
    rows, columns = np.nonzero((cover >= settings.min_tissue) & (cover > 0))
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(limit, len(rows))).round().astype(int))
    sizes = patch_sizes(settings.mpps, settings.patch_px, settings.stride_px)
    sums = [
        _Sums(Canvas.plan(slide, mpp), size)
        for mpp, size in zip(settings.mpps[1:], sizes[1:], strict=True)
    ]
    for index in chosen.tolist():
        row, column = int(rows[index]), int(columns[index])
        patch, stride = sizes[0]
        high = finest.read(column * stride, row * stride, patch, patch)
        for one in sums:
            one.add(high, row, column)
    return [one.result(finest.level) for one in sums]


class _Sums:
    """Differences at one resolution, added up field by field."""

    def __init__(self, canvas: Canvas, size: tuple[int, int]) -> None:
        self.canvas, (self.patch, self.stride) = canvas, size
        self.square, self.count = 0.0, 0
        self.colour = np.zeros(3)
        self.shifts: list[tuple[float, float]] = []

    def add(self, high: NDArray[np.uint8], row: int, column: int) -> None:
        ratio = high.shape[0] / self.patch
        area = area_resample(high, (0.0, 0.0), (ratio, ratio), (self.patch, self.patch))
        x, y = column * self.stride, row * self.stride
        pyramid = self.canvas.read(x, y, self.patch, self.patch)
        difference = pyramid.astype(np.float64) - area
        self.square += float((difference**2).mean())
        self.colour += difference.mean((0, 1))
        self.count += 1
        if min(area.shape[:2]) >= 16:
            grey = [cv2.cvtColor(p, cv2.COLOR_RGB2GRAY).astype(np.float64) for p in (area, pyramid)]
            window = cv2.createHanningWindow((self.patch, self.patch), cv2.CV_64F)
            x_px, y_px = cv2.phaseCorrelate(grey[0], grey[1], window)[0]
            self.shifts.append((x_px, y_px))

    def result(self, finest_level: int) -> RouteDifference:
        count = max(self.count, 1)
        error = self.square / count
        red, green, blue = (self.colour / count).tolist()
        shift = np.median(self.shifts, axis=0).tolist() if self.shifts else [0.0, 0.0]
        return RouteDifference(
            self.canvas.mpp,
            (finest_level, self.canvas.level),
            self.count,
            10 * math.log10(255**2 / error) if error else math.inf,
            (red, green, blue),
            (shift[0], shift[1]),
        )
