"""Synthetic slides: files that OpenSlide opens as Aperio, with known truth.

``write_pyramid`` turns any pixels into a slide, ``write_cohort`` draws prostate tissue with its
grade regions for the demo, the tests and the benchmarks, and ``write_geometry_slide`` makes the
slide of the geometry self-test. All of it is seeded: the same call writes the same bytes.
"""

from __future__ import annotations

import json
import os
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import shapely

from wsikd.core.errors import ConfigError, OutputError
from wsikd.core.run import write_json_atomic
from wsikd.synthetic.glands import GRADES
from wsikd.synthetic.pyramid import write_pyramid
from wsikd.synthetic.tissue import PLAN_PX, Tissue, plan_tissue, render_strips

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

__all__ = [
    "SyntheticSlide",
    "class_weights",
    "grade_regions",
    "write_cohort",
    "write_geometry_slide",
    "write_pyramid",
]

MOST_AT_ONCE = 4  # slides being drawn, each in about 0.7 GB
COLOURS = {"NC": (70, 160, 90), "G3": (240, 200, 60), "G4": (235, 130, 40), "G5": (190, 40, 50)}


@dataclass(frozen=True)
class SyntheticSlide:
    """One slide of a cohort and its truth.

    Attributes:
        path: the slide.
        annotation: its grade regions, QuPath GeoJSON.
        size_px: level-0 (width, height).
        mpp: um per level-0 pixel.
        area_mm2: annotated area of each class; 0 where a class is absent.
    """

    path: Path
    annotation: Path
    size_px: tuple[int, int]
    mpp: float
    area_mm2: dict[str, float]


def write_cohort(
    folder: str | Path,
    *,
    seed: int,
    slides: int = 8,
    size_px: tuple[int, int] = (6144, 6144),
    classes: Sequence[str] = GRADES,
    mpp: float = 0.5,
) -> list[SyntheticSlide]:
    """Draw a cohort of graded prostate slides, each with its regions as QuPath GeoJSON.

    Writes ``demo-01.svs`` and ``demo-01.geojson`` and so on. Every second slide lacks one class,
    a different one each time, so that any two of eight together hold all four. A slide depends
    only on the seed and its own number.

    Args:
        folder: where the files go; made where it is missing.
        seed: seed of everything drawn.
        slides: how many.
        size_px: level-0 (width, height).
        classes: out of NC, G3, G4, G5.
        mpp: um per level-0 pixel.

    Raises:
        ConfigError: a class is unknown.
        OutputError: the folder cannot be written.
    """
    for name in classes:
        if name not in GRADES:
            raise ConfigError(name, "no class that can be drawn", f"choose {', '.join(GRADES)}")
    folder = Path(folder)

    def draw(index: int) -> SyntheticSlide:
        return _draw_slide(
            folder / f"demo-{index + 1:02d}.svs", (seed, index), size_px, classes, mpp
        )

    with ThreadPoolExecutor(min(os.cpu_count() or 1, MOST_AT_ONCE)) as pool:
        return list(pool.map(draw, range(slides)))


def _draw_slide(
    path: Path,
    seed: tuple[int, int],
    size_px: tuple[int, int],
    classes: Sequence[str],
    mpp: float,
) -> SyntheticSlide:
    """One slide with its annotation; ``seed`` is that of the cohort and the slide's number."""
    weights = class_weights(seed[1], len(classes))
    tissue = plan_tissue(seed, size_px, mpp, classes, weights)
    write_pyramid(path, render_strips(tissue), mpp=mpp, power=20, size_px=size_px)
    regions = grade_regions(tissue, classes)
    annotation = path.with_suffix(".geojson")
    write_json_atomic(annotation, _geojson(regions, np.random.default_rng([*seed, 1])))
    area = dict.fromkeys(classes, 0.0)
    for name, shape in regions:
        area[name] += shape.area * (mpp / 1000) ** 2
    return SyntheticSlide(path, annotation, size_px, mpp, area)


