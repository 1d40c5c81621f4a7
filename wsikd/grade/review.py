"""Reasons why a person must review a slide's grades before they are used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wsikd.grade.verdict import UNLIKE
from wsikd.slides.appearance import describe_statistic

if TYPE_CHECKING:
    from collections.abc import Mapping

WIDE_GROUPS = 3
COLUMN = "review"
_NAMED = 5


@dataclass(frozen=True)
class Reason:
    """One reason for a review.

    Attributes:
        grave: the grades cannot be trusted; otherwise they are only uncertain.
        text: a sentence.
        short: the reason in a few words.
    """

    grave: bool
    text: str
    short: str


def reasons(row: Mapping[str, Any]) -> list[Reason]:
    """Reasons to review the grades of a row of ``summary.csv``, grave ones first; [] for none.

    >>> [reason.text for reason in reasons({"isup_low": 1, "isup_high": 3})]
    ['The grade group is uncertain: it may be anything from 1 to 3.']
    >>> reasons({"isup_low": 2, "isup_high": 3, "unlike_training": False})
    []
    """
    found = [*_unlike_features(row), *_unlike_appearance(row), *_wide(row)]
    return sorted(found, key=lambda reason: not reason.grave)


def reviewed(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of ``summary.csv`` with its column ``review``: all reasons, or an empty text.

    >>> reviewed({"isup_low": 1, "isup_high": 3, "unlike_training": True})["review"]
    'unusual stain or focus; grade group 1 to 3'
    """
    return {**row, COLUMN: "; ".join(reason.short for reason in reasons(row))}


def review_line(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """A line on slides that need a second look, for the end of a run; empty if none does.

    >>> review_line({"a": {"isup_low": 1, "isup_high": 3}, "b": {}})
    '1 of 2 slides needs a second look: a (grade group 1 to 3).'
    """
    found = {name: why for name, row in rows.items() if (why := reasons(row))}
    if not found:
        return ""
    graver = sorted(found, key=lambda name: not found[name][0].grave)
    named = [f"{n} ({reviewed(rows[n])[COLUMN]})" for n in graver[:_NAMED]]
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    need = "needs" if len(found) == 1 else "need"
    slides = "slide" if len(rows) == 1 else "slides"
    return f"{len(found)} of {len(rows)} {slides} {need} a second look: {', '.join(named)}{more}."


def _unlike_features(row: Mapping[str, Any]) -> list[Reason]:
    ratio = row.get("guard_distance")
    if not isinstance(ratio, int | float) or isinstance(ratio, bool):
        ratio = None
    if row.get("grade_status") != UNLIKE and not (ratio is not None and ratio > 1):
        return []
    text = "The student has not seen tissue like this in training"
    if ratio is not None:
        text += f" (guard distance {ratio:.3g}, the limit is 1)"
    return [Reason(grave=True, text=f"{text}. Do not trust the map.", short="unlike training")]


def _unlike_appearance(row: Mapping[str, Any]) -> list[Reason]:
    if not row.get("unlike_training"):
        return []
    what, ratio = row.get("farthest_in"), row.get("distance_from_training")
    text = "Stain or focus differ from the training slides"
    if isinstance(what, str):
        far = f", {ratio:.3g} times the usual range" if isinstance(ratio, int | float) else ""
        text += f" ({describe_statistic(what)}{far})"
    text += ". Do not trust the grades."
    return [Reason(grave=True, text=text, short="unusual stain or focus")]


def _wide(row: Mapping[str, Any]) -> list[Reason]:
    low, high = row.get("isup_low"), row.get("isup_high")
    if not (isinstance(low, int) and isinstance(high, int)) or high - low + 1 < WIDE_GROUPS:
        return []
    start = "no cancer" if low == 0 else str(low)
    text = f"The grade group is uncertain: it may be anything from {start} to {high}."
    short = f"no cancer to grade group {high}" if low == 0 else f"grade group {low} to {high}"
    return [Reason(grave=False, text=text, short=short)]
