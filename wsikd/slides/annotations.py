"""What a person drew on a slide: regions or a mask, whatever the file, with a class for each."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from shapely.geometry import shape

from wsikd.core.errors import AnnotationError
from wsikd.slides.label_map import EXCLUDED, plain_name
from wsikd.slides.shares import majority, region_shares

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from wsikd.slides.base import Slide

    LabelMap = Mapping[str, str] | Iterable[tuple[str, str]]

GEOJSON_SUFFIXES = (".geojson", ".json")
MASK_SUFFIXES = (".tif", ".tiff", ".png")
_KINDS = "give .geojson, .json (QuPath), .xml (ASAP), or a mask as .tif, .tiff or .png"


@dataclass(frozen=True)
class Region:
    """A drawn region: its class and its polygon(s) in level-0 (x, y)."""

    name: str
    geometry: shapely.Geometry


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

    @classmethod
    def of(cls, regions: Iterable[Region]) -> DrawnAnnotation:
        """Take regions as they are; those of class ``-`` are cut out of all others."""
        drawn = list(regions)
        holes = [r.geometry for r in drawn if r.name == EXCLUDED]
        kept = [r for r in drawn if r.name != EXCLUDED]
        if holes:
            hole = shapely.union_all(holes)
            cut = [Region(r.name, _polygons(shapely.difference(r.geometry, hole))) for r in kept]
            kept = [r for r in cut if not r.geometry.is_empty]
        digest = hashlib.sha256()
        for region in kept:
            digest.update(region.name.encode() + b"\0" + shapely.to_wkb(region.geometry))
        names = tuple(dict.fromkeys(r.name for r in kept))
        return cls(names, digest.hexdigest()[:16], tuple(kept))

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
        from wsikd.slides.label_mask import MaskAnnotation

        return MaskAnnotation.read(path, slide, names)
    return DrawnAnnotation.of(_drawn(path, names, slide.info.bounds[:2]))


def annotated_names(path: Path, label_map: LabelMap = ()) -> tuple[str, ...]:
    """Classes of an annotation file, read without its slide; see :func:`read_annotation`.

    Raises:
        AnnotationError: the file cannot be understood.
        ConfigError: it is a mask, and ``label_map`` gives none of its values a class.
    """
    names = dict(label_map)
    if path.suffix.lower() in MASK_SUFFIXES:
        from wsikd.slides.label_mask import mask_names

        return mask_names(path, names)
    return DrawnAnnotation.of(_drawn(path, names, (0, 0))).names


def reads_pixels(path: Path, label_map: LabelMap) -> bool:
    """Whether ``annotated_names`` decodes an image: a mask none of whose values has a class."""
    if path.suffix.lower() not in MASK_SUFFIXES:
        return False
    from wsikd.slides.label_mask import mask_classes

    return not mask_classes(dict(label_map))


def _drawn(path: Path, names: dict[str, str], offset_xy: tuple[float, float]) -> list[Region]:
    """Regions under the names they are to have; those to be left out are gone."""
    suffix = path.suffix.lower()
    if suffix == ".xml":
        from wsikd.slides.asap import read_asap

        return read_asap(path, names)
    if suffix not in GEOJSON_SUFFIXES:
        raise AnnotationError(path, "of no kind that holds annotations", _KINDS)
    regions = read_geojson(path, offset_xy=offset_xy)
    named = (Region(names.get(r.name, r.name), r.geometry) for r in regions)
    return [r for r in named if r.name]


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
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise AnnotationError(
            path, f"cannot be read ({error.strerror})", "mend --annotations or the manifest"
        ) from error
    except (ValueError, RecursionError) as error:
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
            polygons = areal(_finite(feature["geometry"]))
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
    name = properties.get("classification") if isinstance(properties, dict) else None
    if isinstance(name, dict):
        names = name.get("names")
        name = ": ".join(map(str, names)) if isinstance(names, list) else name.get("name")
        name = str(name) if name else None
    return plain_name(name) or None if isinstance(name, str) else None


def _finite(geometry: Any) -> shapely.Geometry:
    """The geometry of a feature; raises ValueError where a coordinate is no finite number."""
    with np.errstate(invalid="ignore"):
        found = shape(geometry)
    if not np.isfinite(shapely.get_coordinates(found)).all():
        raise ValueError("a coordinate is not finite")
    return found


def areal(geometry: shapely.Geometry) -> shapely.Geometry:
    """The areal part of a geometry, made valid; empty where there is none."""
    return _polygons(shapely.make_valid(geometry))


def _polygons(geometry: shapely.Geometry) -> shapely.Geometry:
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