def class_weights(index: int, classes: int) -> list[float]:
    """Share of the tissue wished for each class of slide ``index``; one class leads."""
    weights = [1.0] * classes
    missing = index // 2 % classes
    if index % 2 and classes > 2:
        weights[missing] = 0.0
        weights[(missing + 2) % classes] = 1.5
    else:
        weights[missing] = 1.5
    return weights


def grade_regions(
    tissue: Tissue, classes: Sequence[str]
) -> list[tuple[str, shapely.Polygon | shapely.MultiPolygon]]:
    """Outlines of the grade regions: (class, valid geometry in level-0 pixels)."""
    regions = []
    slide = shapely.box(0, 0, *tissue.size_px)
    for index, name in enumerate(classes):
        mask = (tissue.label == index).astype(np.uint8)
        outlines, nesting = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        for k, outline in enumerate(outlines):
            if nesting[0, k, 3] >= 0 or len(outline) < 40:
                continue
            holes = [
                outlines[j][:, 0]
                for j in range(len(outlines))
                if nesting[0, j, 3] == k and len(outlines[j]) >= 40
            ]
            shape = shapely.make_valid(shapely.Polygon(outline[:, 0], holes)).buffer(0.5)
            shape = shape.simplify(0.7)
            scaled = shapely.transform(shape, lambda xy: (xy + 0.5) * PLAN_PX)
            regions.append((name, shapely.make_valid(scaled.intersection(slide))))
    return regions


def _geojson(
    regions: Sequence[tuple[str, shapely.Polygon | shapely.MultiPolygon]], rng: np.random.Generator
) -> dict[str, Any]:
    """Regions as a QuPath FeatureCollection."""
    features = [
        {
            "type": "Feature",
            "id": str(uuid.UUID(bytes=rng.bytes(16), version=4)),
            "geometry": json.loads(shapely.to_geojson(shapely.set_precision(shape, 0.25))),
            "properties": {
                "objectType": "annotation",
                "classification": {"name": name, "color": list(COLOURS[name])},
            },
        }
        for name, shape in regions
    ]
    return {"type": "FeatureCollection", "features": features}


def write_geometry_slide(
    path: str | Path,
    *,
    seed: int,
    size_px: tuple[int, int],
    mpp: float,
    square_px: tuple[int, int, int],
) -> None:
    """Write white glass with a patch of greyish tissue and one dark blue square in it.

    The JPEG keeps full chroma, so that the square's edges stay where they are.

    Args:
        path: where the slide goes.
        seed: seed of the tissue's texture.
        size_px: level-0 (width, height).
        mpp: um per level-0 pixel.
        square_px: level-0 (x, y, side).

    Raises:
        OutputError: the square leaves the slide, or the file cannot be written.
    """
    (width, height), (left, top, side) = size_px, square_px
    if min(left, top, side - 1) < 0 or left + side > width or top + side > height:
        raise OutputError(path, f"square {square_px} leaves {size_px}", "choose another square_px")
    rng = np.random.default_rng(seed)

    def strips() -> Iterator[NDArray[np.uint8]]:
        for first in range(0, height, 512):
            rows = min(512, height - first)
            rgb = np.full((rows, width, 3), 244, np.uint8)
            y = np.arange(first, first + rows)
            inside = (y >= min(height // 8, top)) & (y < max(height * 7 // 8, top + side))
            x0, x1 = min(width // 8, left), max(width * 7 // 8, left + side)
            texture = rng.integers(-10, 11, (rows, x1 - x0, 1))
            rgb[inside, x0:x1] = (np.array([196, 160, 178]) + texture)[inside]
            rgb[(y >= top) & (y < top + side), left : left + side] = (30, 35, 120)
            yield rgb

    write_pyramid(path, strips(), mpp=mpp, power=20, quality=97, subsampling="444", size_px=size_px)
