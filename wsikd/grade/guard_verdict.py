"""Which slides a student's guard withholds, as columns of a row and as lines of the log."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from wsikd.models.guard import ENOUGH

if TYPE_CHECKING:
    from wsikd.models.files.bundle import StudentBundle
    from wsikd.models.guard import Reading

log = logging.getLogger(__name__)
ANYWAY = "grade_anyway"
NO_GUARD = "the student's card has no guard: slides unlike its training are graded like others"


def guard_note(bundle: StudentBundle) -> str | None:
    """What is to be known of a student's guard before its grades are read; None: it is sound."""
    entry = bundle.card.guard
    if entry is None:
        return NO_GUARD
    if entry.weak:
        return (
            f"the student's guard is weak: its threshold rests on {entry.val_slides} validation "
            f"slide(s), it takes {ENOUGH}"
        )
    return None


def guard_columns(name: str, reading: Reading | None, *, anyway: bool) -> dict[str, Any]:
    """A slide's columns: its distance in multiples of the threshold; empty without a guard.

    Args:
        name: of the slide.
        reading: has seen the slide's features.
        anyway: the slide is graded all the same.
    """
    if reading is None:
        return {}
    distance, guard = reading.distance, reading.guard
    ratio = None if distance is None else round(distance / max(guard.threshold, 1e-12), 3)
    if reading.beyond:
        log.warning(
            "%s: the student's features are %.2f times as far from its training as a slide may "
            "be%s; %s", name, ratio, " (weak guard)" if guard.weak else "",
            "graded anyway" if anyway else "its grade is withheld (--grade-anyway grades it)",
        )  # fmt: skip
    return {"guard_distance": ratio}
