"""What a slide's score says in words; every output takes it from here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wsikd.grade.verdict import NO_CANCER, UNLIKE

if TYPE_CHECKING:
    from collections.abc import Mapping


def score_text(row: Mapping[str, Any]) -> str:
    """The score of a row of ``summary.csv``; empty where the classes are not Gleason patterns.

    >>> score_text({"gleason_score": "3+4=7", "isup_grade_group": 2, "pattern_4_of_cancer": 0.12})
    'Gleason 3+4=7, grade group 2, pattern 4 12 % of the cancer'
    >>> score_text({"gleason_score": None, "grade_status": NO_CANCER, "cancer_mm2": 0.25})
    'no cancer above the threshold; 0.25 mm2 below it'
    """
    if "gleason_score" not in row:
        return ""
    if not row["gleason_score"]:
        return _no_score(row)
    group = f"grade group {row.get('isup_grade_group')}"
    low, high = row.get("isup_low"), row.get("isup_high")
    if _is_number(low) and _is_number(high):
        group += f" ({low} to {high})"
    parts = [f"Gleason {row['gleason_score']}", group]
    if row.get("minor"):
        parts.append(f"minor pattern {row['minor']}")
    for pattern in (4, 5):
        share = row.get(f"pattern_{pattern}_of_cancer")
        if _is_number(share) and share:
            parts.append(f"pattern {pattern} {_percent(share)} of the cancer")
    cores, worst = row.get("cores") or 0, row.get("worst_core_score")
    if _is_number(cores) and cores > 1 and worst:
        parts.append(f"worst of {cores} cores {worst}")
    return ", ".join(parts)


def _no_score(row: Mapping[str, Any]) -> str:
    status = row.get("grade_status")
    if status == NO_CANCER:
        area = row.get("cancer_mm2")
        below = f"; {area:.3g} mm2 below it" if _is_number(area) else ""
        return f"no cancer above the threshold{below}"
    if status == UNLIKE:
        return "grade withheld: the slide differs from the training data"
    return str(status) if status else "no score"


def _percent(share: float) -> str:
    return "below 1 %" if share < 0.01 else f"{100 * share:.0f} %"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
