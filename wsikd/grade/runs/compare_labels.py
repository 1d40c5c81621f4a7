"""Comparison of a folder of results with a pathologist's grade of each slide."""

from __future__ import annotations

import json
import logging
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.core.agreement import auc, confusion, kappas
from wsikd.core.classes import pattern_of
from wsikd.core.errors import MALFORMED, AnnotationError, ConfigError, OutputError
from wsikd.core.intervals import (
    LEVEL,
    MIN_GROUPS_AUC,
    NO_INTERVAL,
    interval,
    leave_out,
    rate_interval,
)
from wsikd.core.leak_hashes import saw_scan
from wsikd.core.output.failures import read_failures
from wsikd.core.reading import parse_csv
from wsikd.grade.gleason import grade_group
from wsikd.grade.gleason_rules import Rules
from wsikd.grade.runs.record import FILE, named_records, newer_format, student_card
from wsikd.grade.runs.sweep import sweep
from wsikd.slides.listing.search import SLIDE_SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from wsikd.models.files.card import GraderCard

log = logging.getLogger(__name__)
GROUPS = 6
SCORE = "cancer_expected"
SCORE_TEXT = "share of the tissue expected to be cancer, from {} probabilities"
_SAME = ("student", "teacher", "budget", "threshold", "specimen", "min_area_mm2", "mpp") + (
    ("rules", "min_pattern")
)
_GLEASON = re.compile(r"([0-5])\s*\+\s*([0-5])(?:\s*=\s*(\d+))?")


@dataclass(frozen=True)
class SlideLabel:
    """A pathologist's grade of a slide: ISUP grade group, 0 for no cancer."""

    slide: str
    grade_group: int
    patient: str | None = None


