"""Why a person must look at a slide's grades before they are used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wsikd.grade.verdict import UNLIKE
from wsikd.slides.appearance import describe_statistic

if TYPE_CHECKING:
    from collections.abc import Mapping

WIDE_GROUPS = 3


@dataclass(frozen=True)
class Reason:
    """One reason.

    Attributes:
        grave: the grades are not to be trusted; else they are only uncertain.
        text: a sentence.
    """

    grave: bool
    text: str


def reasons(row: Mapping[str, Any]) -> list[Reason]:
    """Why the grades of a row of ``summary.csv`` need a look, grave reasons first; [] for none.

    >>> [reason.text for reason in reasons({"isup_low": 1, "isup_high": 3})]
    ['The grade group is uncertain: it may be anything from 1 to 3.']
    >>> reasons({"isup_low": 2, "isup_high": 3, "unlike_training": False})
    []
    """
    found = [*_unlike_features(row), *_unlike_appearance(row), *_wide(row)]
    return sorted(found, key=lambda reason: not reason.grave)


def _unlike_features(row: Mapping[str, Any]) -> list[Reason]:
    ratio = row.get("guard_distance")
    if not isinstance(ratio, int | float) or isinstance(ratio, bool):
        ratio = None
    if row.get("grade_status") != UNLIKE and not (ratio is not None and ratio > 1):
        return []
    text = "The student has not seen tissue like this in training"
    if ratio is not None:
        text += f" (guard distance {ratio:.3g}, the limit is 1)"
    return [Reason(grave=True, text=f"{text}. Do not trust the map.")]


def _unlike_appearance(row: Mapping[str, Any]) -> list[Reason]:
    if not row.get("unlike_training"):
        return []
    what, ratio = row.get("farthest_in"), row.get("distance_from_training")
    text = "Stain or focus differ from the training slides"
    if isinstance(what, str):
        far = f", {ratio:.3g} times the usual range" if isinstance(ratio, int | float) else ""
        text += f" ({describe_statistic(what)}{far})"
    return [Reason(grave=True, text=f"{text}. Do not trust the grades.")]


def _wide(row: Mapping[str, Any]) -> list[Reason]:
    low, high = row.get("isup_low"), row.get("isup_high")
    if not (isinstance(low, int) and isinstance(high, int)) or high - low + 1 < WIDE_GROUPS:
        return []
    start = "no cancer" if low == 0 else str(low)
    text = f"The grade group is uncertain: it may be anything from {start} to {high}."
    return [Reason(grave=False, text=text)]
