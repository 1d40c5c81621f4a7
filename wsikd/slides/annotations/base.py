"""Annotations of a slide: regions or a mask with classes, and the area that they cover."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import shapely

from wsikd.slides.annotations.label_map import EXCLUDED

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

UNLABELLED = -1
_TOLERANCE = 1e-9
_FARTHEST_PX = 1e9


@dataclass(frozen=True)
class Region:
    """A drawn region: its class and its polygon(s) in level-0 (x, y)."""

    name: str
    geometry: shapely.Geometry


@dataclass(frozen=True)
class Remarks:
    """Problems of a slide's annotation, for warnings.

    Attributes:
        polygons: how many are drawn in it.
        off_slide: those of them that lie wholly or mostly off the scanned area.
        unnamed_values: mask values other than 0 that the label map does not name.
    """

    polygons: int = 0
    off_slide: int = 0
    unnamed_values: tuple[int, ...] = ()


_NOTHING_ODD = Remarks()


@dataclass(frozen=True)
class Annotation(ABC):
    """The annotation of one slide.

    Attributes:
        names: the classes in it, each once.
        digest: hash of its content, 16 hexadecimal digits.
    """

    names: tuple[str, ...]
    digest: str

    @abstractmethod
    def shares(self, boxes: NDArray[np.float64], classes: Sequence[str]) -> NDArray[np.float64]:
        """Share of each field that each class covers: float64 (N, classes), 0 to 1.

        Args:
            boxes: level-0 (x, y, width, height), float64 (N, 4).
            classes: names in label order; other classes are ignored.

        Raises:
            AnnotationError: a mask's file cannot be read.
        """

    @property
    @abstractmethod
    def remarks(self) -> Remarks:
        """What is odd about it; of a mask once :meth:`shares` has read it."""

    def label(
        self,
        boxes: NDArray[np.float64],
        classes: Sequence[str],
        *,
        min_cover: float = 0.5,
        min_purity: float = 0.0,
    ) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
        """Label each field by the class that covers most of it; of equals the first.

        Args:
            boxes: level-0 (x, y, width, height), float64 (N, 4).
            classes: names in label order; other classes are ignored.
            min_cover: share of the field that the class must cover, else it stays unlabelled.
            min_purity: share that the class must have of all that the classes cover together.

        Returns:
            label int16 (N,), -1 where unlabelled; cover float32 (N,), the largest class's share.

        Raises:
            AnnotationError: a mask's file cannot be read.
        """
        shares = self.shares(boxes, classes)
        return majority(shares, min_cover=min_cover, min_purity=min_purity)


@dataclass(frozen=True)
class DrawnAnnotation(Annotation):
    """Polygons; those to be excluded are cut out already."""

    regions: tuple[Region, ...]
    remarks: Remarks = _NOTHING_ODD

    @classmethod
    def of(
        cls, regions: Iterable[Region], bounds: tuple[float, float, float, float] | None = None
    ) -> DrawnAnnotation:
        """Take regions as they are; those of class ``-`` are cut out of all others.

        Args:
            regions: in level-0 (x, y).
            bounds: level-0 (x, y, width, height) of the scanned area, for ``remarks``.
        """
        drawn = list(regions)
        remarks = _NOTHING_ODD if bounds is None else _remarks(drawn, bounds)
        holes = [r.geometry for r in drawn if r.name == EXCLUDED]
        kept = [r for r in drawn if r.name != EXCLUDED]
        if holes:
            hole = shapely.union_all(holes)
            cut = [
                Region(r.name, only_polygons(shapely.difference(r.geometry, hole))) for r in kept
            ]
            kept = [r for r in cut if not r.geometry.is_empty]
        digest = hashlib.sha256()
        for region in kept:
            digest.update(region.name.encode() + b"\0" + shapely.to_wkb(region.geometry))
        names = tuple(dict.fromkeys(r.name for r in kept))
        return cls(names, digest.hexdigest()[:16], tuple(kept), remarks)

    def shares(self, boxes: NDArray[np.float64], classes: Sequence[str]) -> NDArray[np.float64]:
        """Share of each field that each class covers; overlaps of one class count once."""
        return region_shares(boxes, self.regions, classes)


def region_shares(
    boxes: NDArray[np.float64], regions: Sequence[Region], classes: Sequence[str]
) -> NDArray[np.float64]:
    """Share of each field that the regions of each class cover: float64 (N, classes), 0 to 1.

    Args:
        boxes: level-0 (x, y, width, height), float64 (N, 4).
        regions: in level-0 (x, y); those of one class count once where they overlap.
        classes: names in label order; regions of other classes are ignored.
    """
    cover = np.zeros((len(boxes), len(classes)))
    if not len(boxes):
        return cover
    x, y, width, height = boxes.T
    fields = shapely.box(x, y, x + width, y + height)
    tree = shapely.STRtree(fields)
    full = width * height
    for index, name in enumerate(classes):
        geometries = [r.geometry for r in regions if r.name == name]
        if not geometries:
            continue
        parts = shapely.get_parts(shapely.union_all(geometries))
        shapely.prepare(parts)
        part, field = tree.query(parts, predicate="intersects")
        areas = full[field]
        # Clipping a large outline is slow, and most fields lie wholly within it.
        cut = ~shapely.contains(parts[part], fields[field])
        areas[cut] = shapely.area(shapely.intersection(fields[field[cut]], parts[part[cut]]))
        np.add.at(cover[:, index], field, areas)
    return np.asarray(cover / np.maximum(full, _TOLERANCE)[:, None])


def majority(
    shares: NDArray[np.float64], *, min_cover: float = 0.5, min_purity: float = 0.0
) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """Label each field by the class that covers most of it; of equals the first.

    Args:
        shares: shares of each field by each class, float64 (N, classes), 0 to 1.
        min_cover: share of the field that the class must cover, else the field stays unlabelled.
        min_purity: share that the class must have of all that the classes cover together.

    Returns:
        label int16 (N,), -1 where unlabelled; cover float32 (N,), the largest class's share.
    """
    best = shares.argmax(1) if shares.shape[1] else np.zeros(len(shares), np.int64)
    share = shares.max(1, initial=0.0)
    pure = share >= min_purity * shares.sum(1) - _TOLERANCE
    enough = (share > _TOLERANCE) & (share >= min_cover - _TOLERANCE)
    label = np.where(enough & pure, best, UNLABELLED)
    return label.astype(np.int16), share.astype(np.float32)


def check_places(coordinates: NDArray[np.float64]) -> None:
    """Raises ValueError where a coordinate is not a finite number, or larger than any slide."""
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
        if g.geom_type == "GeometryCollection"
        for p in shapely.get_parts(g)
        if p.geom_type in ("Polygon", "MultiPolygon")
    ]
    return shapely.union_all(parts + nested) if parts or nested else shapely.MultiPolygon()


def _remarks(regions: Sequence[Region], bounds: tuple[float, float, float, float]) -> Remarks:
    x, y, width, height = bounds
    parts = shapely.get_parts([r.geometry for r in regions])
    scanned = shapely.box(x, y, x + width, y + height)
    shapely.prepare(scanned)
    beyond = parts[~shapely.contains(scanned, parts)]  # seldom any
    on_slide = shapely.area(shapely.intersection(beyond, scanned))
    return Remarks(len(parts), int((on_slide < shapely.area(beyond) / 2).sum()))
