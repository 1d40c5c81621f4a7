"""GeoJSON that QuPath opens as annotations or tiles."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.grade.exports import Exporter, aside
from wsikd.grade.reports.class_colours import class_colour

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from wsikd.grade.grademap import GradeMap
    from wsikd.slides.base import Slide

    Feature = dict[str, Any]

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "wsikd.grade.exports.geojson")


def write(grade_map: GradeMap, path: Path, *, slide: Slide | None = None) -> None:
    """Write one annotation per connected region of equal grade, holes cut out.

    The file is a FeatureCollection, one feature a line. Coordinates are level-0 px from the corner
    of the slide's bounds, since QuPath crops to them, rounded to 3 decimals. Ids are computed from
    slide, class and geometry, so that writing twice gives the same file. Measurements:
    ``area_mm2``, ``tissue_mm2``, a mean ``prob_<class>`` per class and the mean ``uncertainty``.

    Args:
        grade_map: the map to write.
        path: the file.
        slide: not needed.

    Raises:
        OutputError: the file cannot be written.
    """
    _save(regions_of(grade_map), path)


def write_tiles(grade_map: GradeMap, path: Path, *, slide: Slide | None = None) -> None:
    """Write one ``tile`` object per cell, with its own measurements; else as :func:`write`.

    Raises:
        OutputError: the file cannot be written.
    """
    _save(_tiles(grade_map), path)


def _save(features: Iterator[Feature], path: Path) -> None:
    encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
    with aside(path) as part, part.open("w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        for index, feature in enumerate(features):
            file.write(",\n" if index else "\n")
            file.write(encode(feature))
        file.write("\n]}\n")


def regions_of(grade_map: GradeMap) -> Iterator[Feature]:
    """One feature for each connected region of equal grade, as :func:`write` writes them."""
    from wsikd.grade.vectorise import regions

    found, component_hw = regions(grade_map.grade_hw)
    valid = grade_map.valid_hw
    component = component_hw[valid]
    cells = np.bincount(component)
    layers = _measurements(grade_map)
    means = {
        name: np.bincount(component, weights=layer[valid]) / np.maximum(cells, 1)
        for name, layer in layers.items()
    }
    for name in ("area_mm2", "tissue_mm2"):
        means[name] *= cells
    x, y = _corners(grade_map)
    for region in found:
        rings = [np.column_stack([x[r[:, 0]], y[r[:, 1]]]).tolist() for r in region.rings]
        values = {name: round(float(v[region.component]), 6) for name, v in means.items()}
        yield _feature(grade_map, "annotation", region.grade, rings, values)


def _tiles(grade_map: GradeMap) -> Iterator[Feature]:
    rows, columns = np.nonzero(grade_map.valid_hw)
    x, y = _corners(grade_map)
    edges = np.stack([x[columns], x[columns + 1], y[rows], y[rows + 1]], 1).tolist()
    layers = _measurements(grade_map)
    table = np.stack([layer[rows, columns] for layer in layers.values()], 1).round(6).tolist()
    grades = grade_map.grade_hw[rows, columns].tolist()
    for (left, right, top, bottom), grade, values in zip(edges, grades, table, strict=True):
        ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
        measured = dict(zip(layers, values, strict=True))
        yield _feature(grade_map, "tile", grade, [ring], measured)


def _measurements(grade_map: GradeMap) -> dict[str, NDArray[np.float64]]:
    """Name of a measurement -> its raster, one value per cell."""
    tissue = grade_map.tissue_hw.astype(np.float64) * grade_map.cell_mm2
    layers = {"area_mm2": np.full(tissue.shape, grade_map.cell_mm2), "tissue_mm2": tissue}
    for name, layer in zip(grade_map.classes, grade_map.probability_khw, strict=True):
        layers[f"prob_{name}"] = layer.astype(np.float64)
    return layers | {"uncertainty": grade_map.uncertainty_hw.astype(np.float64)}


def _corners(grade_map: GradeMap) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Grid lines in px from the corner of the bounds: (columns + 1,) and (rows + 1,)."""
    rows, columns = grade_map.valid_hw.shape
    left, top = grade_map.slide.bounds[:2]
    x = grade_map.origin_xy[0] - left + np.arange(columns + 1) * grade_map.cell_px[0]
    y = grade_map.origin_xy[1] - top + np.arange(rows + 1) * grade_map.cell_px[1]
    return np.round(x, 3), np.round(y, 3)


def _feature(
    grade_map: GradeMap, kind: str, grade: int, rings: list[Any], values: dict[str, float]
) -> Feature:
    name = grade_map.classes[grade]
    identity = f"{grade_map.slide.fingerprint}/{kind}/{name}/{rings}"
    classification = {"name": name, "color": list(class_colour(name, grade))}
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(_NAMESPACE, identity)),
        "geometry": {"type": "Polygon", "coordinates": rings},
        "properties": {
            "objectType": kind,
            "classification": classification,
            "measurements": values,
        },
    }


REGIONS = Exporter("grades.geojson", write)
TILES = Exporter("tiles.geojson", write_tiles)
