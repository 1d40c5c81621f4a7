"""Annotations of QuPath: GeoJSON, counted from the corner of the slide's bounds."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from shapely.geometry import shape

from wsikd.core.errors import AnnotationError
from wsikd.core.faults import similar
from wsikd.slides.annotations.base import Region, areal, check_places
from wsikd.slides.annotations.label_map import plain_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_COLLECTION = "GeometryCollection"
_EXPORT = "export it again as GeoJSON"
_LEVELS = {
    "Point": 0,
    "MultiPoint": 1,
    "LineString": 1,
    "Polygon": 2,
    "MultiLineString": 2,
    "MultiPolygon": 3,
}
"""How deep the lists of each kind go above a point."""
_GEOMETRIES = frozenset((*_LEVELS, _COLLECTION))
_FAULTS = (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, LookupError)
"""What a geometry that cannot be used raises here, beside ShapelyError."""


def read_geojson(
    path: Path,
    *,
    offset_xy: tuple[float, float] = (0, 0),
    unclassified: bool = False,
    detections: bool = True,
) -> list[Region]:
    """Read the polygons of a GeoJSON file, as QuPath writes it.

    Args:
        path: a FeatureCollection, a list of features, one feature, or a bare geometry, which has
            no class. Heights (a third coordinate) are dropped.
        offset_xy: level-0 corner of the slide's bounds. QuPath counts from there, so it is added.
        unclassified: keep features without a class too, under the name "".
        detections: keep QuPath's detections without a class as well, which may be many cells.

    Returns:
        The regions in file order; points and lines are left out.

    Raises:
        AnnotationError: the file is missing or is not GeoJSON.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise AnnotationError(
            path,
            f"cannot be read ({error.strerror})",
            f"correct --annotations or the manifest{similar(path)}",
        ) from error
    except RecursionError as error:
        raise AnnotationError(path, "nests too deep for JSON", _EXPORT) from error
    except ValueError as error:
        raise AnnotationError(path, f"is not JSON ({error})", _EXPORT) from error
    regions = []
    for number, feature in enumerate(_features(content, path)):
        properties = feature.get("properties")
        name = _class_name(properties)
        if name is None and unclassified and (detections or not _is_detection(properties)):
            name = ""
        if name is None or not feature.get("geometry"):
            continue
        try:
            polygons = _polygons(feature["geometry"])
        except (*_FAULTS, shapely.errors.ShapelyError) as error:
            raise AnnotationError(
                path, f"feature {number} has no usable geometry ({error})", "draw it again"
            ) from error
        if not polygons.is_empty:
            regions.append(Region(name, shapely.affinity.translate(polygons, *offset_xy)))
    return regions


def _features(content: Any, path: Path) -> list[dict[str, Any]]:
    """The features of a file in their order, also those of collections in a list."""
    found: list[dict[str, Any]] = []
    waiting = list(reversed(content)) if isinstance(content, list) else [content]
    while waiting:
        one = waiting.pop()
        kind = one.get("type") if isinstance(one, dict) else None
        if kind == "FeatureCollection" and isinstance(one.get("features"), list):
            waiting.extend(reversed(one["features"]))
        elif isinstance(kind, str) and kind in _GEOMETRIES:
            found.append({"geometry": one})
        elif isinstance(one, dict) and (kind == "Feature" or "geometry" in one):
            found.append(one)
        else:
            raise AnnotationError(path, "holds no GeoJSON features", _EXPORT)
    return found


def _is_detection(properties: Any) -> bool:
    kind = properties.get("objectType") if isinstance(properties, dict) else None
    return kind in ("detection", "cell", "tile")


def _class_name(properties: Any) -> str | None:
    name = properties.get("classification") if isinstance(properties, dict) else None
    if isinstance(name, dict):
        names = name.get("names")
        if isinstance(names, list) and all(isinstance(n, str | int) for n in names):
            name = ": ".join(map(str, names))
        else:
            name = name.get("name")
        name = str(name) if isinstance(name, str | int | float) and name else None
    return plain_name(name) or None if isinstance(name, str) else None


def _polygons(geometry: Any) -> shapely.Geometry:
    """The areas of a GeoJSON geometry in the plane, valid; empty where there are none.

    Heights (a third coordinate) are dropped. Collections may be nested as deep as JSON goes.

    Args:
        geometry: a decoded GeoJSON geometry.

    Raises:
        ValueError: a coordinate is not finite, or the geometry cannot be understood; so do the
            others of ``_FAULTS``, and ShapelyError.
    """
    found = [areal(_in_plane(part)) for part in _parts(geometry)]
    areas = [area for area in found if not area.is_empty]
    return areas[0] if len(areas) == 1 else shapely.union_all([*areas, shapely.MultiPolygon()])


def _parts(geometry: Any) -> Iterator[Any]:
    """The members of nested collections, in file order, without recursion."""
    waiting = [geometry]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict) and one.get("type") == _COLLECTION:
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
