"""Which fields a student leaves to its teacher: the most doubtful, within a budget.

The doubt about a field is one minus the student's greatest calibrated probability: what it expects
to be wrong (the reject rule of C. K. Chow, "On optimum recognition error and reject tradeoff", IEEE
Trans. Inf. Theory 16, 1970). N fields, C classes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.core.agreement import confusion, kappa
from wsikd.core.softmax import softmax

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

_TINY = np.finfo(np.float32).smallest_subnormal
SHARES = tuple(n / 100 for n in (*range(21), *range(25, 101, 5)))


def doubt(probability: NDArray[Any], temperature: float | None = None) -> NDArray[np.float64]:
    """One minus the greatest probability of each field: float64 (N,).

    Args:
        probability: (N, C), softmax of the logits.
        temperature: divides the logits first, where it is not done yet.
    """
    own = np.asarray(probability, np.float64)
    if temperature is not None:
        own = softmax(np.log(np.maximum(own, _TINY)), temperature)
    return np.asarray(1 - own.max(1), np.float64)


def most_doubtful(
    doubts: NDArray[np.float64], budget: float, threshold: float | None = None
) -> NDArray[np.bool_]:
    """The fields to read again: bool (N,), at most ``budget`` of them.

    Of fields in equal doubt the first come first.

    Args:
        doubts: (N,).
        budget: share of the fields, 0 to 1; 1 takes all, whatever the threshold.
        threshold: least uncertainty at which a field is read again; None: as many as the budget
            allows.
    """
    chosen = np.zeros(len(doubts), np.bool_)
    most = math.floor(budget * len(doubts) + 1e-9)
    chosen[np.argsort(-doubts, kind="stable")[:most]] = True
    return chosen if threshold is None or budget >= 1 else chosen & (doubts >= threshold)


def trade_off(
    doubts: NDArray[np.float64],
    student: NDArray[np.integer],
    teacher: NDArray[np.integer],
    truth: NDArray[np.integer],
    classes: int,
) -> dict[str, list[float | None]]:
    """What each threshold of doubt costs and brings.

    Args:
        doubts: (N,), of fields that neither network was trained on.
        student: its classes, int (N,).
        teacher: its classes, int (N,).
        truth: classes that a person gave them, int (N,).
        classes: how many there are.

    Returns:
        Lists of equal length, by falling threshold: ``threshold``; ``share`` of the fields in that
        doubt or more; ``agreement``, share of the fields that then have the teacher's class, be it
        its own; ``kappa`` with the teacher and ``truth_kappa`` with the truth (quadratic; None
        where undefined).
    """
    curve: dict[str, list[float | None]] = {
        k: [] for k in ("threshold", "share", "agreement", "kappa", "truth_kappa")
    }
    falling = np.sort(doubts)[::-1]
    places = sorted({math.ceil(share * len(doubts)) for share in SHARES})
    thresholds = [1.0, *(float(falling[k - 1]) for k in places if k)]  # no doubt reaches 1
    for threshold in dict.fromkeys(thresholds):
        again = doubts >= threshold
        merged = np.where(again, teacher, student)
        curve["threshold"].append(threshold)
        curve["share"].append(float(again.mean()))
        curve["agreement"].append(float((merged == teacher).mean()))
        for key, other in (("kappa", teacher), ("truth_kappa", truth)):
            value = kappa(confusion(other, merged, classes), quadratic=True)
            curve[key].append(value if math.isfinite(value) else None)
    return curve


def place_for(curve: Mapping[str, Any], agreement: float) -> int:
    """Place in a :func:`trade_off` that costs least and agrees at least so often.

    At the last place all fields are read again, and agree.
    """
    found = (i for i, value in enumerate(curve["agreement"]) if value >= agreement)
    return next(found, len(curve["agreement"]) - 1)


def place_for_kappa(curve: Mapping[str, Any], least: float) -> int | None:
    """Place in a :func:`trade_off` that costs least and has this kappa with the truth.

    None where none has. More fields read again need not mean more kappa: the teacher errs too.
    """
    known = enumerate(curve["truth_kappa"])
    return next((i for i, value in known if value is not None and value >= least), None)


def best_place(curve: Mapping[str, Any], budget: float = 1) -> int | None:
    """Place of the greatest kappa with the truth within a budget; the cheapest of equal ones.

    None where kappa is undefined at all of them.
    """
    pairs = enumerate(zip(curve["truth_kappa"], curve["share"], strict=True))
    found = [(value, -i) for i, (value, share) in pairs if value is not None and share <= budget]
    return -max(found)[1] if found else None
