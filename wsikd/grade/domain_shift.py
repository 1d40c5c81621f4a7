"""Is a slide like those that the student was trained on, in stain and focus?"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from wsikd.core.errors import MALFORMED, BundleError
from wsikd.models.files.bundle import CARD
from wsikd.slides.appearance import Appearance

if TYPE_CHECKING:
    from wsikd.models.files.bundle import StudentBundle
    from wsikd.slides.appearance import Watcher

log = logging.getLogger(__name__)
COLUMNS = ("unlike_training", "distance_from_training", "farthest_in")


def trained_on(bundle: StudentBundle) -> Appearance | None:
    """Stain and focus of a student's training; None, and a warning, where its card is older.

    Raises:
        BundleError: the card's entry is malformed.
    """
    try:
        found = Appearance.from_card(bundle.card.appearance)
    except MALFORMED as error:
        fault = f"its entry 'appearance' is malformed ({error!r})"
        raise BundleError(bundle.path / CARD, fault, "copy the bundle again") from error
    if found is None:
        log.warning(
            "the student's card holds no stain and focus statistics: no slide is flagged as "
            "different from the training data"
        )
    return found


def likeness(
    name: str, training: Appearance | None, watcher: Watcher | None
) -> dict[str, bool | float | str | None]:
    """A slide's columns ``COLUMNS`` of the summary; a warning where it is far from the training.

    Args:
        name: name of the slide.
        training: what its student was trained on; None leaves the columns empty.
        watcher: has seen the slide's fields.
    """
    found = training.distance(watcher.statistics) if training and watcher else None
    if found is None:
        return dict.fromkeys(COLUMNS)
    if found.far:
        log.warning(
            "%s: differs from the training data in %s (%.1f times as far from its median as 90 "
            "%% of its "
            "fields); do not trust the grades", name, found.statistic, found.value,
        )  # fmt: skip
    values = (found.far, round(found.value, 3), found.statistic)
    return dict(zip(COLUMNS, values, strict=True))
