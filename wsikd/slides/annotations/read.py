"""What a person drew on a slide: regions or a mask, whatever the file, with a class for each."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import shapely

from wsikd.core.errors import AnnotationError
from wsikd.slides.annotations.coverage import majority, region_shares
from wsikd.slides.annotations.geojson_shapes import FAULTS, GEOMETRIES, only_polygons, polygons_of
from wsikd.slides.annotations.label_map import EXCLUDED, plain_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from wsikd.slides.base import Slide

    LabelMap = Mapping[str, str] | Iterable[tuple[str, str]]

GEOJSON_SUFFIXES = (".geojson", ".json")
MASK_SUFFIXES = (".tif", ".tiff", ".png")
_EXPORT = "export it again as GeoJSON"
_KINDS = "give .geojson, .json (QuPath), .xml (ASAP), or a mask as .tif, .tiff or .png"


@dataclass(frozen=True)
class Region:
    """A drawn region: its class and its polygon(s) in level-0 (x, y)."""

    name: str
    geometry: shapely.Geometry


@dataclass(frozen=True)
class Remarks:
    """What is odd about the annotation of a slide.

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
    """What a person drew on one slide.

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
    """Polygons, of which those to be excluded are cut out already."""

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


def read_annotation(path: Path, slide: Slide, label_map: LabelMap = ()) -> Annotation:
    """Read what a person drew on a slide.

    Args:
        path: QuPath GeoJSON (.geojson, .json; it counts from the corner of the slide's bounds),
            ASAP XML (.xml; it counts from the corner of the whole plane), or a mask of class values
            over the whole plane or over the bounds (.tif, .tiff, .png; of any size).
        slide: the slide it lies on.
        label_map: source -> class. A source is a mask value, an ASAP group or annotation, or a
            QuPath class; an empty class leaves it out, ``-`` cuts its areas out of all others.
            Drawn classes that it does not name stay as they are, mask values are left out.

    Raises:
        AnnotationError: the file cannot be understood, or its mask does not fit the slide.
        ConfigError: it is a mask, and ``label_map`` gives none of its values a class.
    """
    names = dict(label_map)
    if path.suffix.lower() in MASK_SUFFIXES:
        from wsikd.slides.annotations.mask import MaskAnnotation

        return MaskAnnotation.read(path, slide, names)
    x, y, width, height = slide.info.bounds
    drawn = drawn_regions(path, names, (x, y))
    return DrawnAnnotation.of((r for r in drawn if r.name), (x, y, width, height))


def _remarks(regions: Sequence[Region], bounds: tuple[float, float, float, float]) -> Remarks:
    x, y, width, height = bounds
    parts = shapely.get_parts([r.geometry for r in regions])
    scanned = shapely.box(x, y, x + width, y + height)
    shapely.prepare(scanned)
    beyond = parts[~shapely.contains(scanned, parts)]  # seldom any
    on_slide = shapely.area(shapely.intersection(beyond, scanned))
    return Remarks(len(parts), int((on_slide < shapely.area(beyond) / 2).sum()))


def drawn_regions(
    path: Path, names: Mapping[str, str], offset_xy: tuple[float, float]
) -> list[Region]:
    """Areas of a drawing under the classes that a label map gives them, "" for those without one.

    Args:
        path: GeoJSON or ASAP XML.
        names: source -> class; what it leaves out is not in the list.
        offset_xy: level-0 corner of the slide's bounds, for GeoJSON.

    Raises:
        AnnotationError: the file is neither, or cannot be understood.
    """
    suffix = path.suffix.lower()
    if suffix == ".xml":
        from wsikd.slides.annotations.asap import read_asap

        return read_asap(path, names, unclassified=True)
    if suffix not in GEOJSON_SUFFIXES:
        raise AnnotationError(path, "of no kind that holds annotations", _KINDS)
    regions = read_geojson(path, offset_xy=offset_xy, unclassified=True, detections=False)
    named = (Region(names.get(r.name, r.name), r.geometry) for r in regions)
    return [own for own, r in zip(named, regions, strict=True) if own.name or not r.name]


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
        AnnotationError: the file is missing or is no GeoJSON.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise AnnotationError(
            path, f"cannot be read ({error.strerror})", "mend --annotations or the manifest"
        ) from error
    except RecursionError as error:
        raise AnnotationError(path, "nests too deep for JSON", _EXPORT) from error
    except ValueError as error:
        raise AnnotationError(path, f"is no JSON ({error})", _EXPORT) from error
    regions = []
    for number, feature in enumerate(_features(content, path)):
        properties = feature.get("properties")
        name = _class_name(properties)
        if name is None and unclassified and (detections or not _is_detection(properties)):
            name = ""
        if name is None or not feature.get("geometry"):
            continue
        try:
            polygons = polygons_of(feature["geometry"])
        except (*FAULTS, shapely.errors.ShapelyError) as error:
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
        elif isinstance(kind, str) and kind in GEOMETRIES:
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
