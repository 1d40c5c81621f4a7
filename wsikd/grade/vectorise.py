"""Label rasters become polygons."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Region:
    """A connected region of one class.

    Attributes:
        component: its number in the component raster, from 1.
        grade: its class index.
        rings: closed rings of cell corners as int64 (n, 2) of (column, row); the outline first,
            counter-clockwise as if row pointed up, then the holes, clockwise.
    """

    component: int
    grade: int
    rings: tuple[Ints, ...]


def regions(grade_hw: NDArray[np.int16]) -> tuple[list[Region], Ints]:
    """Connected regions of a label raster; cells that meet only at a corner are apart.

    Corners are exact cell corners and the polygons are valid by the OGC's rules. The work is in
    array operations: only corners, never cells, are visited one by one.

    Args:
        grade_hw: int16 (rows, columns), class index or -1 for none.

    Returns:
        The regions ordered by component, and the component raster: int64 (rows, columns), 0 for
        none.
    """
    component_hw = _components(grade_hw)
    if not component_hw.any():
        return [], component_hw
    faces = shapely.get_parts(shapely.polygonize(_boundary(component_hw)))
    inside = shapely.get_coordinates(shapely.point_on_surface(faces)).astype(np.int64)
    component = component_hw[inside[:, 1], inside[:, 0]]
    grade = grade_hw[inside[:, 1], inside[:, 0]]
    found = [
        Region(int(component[face]), int(grade[face]), rings)
        for face, rings in enumerate(_rings(faces))
        if component[face]
    ]
    return sorted(found, key=lambda region: region.component), component_hw


def _components(grade_hw: NDArray[np.int16]) -> Ints:
    out = np.zeros(grade_hw.shape, np.int64)
    count = 0
    for grade in np.flatnonzero(np.bincount(grade_hw[grade_hw >= 0])):
        mask = (grade_hw == grade).astype(np.uint8)
        found, part = cv2.connectedComponents(mask, connectivity=4)  # the background is one
        out[part > 0] = part[part > 0] + count
        count += found - 1
    return out


def _boundary(component_hw: Ints) -> NDArray[np.object_]:
    """Straight segments between regions, cut wherever another segment meets them."""
    padded = np.pad(component_hw, 1)
    flat = padded[:-1, 1:-1] != padded[1:, 1:-1]
    upright = padded[1:-1, :-1] != padded[1:-1, 1:]
    across = np.pad(upright, ((1, 0), (0, 0))) | np.pad(upright, ((0, 1), (0, 0)))
    along = np.pad(flat, ((0, 0), (1, 0))) | np.pad(flat, ((0, 0), (0, 1)))
    rows = _runs(flat, across)
    columns = _runs(upright.T, along.T)[:, :, ::-1]
    return np.asarray(shapely.linestrings(np.concatenate([rows, columns]).astype(np.float64)))


def _runs(edge: NDArray[np.bool_], cut: NDArray[np.bool_]) -> Ints:
    """Runs of unit edges along the last axis, broken at cut corners: (N, 2, 2) of (x, y)."""
    after = np.pad(edge, ((0, 0), (0, 1)))[:, 1:]
    before = np.pad(edge, ((0, 0), (1, 0)))[:, :-1]
    y, start = np.nonzero(edge & (~before | cut[:, :-1]))
    _, last = np.nonzero(edge & (~after | cut[:, 1:]))
    return np.stack([np.stack([start, y], -1), np.stack([last + 1, y], -1)], 1)


def _rings(polygons: NDArray[np.object_]) -> list[tuple[Ints, ...]]:
    """Rings of each polygon without points on straight lines."""
    all_rings, owner = shapely.get_rings(polygons, return_index=True)
    ring_at = np.concatenate([[0], np.cumsum(shapely.get_num_coordinates(all_rings))])
    polygon_at = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(polygons)))])
    xy = shapely.get_coordinates(all_rings).astype(np.int64)
    previous, following = np.roll(xy, 1, 0), np.roll(xy, -1, 0)
    first, closing = ring_at[:-1], ring_at[1:] - 1
    previous[first] = xy[closing - 1]
    straight = ((previous == xy) & (xy == following)).any(1)
    straight[closing] = True
    kept = xy[~straight]
    at = np.concatenate([[0], np.cumsum(~straight)])[ring_at]
    rings = []
    for start, end in zip(at[:-1].tolist(), at[1:].tolist(), strict=True):
        ring = kept[start:end]
        rings.append(np.concatenate([ring[:1], ring[::-1]]))  # GEOS winds the other way round
    spans = zip(polygon_at[:-1].tolist(), polygon_at[1:].tolist(), strict=True)
    return [tuple(rings[start:end]) for start, end in spans]
