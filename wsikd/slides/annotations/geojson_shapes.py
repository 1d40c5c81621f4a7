"""A GeoJSON geometry becomes polygons: collections in collections, heights, parts without area."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from shapely.geometry import shape

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

COLLECTION = "GeometryCollection"
_LEVELS = {
    "Point": 0,
    "MultiPoint": 1,
    "LineString": 1,
    "Polygon": 2,
    "MultiLineString": 2,
    "MultiPolygon": 3,
}
"""How deep the lists of each kind go above a point."""
_FARTHEST_PX = 1e9
GEOMETRIES = frozenset((*_LEVELS, COLLECTION))
FAULTS = (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, LookupError)
"""What a geometry that cannot be used raises here, beside ShapelyError."""


def polygons_of(geometry: Any) -> shapely.Geometry:
    """The areas of a GeoJSON geometry in the plane, valid; empty where there are none.

    Heights (a third coordinate) are dropped. Collections may be nested as deep as JSON goes.

    Args:
        geometry: a decoded GeoJSON geometry.

    Raises:
        ValueError: a coordinate is not finite, or the geometry cannot be understood; so do the
            others of ``FAULTS``, and ShapelyError.
    """
    found = [areal(_in_plane(part)) for part in _parts(geometry)]
    areas = [area for area in found if not area.is_empty]
    return areas[0] if len(areas) == 1 else shapely.union_all([*areas, shapely.MultiPolygon()])


def check_places(coordinates: NDArray[np.float64]) -> None:
    """Raises ValueError where a coordinate is no finite number, or larger than any slide."""
    if not np.isfinite(coordinates).all():
        raise ValueError("a coordinate is not finite")
    if coordinates.size and np.abs(coordinates).max() > _FARTHEST_PX:
        raise ValueError(f"a coordinate exceeds {_FARTHEST_PX:g} px")


def areal(geometry: shapely.Geometry) -> shapely.Geometry:
    """The areal part of a geometry, made valid; empty where there is none."""
    return only_polygons(shapely.make_valid(geometry))


def only_polygons(geometry: shapely.Geometry) -> shapely.Geometry:
    """Polygons only: make_valid may leave lines and points beside them."""
    parts = [g for g in shapely.get_parts(geometry) if g.geom_type in ("Polygon", "MultiPolygon")]
    nested = [
        p
        for g in shapely.get_parts(geometry)
        if g.geom_type == COLLECTION
        for p in shapely.get_parts(g)
        if p.geom_type in ("Polygon", "MultiPolygon")
    ]
    return shapely.union_all(parts + nested) if parts or nested else shapely.MultiPolygon()


def _parts(geometry: Any) -> Iterator[Any]:
    """The members of nested collections, in file order, without recursion."""
    waiting = [geometry]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict) and one.get("type") == COLLECTION:
            members = one["geometries"]
            if not isinstance(members, list):
                raise ValueError("a GeometryCollection lists no geometries")
            waiting.extend(reversed(members))
        else:
            yield one


def _in_plane(geometry: Any) -> shapely.Geometry:
    with np.errstate(invalid="ignore"):
        try:
            found = shape(geometry)
        except (ValueError, TypeError):  # some points have heights and others none
            kind = geometry["type"]
            points = _without_heights(geometry["coordinates"], _LEVELS[kind])
            found = shape({"type": kind, "coordinates": points})
    check_places(shapely.get_coordinates(found))
    return shapely.force_2d(found)


def _without_heights(points: Any, levels: int) -> Any:
    if levels == 0:
        return points[:2]
    return [_without_heights(p, levels - 1) for p in points]
