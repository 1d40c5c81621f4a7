"""Operating points of a test with two outcomes: chosen on validation, applied elsewhere."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.core.intervals import MIN_GROUPS_AUC, interval, leave_out, rate_interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

FIGURES = ("sensitivity", "specificity", "precision", "f1")
CONFIDENCE = 0.95
"""With which a threshold at a sensitivity keeps it on further slides."""


def choose_threshold(
    positive: NDArray[np.bool_],
    score: NDArray[np.float64],
    *,
    rule: str = "youden",
    sensitivity: float = 0.95,
    groups: Sequence[str] | None = None,
) -> float:
    """The least score that counts as positive.

    Args:
        positive: bool (N,), the truth.
        score: float64 (N,).
        rule: "youden" maximises sensitivity + specificity (W. Youden, Cancer 3, 1950), the highest
            threshold among equals; "sensitivity" is the highest that keeps ``sensitivity`` on
            further slides with ``CONFIDENCE``: a tolerance limit, the k-th least score of the
            positives (S. Wilks, Ann. Math. Stat. 12, 1941). With fewer than
            :func:`positives_needed` it is the least score, see :func:`assured_sensitivity`.
        sensitivity: wanted, for that rule.
        groups: patient or slide of each, (N,), for that rule: each counts once, by the least of its
            positives. Each score is one by default.

    Returns:
        One of the scores; NaN where one of the outcomes does not occur.
    """
    if positive.all() or not positive.any():
        return math.nan
    if rule == "sensitivity":
        least = least_of_groups(positive, score, groups)
        return float(least[max(_spared(len(least), sensitivity), 1) - 1])
    levels = np.unique(score)[::-1]
    caught = np.array([(score[positive] >= t).mean() for t in levels])
    cleared = np.array([(score[~positive] < t).mean() for t in levels])
    return float(levels[(caught + cleared).argmax()])


def least_of_groups(
    positive: NDArray[np.bool_], score: NDArray[np.float64], groups: Sequence[str] | None
) -> NDArray[np.float64]:
    """The least score of each group's positives, in rising order: float64 (n,)."""
    if groups is None:
        return np.sort(score[positive])
    _, group = np.unique(np.asarray(groups)[positive], return_inverse=True)
    least = np.full(int(group.max()) + 1, np.inf)
    np.minimum.at(least, group, score[positive])
    return np.sort(least)


def _spared(count: int, sensitivity: float) -> int:
    """The greatest k so that a share ``sensitivity`` lies at the k-th of n scores or above.

    With ``CONFIDENCE``; 0 where that holds for none.
    """
    from scipy.special import betainc

    below = np.arange(1, count + 1)  # at least k of n lie among the lowest 1 - sensitivity
    held = betainc(below, count - below + 1, 1 - sensitivity) >= CONFIDENCE - 1e-12
    return int(held.sum())


def positives_needed(sensitivity: float) -> int | None:
    """Positive slides or patients that it takes to assure a sensitivity; None for all of them.

    >>> positives_needed(0.95)
    59
    """
    if sensitivity >= 1:
        return None
    return math.ceil(math.log(1 - CONFIDENCE) / math.log(sensitivity) - 1e-12)


def assured_sensitivity(count: int) -> float:
    """What the least score of so many positives keeps on further slides with ``CONFIDENCE``."""
    return float((1 - CONFIDENCE) ** (1 / count)) if count else 0.0


def at_threshold(
    positive: NDArray[np.bool_],
    score: NDArray[np.float64],
    threshold: float,
    weight: NDArray[Any] | None = None,
) -> dict[str, float]:
    """Sensitivity, specificity, precision and F1; NaN where one is undefined.

    Args:
        positive: bool (N,), the truth.
        score: float64 (N,).
        threshold: see :func:`choose_threshold`.
        weight: float (N,), how often each counts; once by default.
    """
    weight = np.ones(len(positive)) if weight is None else np.asarray(weight, np.float64)
    called = score >= threshold
    hit, missed = weight[positive & called].sum(), weight[positive & ~called].sum()
    alarm, cleared = weight[~positive & called].sum(), weight[~positive & ~called].sum()

    def share(part: float, rest: float) -> float:
        return float(part / (part + rest)) if part + rest else math.nan

    return {
        "sensitivity": share(hit, missed),
        "specificity": share(cleared, alarm),
        "precision": share(hit, alarm),
        "f1": share(2 * hit, alarm + missed),
    }


def with_intervals(
    positive: NDArray[np.bool_],
    score: NDArray[np.float64],
    threshold: float,
    groups: Sequence[str],
) -> dict[str, dict[str, Any]]:
    """The figures at a threshold with their intervals at 95 % over groups.

    Args:
        positive: bool (N,), the truth.
        score: float64 (N,).
        threshold: fixed beforehand.
        groups: patient or slide of each, (N,).

    Returns:
        Name -> {"value", "interval"}; None where undefined, or where there are too few groups.
    """
    known, group = np.unique(np.asarray(groups), return_inverse=True)
    called = score >= threshold
    spans = {
        "sensitivity": _rate(positive & called, positive, group),
        "specificity": _rate(~positive & ~called, ~positive, group),
        "precision": _rate(positive & called, called, group),
    }
    without = [at_threshold(positive, score, threshold, w[group]) for w in leave_out(len(known))]
    carried = len(np.unique(group[positive]))
    f1 = np.array([w["f1"] for w in without])
    spans["f1"] = interval(f1, "slides", support=carried, least=MIN_GROUPS_AUC)
    found: dict[str, dict[str, Any]] = {}
    for name, value in at_threshold(positive, score, threshold).items():
        spread = spans[name]
        found[name] = {
            "value": None if math.isnan(value) else value,
            "interval": None if spread is None else list(spread),
        }
    return found


def _rate(
    right: NDArray[np.bool_], among: NDArray[np.bool_], group: NDArray[np.int64]
) -> tuple[float, float] | None:
    count = int(group.max(initial=-1)) + 1
    hits, totals = (np.bincount(group[own], minlength=count) for own in (right, among))
    return rate_interval(hits, totals)
