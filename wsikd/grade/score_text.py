"""A slide's score in words, for all outputs."""

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
    parts = [f"Gleason {row['gleason_score']}", _group(row)]
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


def score_sentence(row: Mapping[str, Any]) -> str:
    """The score as sentences for a page; empty if the classes are not Gleason patterns.

    >>> score_sentence({"gleason_score": "3+4=7", "isup_grade_group": 2, "isup_low": 2,
    ...                 "isup_high": 3, "pattern_4_of_cancer": 0.35})
    'Likely Gleason 3+4=7, grade group 2 (2 to 3). 35 % of the cancer is pattern 4.'
    >>> score_sentence({"gleason_score": None, "grade_status": NO_CANCER, "cancer_mm2": 0.0})
    'No cancer found.'
    """
    if "gleason_score" not in row:
        return ""
    if not row["gleason_score"]:
        return _no_score_sentence(row)
    text = [f"Likely Gleason {row['gleason_score']}, {_group(row)}."]
    for pattern in (4, 5):
        share = row.get(f"pattern_{pattern}_of_cancer")
        if _is_number(share) and share:
            percent = _percent(share)
            text.append(f"{percent[0].upper()}{percent[1:]} of the cancer is pattern {pattern}.")
    if row.get("minor"):
        text.append(f"Pattern {row['minor']} is a minor component.")
    cores, worst = row.get("cores") or 0, row.get("worst_core_score")
    if _is_number(cores) and cores > 1 and worst:
        text.append(f"The worst of {cores} cores has {worst}.")
    return " ".join(text)


def _no_score_sentence(row: Mapping[str, Any]) -> str:
    status, area, least = (row.get(k) for k in ("grade_status", "cancer_mm2", "cancer_least_mm2"))
    if status == NO_CANCER and _is_number(area):
        if not area:
            return "No cancer found."
        asked = f" of {least:.2g} mm2" if _is_number(least) and least else ""
        return f"No cancer above the threshold{asked}; {area:.2g} mm2 lie below it."
    if status == UNLIKE:
        return "No grade: the slide differs from the training data."
    text = _no_score(row)
    return f"{text[0].upper()}{text[1:]}."


def _group(row: Mapping[str, Any]) -> str:
    group = f"grade group {row.get('isup_grade_group')}"
    low, high = row.get("isup_low"), row.get("isup_high")
    return f"{group} ({low} to {high})" if _is_number(low) and _is_number(high) else group


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
