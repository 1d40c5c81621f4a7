"""What annotation files hold, read without their slides before any slide is touched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wsikd.slides.annotations.asap import asap_sources
from wsikd.slides.annotations.base import DrawnAnnotation, Region
from wsikd.slides.annotations.mask import mask_classes, mask_names
from wsikd.slides.annotations.read import MASK_SUFFIXES, drawn_regions

if TYPE_CHECKING:
    from pathlib import Path

    from wsikd.slides.annotations.read import LabelMap


@dataclass(frozen=True)
class Survey:
    """The content of an annotation file.

    Attributes:
        names: its classes under the label map, each once.
        sources: what a label map can name in it; empty for a mask, whose values are not read.
        areas: how many areas are drawn; 0 for a mask.
        unclassed: those of them without a class.
        mask: it is a mask of class values.
    """

    names: tuple[str, ...] = ()
    sources: frozenset[str] = frozenset()
    areas: int = 0
    unclassed: int = 0
    mask: bool = False


def survey_annotation(path: Path, label_map: LabelMap = ()) -> Survey:
    """Read an annotation file without its slide; see ``wsikd.slides.annotations.read``.

    Raises:
        AnnotationError: the file cannot be understood.
        ConfigError: it is a mask, and ``label_map`` gives none of its values a class.
    """
    names = dict(label_map)
    suffix = path.suffix.lower()
    if suffix in MASK_SUFFIXES:
        return Survey(mask_names(path, names), mask=True)
    if suffix == ".xml":
        sources = asap_sources(path)
        found = named = drawn_regions(path, names, (0, 0))
    else:
        found = drawn_regions(path, {}, (0, 0))
        sources = frozenset(r.name for r in found if r.name)
        named = [Region(names.get(r.name, r.name), r.geometry) for r in found]
    classes = DrawnAnnotation.of(r for r in named if r.name).names
    return Survey(classes, sources, len(found), sum(not r.name for r in found))


def reads_pixels(path: Path, label_map: LabelMap) -> bool:
    """Whether a survey decodes an image: a mask none of whose values has a class."""
    if path.suffix.lower() not in MASK_SUFFIXES:
        return False
    return not mask_classes(dict(label_map))
