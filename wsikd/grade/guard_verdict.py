"""Verdict of a student's guard, as columns of a row and as lines of the log."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from wsikd.models.files.facts import guard_slides
from wsikd.models.guard import ENOUGH

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from wsikd.models.feature_guard import FeatureReading
    from wsikd.models.files.bundle import StudentBundle
    from wsikd.models.files.card import GraderCard
    from wsikd.models.guard import Reading

    AnyReading = Reading | FeatureReading
    Watch = Callable[[NDArray[np.int64], int, NDArray[np.uint8]], None]

log = logging.getLogger(__name__)
ANYWAY = "grade_anyway"
NO_GUARD = "the student's card has no guard: slides unlike its training are graded like others"


def guard_note(bundle: StudentBundle) -> str | None:
    """A caution about a student's guard for readers of its grades; None: it is sound."""
    entry = bundle.card.guard
    if entry is None:
        return NO_GUARD
    if entry.weak:
        return (
            f"the student's guard is weak: its threshold rests on {entry.val_slides} validation "
            f"slide(s), it takes {ENOUGH}"
        )
    return None


def guard_text(card: GraderCard | None) -> str:
    """A network's guard in words, e.g. "a weak guard (5 training slides, 1 validation slide)"."""
    if card is None or card.guard is None:
        return "no guard"
    return f"a {'weak ' if card.guard.weak else ''}guard ({guard_slides(card)})"


def watches(reading: AnyReading | None, other: Watch | None = None) -> Watch | None:
    """A function that passes every batch of a slide to its guard and to ``other``."""
    own = reading.watch if reading else None
    if not own or not other:
        return own or other

    def both(index: NDArray[np.int64], count: int, patches: NDArray[np.uint8]) -> None:
        own(index, count, patches)
        other(index, count, patches)

    return both


def beyond(reading: AnyReading | None) -> bool:
    """Whether the slide differs from the training."""
    return reading is not None and reading.distance is not None and reading.distance > 1


def guard_columns(name: str, reading: AnyReading | None, *, anyway: bool) -> dict[str, Any]:
    """A slide's columns: its distance in multiples of the threshold; empty without a guard.

    Args:
        name: name of the slide.
        reading: has seen the slide's fields.
        anyway: the slide is graded whatever the distance.
    """
    if reading is None:
        return {}
    distance = reading.distance
    if beyond(reading):
        log.warning(
            "%s: differs from the student's training (guard distance %.2f, the limit is 1%s); %s",
            name, distance, ", weak guard" if reading.guard.weak else "",
            "graded anyway" if anyway else "its grade is withheld (--grade-anyway grades it)",
        )  # fmt: skip
    return {"guard_distance": None if distance is None else round(distance, 3)}
