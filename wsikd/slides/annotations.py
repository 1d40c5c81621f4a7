"""Regions that a person drew, as polygons with a class."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import shapely
from shapely.geometry import shape

from wsikd.core.errors import AnnotationError

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Region:
    """A drawn region: its class and its polygon(s) in level-0 (x, y)."""

    name: str
    geometry: shapely.Geometry


def read_geojson(
    path: Path, *, offset_xy: tuple[float, float] = (0, 0), unclassified: bool = False
) -> list[Region]:
    """Read the polygons of a GeoJSON file, as QuPath writes it.

    Args:
        path: a FeatureCollection, a list of features, or one feature.
        offset_xy: level-0 corner of the slide's bounds. QuPath counts from there, so it is added.
        unclassified: keep features without a class too, under the name "".

    Returns:
        The regions in file order; points and lines are left out.

    Raises:
        AnnotationError: the file is missing or is no GeoJSON.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AnnotationError(
            path, f"cannot be read ({error.strerror})", "mend --annotations or the manifest"
        ) from error
    except ValueError as error:
        raise AnnotationError(
            path, f"is no JSON ({error})", "export it again as GeoJSON"
        ) from error
    regions = []
    for number, feature in enumerate(_features(content, path)):
        name = _class_name(feature.get("properties"))
        if name is None and unclassified:
            name = ""
        if name is None or not feature.get("geometry"):
            continue
        try:
            geometry = shapely.make_valid(shape(feature["geometry"]))
        except (
            ValueError,
            TypeError,
            KeyError,
            AttributeError,
            shapely.errors.ShapelyError,
        ) as error:
            raise AnnotationError(
                path, f"feature {number} has no usable geometry ({error})", "draw it again"
            ) from error
        polygons = _polygons(geometry)
        if not polygons.is_empty:
            regions.append(Region(name, shapely.affinity.translate(polygons, *offset_xy)))
    return regions


def _features(content: Any, path: Path) -> list[dict[str, Any]]:
    if isinstance(content, dict):
        kind = content.get("type")
        content = content.get("features") if kind == "FeatureCollection" else [content]
    if not isinstance(content, list) or not all(isinstance(f, dict) for f in content):
        raise AnnotationError(path, "holds no GeoJSON features", "export it again as GeoJSON")
    return content


def _class_name(properties: Any) -> str | None:
    classification = properties.get("classification") if isinstance(properties, dict) else None
    if isinstance(classification, dict):
        names = classification.get("names")
        name = ": ".join(map(str, names)) if isinstance(names, list) else classification.get("name")
        return str(name) if name else None
    return classification if isinstance(classification, str) and classification else None


def _polygons(geometry: shapely.Geometry) -> shapely.Geometry:
    """The areal part of a geometry: make_valid may leave lines and points beside it."""
    parts = [g for g in shapely.get_parts(geometry) if g.geom_type in ("Polygon", "MultiPolygon")]
    nested = [
        p
        for g in shapely.get_parts(geometry)
        if g.geom_type == "GeometryCollection"
        for p in shapely.get_parts(g)
        if p.geom_type in ("Polygon", "MultiPolygon")
    ]
    return shapely.union_all(parts + nested) if parts or nested else shapely.MultiPolygon()
