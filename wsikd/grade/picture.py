"""A picture of a slide, put together from the pixels that are read to grade it.

The thumbnail of the tissue search, at 8 um/px, is enough for a slide of 10 mm and more. On smaller
ones the network's fields, which are finer, are laid over it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from wsikd.grade.reports.thumbnail import PICTURE_PX, View

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsikd.slides.tissue.find import TissueMask
    from wsikd.tiles.grid import TileGrid


class Picture:
    """Takes the fields of a slide as they pass by.

    Args:
        tissue: with the thumbnail of the slide.
        grid: grid of the fields.
        rows: grid row of each field, int (N,).
        columns: grid column of each, int (N,).
        max_px: longest side of the picture; it is never finer than what is read.
    """

    def __init__(
        self,
        tissue: TissueMask,
        grid: TileGrid,
        rows: NDArray[np.integer],
        columns: NDArray[np.integer],
        *,
        max_px: int = PICTURE_PX,
    ) -> None:
        """Begin with the thumbnail."""
        self._rgb: NDArray[np.uint8] | None = None
        if tissue.thumbnail is None:
            return
        height, width = tissue.thumbnail.shape[:2]
        covered = width * tissue.scale_xy[0], height * tissue.scale_xy[1]
        finest = min(*tissue.scale_xy, *(side / grid.patch_px for side in grid.field_px))
        scale = min(max_px / max(covered), 1 / finest)
        size = max(1, round(covered[0] * scale)), max(1, round(covered[1] * scale))
        self._finer = size[0] > width
        shrink = cv2.INTER_LINEAR if self._finer else cv2.INTER_AREA
        self._rgb = np.asarray(cv2.resize(tissue.thumbnail, size, interpolation=shrink), np.uint8)
        self._origin, self._scale = tissue.origin_xy, (size[0] / covered[0], size[1] / covered[1])
        self._left = self._edges(grid, columns, 0)
        self._top = self._edges(grid, rows, 1)

    def __call__(self, index: NDArray[np.int64], patches: NDArray[np.uint8]) -> None:
        """Lay a batch over the picture: indices of its fields, uint8 (B, height, width, 3)."""
        if self._rgb is None or not self._finer:
            return
        for patch, (left, right), (top, bottom) in zip(
            patches, self._left[index].tolist(), self._top[index].tolist(), strict=True
        ):
            size = right - left, bottom - top
            if min(size) < 1:
                continue
            if patch.shape[:2] != size[::-1]:
                patch = np.asarray(cv2.resize(patch, size, interpolation=cv2.INTER_AREA), np.uint8)
            x, y = max(left, 0), max(top, 0)
            place = self._rgb[y:bottom, x:right]
            place[...] = patch[y - top :, x - left :][: place.shape[0], : place.shape[1]]

    @property
    def view(self) -> View | None:
        """The picture; None where the tissue search had no thumbnail."""
        return None if self._rgb is None else View(self._rgb, self._origin, self._scale)

    def _edges(self, grid: TileGrid, place: NDArray[np.integer], axis: int) -> NDArray[np.int64]:
        """Both edges of fields along an axis in px of the picture: int64 (N, 2)."""
        start = grid.origin_xy[axis] + place * grid.step_px[axis] - self._origin[axis]
        both = np.stack([start, start + grid.field_px[axis]], 1) * self._scale[axis]
        return np.asarray(np.round(both), np.int64)
