"""Annotations of ASAP: XML with polygons in groups, counted from the corner of the whole plane."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from xml.parsers import expat

import numpy as np
import shapely

from wsikd.core.errors import AnnotationError
from wsikd.slides.annotations.base import Region, areal, check_places
from wsikd.slides.annotations.label_map import plain_name

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_AREAS = frozenset(("polygon", "rectangle", "spline"))
_NO_GROUP = "None"
_EXPORT = "save it again with ASAP"


@dataclass
class _Drawn:
    """An annotation as the file has it."""

    name: str
    kind: str
    group: str
    line: int
    points: list[tuple[float, float, float]] = field(default_factory=list)


class _Refused(ValueError):
    """The file holds what no annotation needs."""


def read_asap(
    path: Path, label_map: Mapping[str, str] | None = None, *, unclassified: bool = False
) -> list[Region]:
    """Read the areas of an ASAP file.

    A spline is taken as the polygon through its points. Dots and point sets are left out. Of two
    areas of one group, one within the other is not a hole: draw what is to be left out in a group
    of its own and map that to ``-``.

    Args:
        path: the XML file. Document types and entities in it are refused.
        label_map: source -> class, "" to leave out. Asked for first is the annotation's own name,
            then its group, then the group that this is part of, and so on. Without an entry it is
            of its own group's class; in no group (``None`` in the map) it has no class.
        unclassified: keep areas without a class too, under the name "".

    Returns:
        Regions in level-0 (x, y) of the whole plane, in file order.

    Raises:
        AnnotationError: the file cannot be read, or is not an ASAP file.
    """
    drawn, parents = _parse(path)
    regions = []
    for one in drawn:
        if one.kind not in _AREAS:
            continue
        name = _class_of(one, parents, label_map or {})
        if name == "" or (name is None and not unclassified):
            continue
        if len(one.points) < 3:
            fault = f"'{one.name}' in line {one.line} has {len(one.points)} points"
            raise AnnotationError(path, fault, "draw it again, or delete it")
        geometry = areal(shapely.Polygon([(x, y) for _, x, y in sorted(one.points, key=_order)]))
        if not geometry.is_empty:
            regions.append(Region(name or "", geometry))
    return regions


def asap_sources(path: Path) -> frozenset[str]:
    """What a label map can name in the areas of an ASAP file: annotations, and their groups.

    ``None`` is among them where an area is in no group. Raises AnnotationError.
    """
    drawn, parents = _parse(path)
    found: set[str] = set()
    for one in drawn:
        if one.kind in _AREAS:
            found.update((one.name, *_groups(one, parents)))
    return frozenset(found - {""})


def _order(point: tuple[float, float, float]) -> float:
    return point[0]


def _class_of(one: _Drawn, parents: Mapping[str, str], label_map: Mapping[str, str]) -> str | None:
    """The class of an annotation; "" where the map leaves it out, None where it has none."""
    for source in (one.name, *_groups(one, parents)):
        if source in label_map:
            return label_map[source]
    return None if one.group == _NO_GROUP else one.group


def _groups(one: _Drawn, parents: Mapping[str, str]) -> list[str]:
    """The group of an annotation, the group that this is part of, and so on; each once."""
    group = one.group
    found: list[str] = []
    while group not in found:
        found.append(group)
        group = parents.get(group, _NO_GROUP)
    return found


class _Reader:
    """What expat calls while it reads."""

    def __init__(self, parser: expat.XMLParserType) -> None:
        self.parser = parser
        self.root: str | None = None
        self.drawn: list[_Drawn] = []
        self.parents: dict[str, str] = {}
        parser.StartElementHandler = self.start
        parser.StartDoctypeDeclHandler = self.refuse
        parser.EntityDeclHandler = self.refuse

    def start(self, tag: str, values: dict[str, str]) -> None:
        self.root = self.root or tag
        group = plain_name(values.get("PartOfGroup", "")) or _NO_GROUP
        name = plain_name(values.get("Name", ""))
        if tag == "Annotation":
            line = self.parser.CurrentLineNumber
            self.drawn.append(_Drawn(name, values.get("Type", "").casefold(), group, line))
        elif tag == "Group":
            self.parents[name] = group
        elif tag == "Coordinate" and self.drawn:
            points = self.drawn[-1].points
            order = float(values.get("Order", len(points)))
            point = (order, float(values.get("X", "")), float(values.get("Y", "")))
            check_places(np.array(point))
            points.append(point)

    def refuse(self, *_: object) -> None:
        raise _Refused("declares a document type or entities")


def _parse(path: Path) -> tuple[list[_Drawn], dict[str, str]]:
    """Annotations and the group that each group is part of; raises AnnotationError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        fault = f"cannot be read ({error.strerror})"
        raise AnnotationError(path, fault, "correct --annotations or the manifest") from error
    parser = expat.ParserCreate()
    reader = _Reader(parser)
    try:
        parser.Parse(data, True)  # noqa: FBT003 - it takes no keyword
    except _Refused as error:
        raise AnnotationError(path, str(error), _EXPORT) from error
    except expat.ExpatError as error:
        raise AnnotationError(path, f"is not XML ({error})", _EXPORT) from error
    except ValueError as error:
        fault = f"line {parser.CurrentLineNumber} has no usable coordinates ({error})"
        raise AnnotationError(path, fault, _EXPORT) from error
    if reader.root != "ASAP_Annotations":
        fault = f"is not an ASAP file: it begins with <{reader.root}>, not <ASAP_Annotations>"
        raise AnnotationError(path, fault, _EXPORT)
    return reader.drawn, reader.parents
