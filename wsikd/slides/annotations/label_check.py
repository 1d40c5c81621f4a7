"""Whether the classes that were asked for are those that were annotated."""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wsikd.core.classes import is_composite, ordered_classes, pattern_of, plain_key
from wsikd.core.errors import ConfigError
from wsikd.core.registry import nearest
from wsikd.slides.annotations.label_map import OPTION

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from wsikd.slides.annotations.survey import Survey

CLASSES = "--classes"
_CLOSE = 0.8
_SHOWN = 5


@dataclass
class Cohort:
    """The annotations and labels of all slides of a run.

    Attributes:
        files: name of an annotation file -> what it holds.
        labels: name of a slide -> the label that a manifest gives it.
        unread: files that cannot be read; their slides fail in their turn.
        asked: the option that asks for labels, for messages.
    """

    files: dict[str, Survey] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    unread: int = 0
    asked: str = "--annotations"

    @property
    def places(self) -> dict[str, list[str]]:
        """Each class, in order of grade, with the files and slides that have it."""
        found: dict[str, list[str]] = defaultdict(list)
        for file, survey in self.files.items():
            for name in survey.names:
                found[name].append(file)
        for slide, name in self.labels.items():
            found[name].append(slide)
        return {name: found[name] for name in ordered_classes(found)}


def check_classes(cohort: Cohort, label_map: Mapping[str, str], wanted: Sequence[str]) -> None:
    """Refuse a label map or classes that match nothing that is annotated.

    An entry without match is refused where an annotated class is left over that it probably means;
    other entries without match are warned of (:func:`warnings_of`), since one list of classes
    may serve several cohorts. Nothing is refused where an annotation could not be read.

    Args:
        cohort: what is annotated.
        label_map: source -> class.
        wanted: what ``--classes`` gave; empty without it.

    Raises:
        ConfigError: as above, or no annotation and no label gives a class.
    """
    if cohort.unread:
        return
    if not cohort.files and not cohort.labels:
        fault = "no slide has an annotation or a label"
        remedy = "name annotations after the slides (<slide>.geojson), or give a manifest"
        raise ConfigError(cohort.asked, fault, remedy)
    _check_map(cohort, label_map)
    places = cohort.places
    if not places:
        raise ConfigError(cohort.asked, _without_class(cohort), "give the areas a class")
    if not wanted:
        return
    missing, spare = _unmatched(wanted, places)
    listed = ", ".join(places)
    if len(missing) == len(wanted):
        fault = f"none of {', '.join(wanted)} is annotated (annotated: {listed})"
        near = next((w for w in wanted if any(_alike(w, s) for s in spare)), wanted[0])
        remedy = _rename(near, places)
        if near.replace(" ", ",").split(",") == list(places):
            remedy = f"put commas between the names: {CLASSES} {','.join(places)}"
        raise ConfigError(CLASSES, fault, remedy)
    for name in missing:
        if meant := next((s for s in spare if _alike(name, s)), None):
            raise ConfigError(CLASSES, f"'{name}' is not annotated", _rename(name, [meant]))


