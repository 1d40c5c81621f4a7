"""Read an annotation of any format: regions or a mask."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsikd.core.errors import AnnotationError
from wsikd.slides.annotations.asap import read_asap
from wsikd.slides.annotations.base import Annotation, DrawnAnnotation, Region
from wsikd.slides.annotations.geojson import read_geojson
from wsikd.slides.annotations.mask import MaskAnnotation

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from wsikd.slides.base import Slide

    LabelMap = Mapping[str, str] | Iterable[tuple[str, str]]

GEOJSON_SUFFIXES = (".geojson", ".json")
MASK_SUFFIXES = (".tif", ".tiff", ".png")
_KINDS = "give .geojson, .json (QuPath), .xml (ASAP), or a mask as .tif, .tiff or .png"


def read_annotation(path: Path, slide: Slide, label_map: LabelMap = ()) -> Annotation:
    """Read the annotation of a slide.

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
        return MaskAnnotation.read(path, slide, names)
    x, y, width, height = slide.info.bounds
    drawn = drawn_regions(path, names, (x, y))
    return DrawnAnnotation.of((r for r in drawn if r.name), (x, y, width, height))


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
        return read_asap(path, names, unclassified=True)
    if suffix not in GEOJSON_SUFFIXES:
        raise AnnotationError(path, "not a known annotation format", _KINDS)
    regions = read_geojson(path, offset_xy=offset_xy, unclassified=True, detections=False)
    named = (Region(names.get(r.name, r.name), r.geometry) for r in regions)
    return [own for own, r in zip(named, regions, strict=True) if own.name or not r.name]