def read_labels(path: Path) -> list[SlideLabel]:
    """Read a CSV of grades.

    Columns: ``slide`` (with or without the file's suffix), ``grade_group`` (0 or benign, 1 to 5)
    or ``gleason`` (3+4, 3+4=7, 0+0, benign), and, if known, ``patient``.

    Raises:
        AnnotationError: it cannot be read, lacks a column, or a line cannot be understood.
    """
    try:
        reader = parse_csv(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        fault = f"cannot be read ({getattr(error, 'strerror', None) or error})"
        raise AnnotationError(path, fault, "give a CSV file in UTF-8") from error
    columns = [(c or "").strip().lower() for c in reader.fieldnames or []]
    if "grade_group" not in columns:  # the name in summary.csv
        columns = ["grade_group" if c == "isup_grade_group" else c for c in columns]
    reader.fieldnames = columns
    if "slide" not in columns or not {"grade_group", "gleason"} & set(columns):
        lacking = "slide" if "slide" not in columns else "grade_group or gleason"
        raise AnnotationError(
            path,
            f"no column {lacking} (columns: {', '.join(c for c in columns if c) or 'none'})",
            "name them slide, grade_group (0 to 5) or gleason (3+4, benign), and patient if known",
        )
    labels: dict[str, SlideLabel] = {}
    for row in reader:
        cells = {k: (v or "").strip() for k, v in row.items() if k and isinstance(v, str)}
        where = f"{path}, line {reader.line_num}"
        name = _stem(cells.get("slide", ""))
        if not name or name in labels:
            fault = f"slide '{name}' for the second time" if name else "no slide name"
            raise AnnotationError(where, fault, "delete the line")
        labels[name] = SlideLabel(name, _grade(where, cells), cells.get("patient") or None)
    if not labels:
        raise AnnotationError(path, "lists no slide", "add one line per slide")
    return list(labels.values())


def _stem(slide: str) -> str:
    name = slide.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return name[: -len(s)] if (s := Path(name).suffix).lower() in SLIDE_SUFFIXES and s else name


def _grade(where: str, cells: Mapping[str, str]) -> int:
    found = {
        "grade_group": _of_group(cells.get("grade_group", "")),
        "gleason": _of_gleason(cells.get("gleason", "")),
    }
    for column, value in found.items():
        if value is None and cells.get(column):
            what = "0 to 5, or benign" if column == "grade_group" else "such as 3+4, or benign"
            raise AnnotationError(where, f"{column} '{cells[column]}' is not understood", what)
    known = {v for v in found.values() if v is not None}
    if len(known) != 1:
        both = " and ".join(f"{k} '{cells.get(k, '')}'" for k in found if k in cells)
        fault = f"{both} contradict each other" if known else "no grade"
        raise AnnotationError(where, fault, "correct the line or delete it")
    return known.pop()


def _benign(text: str) -> bool:
    return pattern_of(text) == 0 or text.casefold() == "negative"


def _of_group(text: str) -> int | None:
    plain = text.removesuffix(".0")
    return 0 if _benign(plain) else int(plain) if plain in set("12345") else None


def _of_gleason(text: str) -> int | None:
    if _benign(text):
        return 0
    match = _GLEASON.fullmatch(text)
    if match is None:
        return None
    first, second = int(match[1]), int(match[2])
    if match[3] and int(match[3]) != first + second:
        return None
    if first == second == 0:
        return 0
    return grade_group(first, second) if first and second else None


@dataclass(frozen=True)
class Results:
    """A folder of results: the row and fingerprint of each slide, and the failed slides.

    The slides were graded by ``rules``.
    """

    rows: dict[str, dict[str, Any]]
    fingerprint: dict[str, str]
    failed: dict[str, str]
    card: GraderCard | None
    rules: Rules = field(default_factory=Rules)


def read_results(out: Path) -> Results:
    """Read the results of ``wsikd infer`` in a folder.

    Raises:
        ConfigError: there is no result, or they were made with different settings, or with
            classes that are not Gleason patterns.
    """
    rows, prints, rules = {}, {}, set()
    for folder, record in named_records(out):
        if record.fingerprint is not None:
            rows[folder.name], prints[folder.name] = record.summary, record.fingerprint
            rules.add(Rules.of(record.made_with))
    if not rows:
        for file in sorted(out.glob(f"*/{FILE}")):
            if fault := newer_format(file.parent):
                raise ConfigError(file.parent, fault, "use the wsikd that wrote it, or a newer one")
        raise ConfigError(out, "holds no finished result", "give the -o of wsikd infer")
    for key in _SAME:
        if len(values := {json.dumps(row.get(key)) for row in rows.values()}) > 1:
            fault = f"its slides were made with different settings ({key} {' and '.join(values)})"
            raise ConfigError(out, fault, "grade them all with the same settings")
    first = next(iter(rows.values()))
    if "isup_grade_group" not in first:
        raise ConfigError(
            out, "its classes are not Gleason patterns", "there is no grade group to score"
        )
    if len(rules) > 1:
        fault = "its slides were made with different rules or thresholds of the score"
        raise ConfigError(out, fault, "grade them all with the same settings")
    card = student_card(out, first.get("student"))
    return Results(rows, prints, _failures(out), card, rules.pop())


def _failures(out: Path) -> dict[str, str]:
    try:
        return {row["slide"]: row["error"] for row in read_failures(out)}
    except OutputError:
        return {}


def score_slides(results: Results, labels: Sequence[SlideLabel]) -> dict[str, Any]:
    """Compare grade groups slide by slide.

    Kappa has quadratic weights over the grade groups 0 (no cancer) to 5. The AUC is for cancer or
    no cancer; its score is the share of the tissue that is expected to be cancer. ``least_areas``
    has the figures at other least areas of cancer, see ``wsikd.grade.runs.sweep``. Intervals (95 %)
    are over patients where they are known, else slides; fewer than ten have none. Slides that
    failed, are missing or whose grade is withheld do not count in any figure.

    Args:
        results: the graded slides.
        labels: a pathologist's grades.

    Returns:
        JSON values; a figure that is undefined is None.

    Raises:
        ConfigError: no labelled slide has a result.
    """
    both = [label for label in labels if label.slide in results.rows]
    withheld = [label.slide for label in both if _is_withheld(results.rows[label.slide])]
    both = [label for label in both if label.slide not in withheld]
    absent = [label.slide for label in labels if label.slide not in results.rows]
    if not both:
        raise ConfigError(
            "--labels",
            f"none of its {len(labels)} slides has a result (such as '{labels[0].slide}'; there "
            f"is '{next(iter(results.rows))}')",
            "name the slides as in summary.csv",
        )
    truth = np.array([label.grade_group for label in both], np.int64)
    rows = [results.rows[label.slide] for label in both]
    found = np.array([row["isup_grade_group"] or 0 for row in rows], np.int64)
    names = [
        f"slide {label.slide}" if label.patient is None else f"patient {label.patient}"
        for label in both
    ]
    known, group = np.unique(np.asarray(names), return_inverse=True)
    score = np.array([math.nan if (v := row.get(SCORE)) is None else float(v) for row in rows])
    values = _figures(truth, found, score, group, leave_out(len(known)))
    own, spans = {k: v[:1] for k, v in values.items()}, _spans(values, truth, found, score, group)
    if len(known) < MIN_GROUPS_AUC:
        log.warning("%d slides or patients: %s", len(known), NO_INTERVAL)
    return {
        "slides": len(both),
        "groups": len(known),
        "student": rows[0].get("student"),
        "level": LEVEL,
        "figures": {k: float(v[0]) if math.isfinite(v[0]) else None for k, v in own.items()},
        "intervals": {k: span and [round(v, 6) for v in span] for k, span in spans.items()},
        "auc_score": SCORE_TEXT.format(
            "uncalibrated" if rows[0].get("temperature") is None else "calibrated"
        ),
        "without_score": [label.slide for label, s in zip(both, score, strict=True) if s != s],
        "confusion": confusion(truth, found, GROUPS).tolist(),
        "grade_groups": ["no cancer", "1", "2", "3", "4", "5"],
        "failed": {name: results.failed[name] for name in absent if name in results.failed},
        "withheld": withheld,
        "least_areas": sweep(rows, results.rules, truth),
        "missing": [name for name in absent if name not in results.failed],
        "unlabelled": sorted(set(results.rows) - {label.slide for label in labels}),
        "seen": _seen(results, [label.slide for label in both]),
    }


def _is_withheld(row: Mapping[str, Any]) -> bool:
    return str(row.get("grade_status", "")).startswith("withheld")


def _spans(
    values: Mapping[str, NDArray[np.float64]],
    truth: NDArray[np.int64],
    found: NDArray[np.int64],
    score: NDArray[np.float64],
    group: NDArray[np.int64],
) -> dict[str, tuple[float, float] | None]:
    """The interval of each figure of :func:`_figures`."""
    scored = np.isfinite(score)
    sides = [len(np.unique(group[scored & own])) for own in (truth > 0, truth == 0)]
    return {
        "kappa": interval(values["kappa"], "kappa"),
        "accuracy": rate_interval(np.bincount(group, truth == found), np.bincount(group)),
        "auc_cancer": interval(
            values["auc_cancer"], "slides", support=min(sides), least=MIN_GROUPS_AUC
        ),
    }


def _figures(
    truth: NDArray[np.int64],
    found: NDArray[np.int64],
    score: NDArray[np.float64],
    group: NDArray[np.int64],
    times: NDArray[np.int64],
) -> dict[str, NDArray[np.float64]]:
    """Name of a figure -> float64 (R,); row r counts group g ``times[r, g]`` times."""
    count = times.shape[1]
    flat = (group * GROUPS + truth) * GROUPS + found
    own = np.bincount(flat, minlength=count * GROUPS**2).reshape(count, GROUPS, GROUPS)
    tables = np.tensordot(times, own, 1)
    scored = np.isfinite(score)
    return {
        "kappa": kappas(tables, quadratic=True),
        "accuracy": np.trace(tables, axis1=1, axis2=2) / tables.sum((1, 2)),
        "auc_cancer": auc(truth[scored] > 0, score[scored], group[scored], times),
    }


def _seen(results: Results, slides: Sequence[str]) -> dict[str, str] | None:
    """Slide -> part of the student's data set, with a warning; None if its card lists none."""
    records = results.card and results.card.seen
    try:
        parts = {s: saw_scan(records, results.fingerprint[s]) for s in slides}
    except MALFORMED:
        log.warning("the student's card does not list its training data: leakage is not checked")
        return None
    seen = {slide: part for slide, part in parts.items() if part}
    if seen:
        log.warning(
            "%d of the slides were in the student's own training or validation data (%s): the "
            "scores are too high",
            len(seen),
            ", ".join(list(seen)[:5]) + (", ..." if len(seen) > 5 else ""),
        )  # fmt: skip
    return seen
