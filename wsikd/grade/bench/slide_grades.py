"""Comparison by the grade group of each slide with a pathologist's label.

:mod:`wsikd.grade.bench.choice` compares fields; this module compares slides. Each slide has one
grade group per contender, as from ``wsikd infer``, and one from its label.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.core.errors import ConfigError
from wsikd.grade.bench.types import Gradings
from wsikd.grade.gleason import patterns_of
from wsikd.grade.runs.compare_labels import GROUPS
from wsikd.grade.student_rules import Asked, rules_for
from wsikd.grade.summary import verdict_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from wsikd.grade.bench.types import Benched, Contender, Question
    from wsikd.grade.grademap import GradeMap
    from wsikd.slides.listing.manifest import SlideEntry

log = logging.getLogger(__name__)


def check_labels(question: Question, classes: Sequence[str], entries: Sequence[SlideEntry]) -> None:
    """Refuse labels that cannot be used, before anything is timed.

    Raises:
        ConfigError: no label is for one of the slides, or the classes are not Gleason patterns.
    """
    if not question.labels:
        return
    if patterns_of(classes) is None:
        fault = f"the networks' classes ({', '.join(classes)}) are not Gleason patterns"
        raise ConfigError("--labels", fault, "they have no grade group to compare; omit --labels")
    names = [entry.name for entry in entries]
    if not set(names) & set(question.labels):
        example = f"such as '{next(iter(question.labels))}'; there is '{names[0]}'"
        fault = f"none of its {len(question.labels)} slides was compared ({example})"
        raise ConfigError(
            "--labels", fault, "name the slides like their files, or give them with -i"
        )


def grade_group(contender: Contender, grade_map: GradeMap, specimen: str) -> int:
    """ISUP grade group of a map by the rules of ``wsikd infer``, 0 for no cancer.

    Args:
        contender: the network that made the map; its card has the thresholds.
        grade_map: a map of a whole slide.
        specimen: rule for the score, see ``grade_slide``.
    """
    found = verdict_of(grade_map, rules_for(contender.card, Asked(specimen)))
    return (found and found.grade_group) or 0


def gather_slides(
    everyone: Sequence[Contender],
    question: Question,
    done: Sequence[Benched],
    maps: Mapping[str, Sequence[GradeMap]],
) -> tuple[Gradings, dict[str, Any]]:
    """Compare grade groups with the labels, slide by slide.

    Args:
        everyone: the contenders.
        question: has the labels.
        done: the slides; those without a label do not count.
        maps: grade maps of each contender, slide by slide.

    Returns:
        Tables of grade groups 0 (no cancer) to 5, and entries of the record: each slide's grade
        groups, and labels whose slide was not compared.
    """
    rows: list[dict[str, Any]] = []
    groups: dict[str, int] = {}
    place = []
    for number, slide in enumerate(done):
        name = slide.entry.name
        label = question.labels.get(name)
        found = {c.name: grade_group(c, maps[c.name][number], question.specimen) for c in everyone}
        rows.append({"slide": name, "label": label and label.grade_group, "found": found})
        if label is not None:
            patient = label.patient or slide.entry.patient
            key = f"slide {name}" if patient is None else f"patient {patient}"
            place.append(groups.setdefault(key, len(groups)))
    known = [row for row in rows if row["label"] is not None]
    tables = {c.name: np.zeros((len(groups), GROUPS, GROUPS), np.int64) for c in everyone}
    for index, row in zip(place, known, strict=True):
        for name, group in row["found"].items():
            tables[name][index, row["label"], group] += 1
    missing = sorted(set(question.labels) - {row["slide"] for row in rows})
    gradings = Gradings(tables, "labels", len(known), len(known), quadratic=True)
    return gradings, {"specimen": question.specimen, "grade_groups": rows, "missing": missing}