def warnings_of(cohort: Cohort, label_map: Mapping[str, str], wanted: Sequence[str]) -> list[str]:
    """Warnings about the classes of a cohort, one line each, with files and slides.

    Args:
        cohort: what is annotated.
        label_map: source -> class.
        wanted: what ``--classes`` gave; empty without it.
    """
    lines = []
    bare = {f: s for f, s in cohort.files.items() if s.unclassed}
    if bare:
        count = sum(s.unclassed for s in bare.values())
        each = listing(f"{f} ({s.unclassed} of {s.areas})" for f, s in bare.items())
        lines.append(f"annotated areas without a class are ignored: {count}, in {each}")
    places = cohort.places
    lines += [
        f"classes {first!r} and {second!r} differ only by case or spaces ({first}: "
        f"{listing(places[first])}; {second}: {listing(places[second])}); "
        f"if they are one class, give {OPTION} '{second}={first}'"
        for first, second in _twins(places)
    ]
    lines += [
        f"class {name!r} ({listing(places[name])}) looks like a score of a whole slide, not the "
        f"pattern of a patch; rename it with {OPTION} '{name}=G4', or leave it out with '{name}='"
        for name in places
        if is_composite(name) and (not wanted or name in wanted)
    ]
    if missing := [w for w in wanted if w not in places]:
        lines.append(f"{CLASSES}: not annotated on any slide: {', '.join(missing)}")
    if wanted and (spare := [name for name in places if name not in wanted]):
        names = ", ".join(spare)
        lines.append(f"annotated, but not in {CLASSES}, so their areas give no label: {names}")
    if idle := _idle(cohort, label_map):
        lines.append(f"{OPTION}: is empty on any slide: {', '.join(idle)}")
    return lines


def listing(names: Iterable[str], most: int = _SHOWN) -> str:
    """Names with commas, the first few of many."""
    found = list(dict.fromkeys(names))
    rest = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(found[:most]) + rest


def _check_map(cohort: Cohort, label_map: Mapping[str, str]) -> None:
    idle = _idle(cohort, label_map)
    if not idle:
        return
    known = {s for survey in cohort.files.values() for s in survey.sources}
    spare = known - set(label_map)
    if len(idle) == len(label_map):
        name, remedy = idle[0], nearest(idle[0], known) if known else "no annotation has a class"
        fault = f"{', '.join(map(repr, idle))}: no annotation has this class"
        raise ConfigError(OPTION, fault, remedy if known else f"leave out '{name}'")
    for name in idle:
        if meant := next((s for s in sorted(spare) if _alike(name, s)), None):
            raise ConfigError(
                OPTION, f"{name!r}: no annotation has this class", f"did you mean {meant!r}?"
            )


def _idle(cohort: Cohort, label_map: Mapping[str, str]) -> list[str]:
    """Entries that match nothing, as far as that is known: values of masks are not."""
    known = {s for survey in cohort.files.values() for s in survey.sources}
    masks = any(survey.mask for survey in cohort.files.values())
    return [s for s in label_map if s not in known and not (masks and s.isdecimal())]


def _without_class(cohort: Cohort) -> str:
    areas = sum(s.areas for s in cohort.files.values())
    bare = listing(f for f, s in cohort.files.items() if s.unclassed)
    if bare:
        return f"none of the {areas} annotated areas has a class ({bare})"
    return f"nothing is annotated with a class ({listing(cohort.files)})"


def _unmatched(wanted: Sequence[str], places: Iterable[str]) -> tuple[list[str], list[str]]:
    found = list(places)
    return [w for w in wanted if w not in found], [p for p in found if p not in wanted]


def _twins(places: Iterable[str]) -> list[tuple[str, str]]:
    first: dict[str, str] = {}
    owners = [(first.setdefault(plain_key(name), name), name) for name in places]
    return [(own, name) for own, name in owners if own != name]


def _alike(asked: str, annotated: str) -> bool:
    """Whether one name is probably meant for the other."""
    if plain_key(asked) == plain_key(annotated):
        return True
    if pattern := pattern_of(asked):
        return pattern_of(annotated) == pattern
    if re.findall(r"\d+", asked) != re.findall(r"\d+", annotated):
        return False
    matcher = difflib.SequenceMatcher(None, plain_key(asked), plain_key(annotated))
    return matcher.ratio() > _CLOSE


def _rename(asked: str, annotated: Iterable[str]) -> str:
    found = list(annotated)
    meant = next((name for name in found if _alike(asked, name)), None)
    if meant is None:
        return f"name the classes as they are annotated, or rename those with {OPTION} SOURCE=CLASS"
    return f"did you mean '{meant}'? Rename it with {OPTION} '{meant}={asked}'"
