"""Cases: the results of all slides of a patient, and the table ``cases.csv``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wsikd.core.classes import pattern_of
from wsikd.grade.gleason import read_patterns
from wsikd.grade.gleason_rules import Rules
from wsikd.grade.summary import score_columns
from wsikd.grade.verdict import GRADED, NO_CANCER, UNLIKE, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from wsikd.grade.runs.record import ResultRecord

CASES_FILE = "cases.csv"
CORES_FILE = "cores.csv"


def case_row(patient: str, records: Sequence[ResultRecord]) -> dict[str, Any]:
    """Compute a case's row of ``cases.csv`` from its slides.

    The *global* score takes the cancer of all graded slides as one piece. The *worst* is the
    highest grade group of a core, or of a slide that was not divided into cores.

    Args:
        patient: name of the case.
        records: records of its slides.
    """
    rows = [record.summary for record in records]
    graded = [r for r in records if r.summary.get("gleason_score")]
    row: dict[str, Any] = {
        "patient": patient,
        "slides": len(rows),
        "tissue_mm2": sum(_number(r.get("tissue_mm2")) for r in rows),
    }
    row |= score_columns(_together(records, graded))
    row.pop("cancer_least_mm2")
    return row | _worst([r.summary for r in graded])


def _together(records: Sequence[ResultRecord], graded: Sequence[ResultRecord]) -> Verdict:
    extent: dict[int, float] = {}
    for record in graded:
        for pattern, area in areas_of(record.summary).items():
            extent[pattern] = extent.get(pattern, 0.0) + area
    everything = sum(sum(areas_of(record.summary).values()) for record in records)
    reading = read_patterns(extent, Rules.of(graded[0].made_with)) if graded else None
    withheld = any(r.summary.get("grade_status") == UNLIKE for r in records)
    status = GRADED if reading else UNLIKE if withheld else NO_CANCER
    total = sum(extent.values())
    shares = {p: a / total for p, a in extent.items()} if total > 0 else {}
    return Verdict(status, reading, everything, 0.0, None, shares)


def areas_of(row: Mapping[str, Any]) -> dict[int, float]:
    """Area of each pattern in a row, in mm2."""
    found: dict[int, float] = {}
    for name in (key.removesuffix("_share") for key in row if key.endswith("_share")):
        if pattern := pattern_of(name):
            area = max(0.0, _number(row.get(f"{name}_mm2")))
            found[pattern] = found.get(pattern, 0.0) + area
    return found


def _worst(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = dict.fromkeys(
        ("worst_slide", "worst_core", "worst_score", "worst_grade_group")
    )
    for row in rows:
        by_core = row.get("worst_core_grade_group") is not None
        group = row["worst_core_grade_group"] if by_core else row["isup_grade_group"]
        if group is not None and group > (found["worst_grade_group"] or 0):
            found = {
                "worst_slide": row["slide"],
                "worst_core": row["worst_core"] if by_core else None,
                "worst_score": row["worst_core_score"] if by_core else row["gleason_score"],
                "worst_grade_group": group,
            }
    return found


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def find_cases(
    records: Sequence[ResultRecord], patients: Mapping[str, str]
) -> list[dict[str, Any]]:
    """A row for each patient, sorted by name; none where no patient is known.

    Args:
        records: records of slides; those whose classes are not Gleason patterns do not count.
        patients: slide -> patient, in addition to the column ``patient`` of the rows.
    """
    groups: dict[str, list[ResultRecord]] = {}
    for record in records:
        patient = patients.get(record.slide) or record.summary.get("patient")
        if patient and "gleason_score" in record.summary:
            groups.setdefault(str(patient), []).append(record)
    return [case_row(patient, groups[patient]) for patient in sorted(groups)]


def core_rows(records: Sequence[ResultRecord]) -> list[dict[str, Any]]:
    """A row for each core of each slide."""
    return [
        {"slide": record.slide} | core
        for record in records
        for core in (record.cores if isinstance(record.cores, list) else [])
        if isinstance(core, dict)
    ]
