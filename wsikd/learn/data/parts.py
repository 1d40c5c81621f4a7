"""Whether the parts of a cohort can be trained on and judged by. Imports no torch."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from wsikd.core.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

logger = logging.getLogger(__name__)
FEW_SLIDES = {"train": 10, "val": 5}
"""Fewer slides than these in a part are warned of."""
_USE = {"train": "the network may learn their stain", "val": "scores on so few vary by chance"}


class Divided(Protocol):
    """Labelled patches or bags with their parts; see ``PatchSet`` and ``BagSet``."""

    label: NDArray[np.int64]
    split: NDArray[np.str_]
    classes: tuple[str, ...]

    @property
    def slide(self) -> list[str]:
        """Name of the slide of each."""


D = TypeVar("D", bound=Divided)


def checked(cohort: D) -> D:
    """The same cohort, once :func:`check_parts` has found that a classifier can be trained on it.

    Raises:
        DataError: it cannot.
    """
    check_parts(cohort.split, cohort.slide, cohort.label, cohort.classes)
    return cohort


def check_parts(
    split: NDArray[np.str_],
    slides: Sequence[str],
    label: NDArray[np.int64] | None = None,
    classes: Sequence[str] = (),
) -> None:
    """Refuse parts that nothing can be learnt from, and warn of small ones.

    Args:
        split: str (N,), "train", "val" or another part.
        slides: slide of each patch or bag, (N,).
        label: int64 (N,), index into ``classes``; None where nothing is classified.
        classes: names.

    Raises:
        DataError: the training or the validation part is empty, or all that is trained on is of one
            class.
    """
    refuse_parts(split, label, classes)
    rows = _rows(split)
    if label is not None and len(own := np.unique(label[rows["val"]])) == 1:
        logger.warning(
            "the val part has only class %s: kappa and AUC are undefined on it", classes[own[0]]
        )
    for part, fewest in FEW_SLIDES.items():
        count = len({slides[i] for i in rows[part].tolist()})
        if count < fewest:
            logger.warning(
                "only %d slide(s) in the %s part, fewer than %d: %s",
                count, part, fewest, _USE[part],
            )  # fmt: skip


def refuse_parts(
    split: NDArray[np.str_], label: NDArray[np.int64] | None = None, classes: Sequence[str] = ()
) -> None:
    """As :func:`check_parts`, without its warnings. Raises DataError."""
    rows = _rows(split)
    for part, found in rows.items():
        if not len(found):
            raise DataError(
                "split", f"leaves no patches for {part}", "add slides or change split.val"
            )
    if label is not None:
        _refuse_one_class(label, rows, classes)


def never_predicted(predicted: NDArray[np.int64], classes: Sequence[str]) -> tuple[str, ...]:
    """The classes that predictions int64 (N,) never name, in their order."""
    counts = np.bincount(predicted, minlength=len(classes))
    return tuple(name for name, n in zip(classes, counts, strict=True) if n == 0)


def slides_text(count: int) -> str:
    """A number of slides in words.

    >>> slides_text(1), slides_text(2)
    ('1 slide', '2 slides')
    """
    return f"{count} slide" if count == 1 else f"{count} slides"


def missing_text(names: Sequence[str]) -> str:
    """The note on classes that are never predicted, for the last line of a training."""
    return f"; never predicted there: {', '.join(names)}" if names else ""


def _rows(split: NDArray[np.str_]) -> dict[str, NDArray[np.int64]]:
    return {part: np.flatnonzero(split == part) for part in FEW_SLIDES}


def _refuse_one_class(
    label: NDArray[np.int64], rows: dict[str, NDArray[np.int64]], classes: Sequence[str]
) -> None:
    used = np.unique(label[np.concatenate(list(rows.values()))])
    if len(used) == 1:
        raise DataError(
            "data", f"all labels are of class {classes[used[0]]}",
            "add slides of another class, or tile with --classes as they are annotated",
        )  # fmt: skip
    own = np.unique(label[rows["train"]])
    if len(own) == 1:
        raise DataError(
            "split", f"leaves class {classes[own[0]]} alone for train",
            "add slides of the other classes, or change split.val or split.seed",
        )  # fmt: skip
