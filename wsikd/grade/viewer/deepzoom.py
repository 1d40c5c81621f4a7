"""Deep Zoom pyramids of a slide and of its grade map, one tile at a time.

Both lie on one *plane*: the slide's bounds at its own resolution, with square pixels. Level ``n``
is the plane reduced by ``2 ** (last - n)``, its size rounded up. Tiles do not overlap.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.grade.exports.overlay import cells_under
from wsikd.grade.reports.class_colours import class_colour
from wsikd.grade.reports.thumbnail import View
from wsikd.slides.scaled_view import Canvas

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from wsikd.grade.grademap import GradeMap
    from wsikd.slides.base import Slide

TILE_PX = 512
OUTLINE_PX = 2


@dataclass(frozen=True)
class Plane:
    """The plane of a pyramid, in relation to level 0.

    Attributes:
        origin_xy: level-0 (x, y) of its corner.
        scale_xy: level-0 px per plane px, (x, y); 1 if the slide's pixels are square.
        size: plane (width, height) in px.
        mpp: um per plane px.
    """

    origin_xy: tuple[float, float]
    scale_xy: tuple[float, float]
    size: tuple[int, int]
    mpp: float

    @classmethod
    def over(cls, bounds: tuple[int, int, int, int], mpp_xy: tuple[float, float]) -> Plane:
        """Lay a plane over the bounds (level-0 x, y, width, height) of a slide."""
        mpp = max(mpp_xy)
        scale = (mpp / mpp_xy[0], mpp / mpp_xy[1])
        width, height = (math.ceil(s / f - 1e-6) for s, f in zip(bounds[2:], scale, strict=True))
        return cls((float(bounds[0]), float(bounds[1])), scale, (width, height), mpp)

    @property
    def last_level(self) -> int:
        """The finest level, which has every pixel of the plane."""
        return math.ceil(math.log2(max(self.size)))

    @property
    def first_level(self) -> int:
        """The finest level that fits in one tile; coarser ones are not served."""
        return max(0, self.last_level - math.ceil(math.log2(max(max(self.size) / TILE_PX, 1))))

    def step(self, level: int) -> int:
        """Plane px per px of a level."""
        return int(2 ** (self.last_level - level))

    def box(self, level: int, column: int, row: int) -> tuple[int, int, int, int] | None:
        """A tile's x, y, width, height in px of its level; None if there is no such tile."""
        if not self.first_level <= level <= self.last_level:
            return None
        width, height = (math.ceil(side / self.step(level)) for side in self.size)
        x, y = column * TILE_PX, row * TILE_PX
        if x >= width or y >= height:
            return None
        return x, y, min(TILE_PX, width - x), min(TILE_PX, height - y)

    def to_level0(self, x: float, y: float) -> tuple[float, float]:
        """Level-0 (x, y) of a point on the plane."""
        return (
            self.origin_xy[0] + x * self.scale_xy[0],
            self.origin_xy[1] + y * self.scale_xy[1],
        )

    def from_level0(self, x: float, y: float) -> tuple[float, float]:
        """Plane (x, y) of a level-0 point."""
        return (
            (x - self.origin_xy[0]) / self.scale_xy[0],
            (y - self.origin_xy[1]) / self.scale_xy[1],
        )

    def box_from_level0(self, box: Sequence[float]) -> list[float]:
        """Plane (x, y, width, height) of a level-0 box."""
        x, y, width, height = box
        left, top = self.from_level0(x, y)
        return [left, top, width / self.scale_xy[0], height / self.scale_xy[1]]


def slide_tile(
    slide: Slide, plane: Plane, level: int, column: int, row: int
) -> NDArray[np.uint8] | None:
    """Pixels of a tile: uint8 (height, width, 3), the slide's own at the finest level.

    Coarser levels are area averages of the nearest finer level that the slide stores. If the JPEG
    decoder reduces it, values may differ by about one grey level.

    Returns:
        The pixels; None if there is no such tile.

    Raises:
        RegionReadError: the slide is damaged there.
    """
    box = plane.box(level, column, row)
    if box is None:
        return None
    step = plane.step(level)
    return Canvas.plan(slide, plane.mpp * step, rough=step > 1).read(*box)


def map_tile(
    grade_map: GradeMap,
    plane: Plane,
    level: int,
    column: int,
    row: int,
    shown: int,
    *,
    shown_hw: tuple[NDArray[np.int16], int] | None = None,
    outline: bool = False,
) -> NDArray[np.uint8] | None:
    """Colours of a tile: uint8 (height, width, 4), transparent where nothing is shown.

    A pixel has the colour of the cell at its centre, if there is tissue.

    Args:
        grade_map: the grades.
        plane: the plane of the pyramid.
        level: level of the pyramid.
        column: column of the tile.
        row: row of the tile.
        shown: bit mask of the classes to show; bit ``n`` is class ``n``.
        shown_hw: what :meth:`GradeMap.shown_hw` returns; by default that of the map.
        outline: show only a line of ``OUTLINE_PX`` inside each region of one class.

    Returns:
        The colours; None if there is no such tile.
    """
    box = plane.box(level, column, row)
    if box is None:
        return None
    margin = OUTLINE_PX if outline else 0
    x, y, width, height = box[0] - margin, box[1] - margin, box[2] + 2 * margin, box[3] + 2 * margin
    step = plane.step(level)
    scale = (1 / (step * plane.scale_xy[0]), 1 / (step * plane.scale_xy[1]))
    place = View(np.empty((0, 0, 3), np.uint8), plane.to_level0(x * step, y * step), scale)
    graded, parts = grade_map.shown_hw() if shown_hw is None else shown_hw
    columns, in_x = cells_under(grade_map, place, 0, width, parts)
    rows, in_y = cells_under(grade_map, place, 1, height, parts)
    grade = np.where(in_y[:, None] & in_x, graded[np.ix_(rows, columns)], -1)
    if outline:
        grade = _lines(grade)
    names = grade_map.classes
    table = np.zeros((len(names) + 1, 4), np.uint8)  # the last row is for index -1
    for index, name in enumerate(names):
        if shown >> index & 1:
            table[index] = (*class_colour(name, index), 255)
    return np.asarray(table[grade], np.uint8)


def _lines(grade: NDArray[np.integer[Any]]) -> NDArray[np.integer[Any]]:
    """The inner edge of each region, -1 elsewhere; ``OUTLINE_PX`` smaller on each side."""
    size = 2 * OUTLINE_PX + 1
    around = np.lib.stride_tricks.sliding_window_view(grade, (size, size))
    inner = grade[OUTLINE_PX:-OUTLINE_PX, OUTLINE_PX:-OUTLINE_PX]
    edge = (around.min((2, 3)) != inner) | (around.max((2, 3)) != inner)
    return np.where(edge, inner, -1)


def cell_at(grade_map: GradeMap, x: float, y: float) -> tuple[int, int] | None:
    """Row and column of the cell at level-0 (x, y); None if it was not read."""
    place = (x, y)
    column, row = (
        math.floor((place[i] - grade_map.origin_xy[i]) / grade_map.cell_px[i]) for i in (0, 1)
    )
    rows, columns = grade_map.valid_hw.shape
    if 0 <= row < rows and 0 <= column < columns and grade_map.valid_hw[row, column]:
        return row, column
    return None
