"""Operating points of a test with two outcomes: chosen on validation, applied elsewhere."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.core.intervals import interval, leave_out, rate_interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

FIGURES = ("sensitivity", "specificity", "precision", "f1")


def choose_threshold(
    positive: NDArray[np.bool_],
    score: NDArray[np.float64],
    *,
    rule: str = "youden",
    sensitivity: float = 0.95,
) -> float:
    """The least score that counts as positive.

    Args:
        positive: bool (N,), the truth.
        score: float64 (N,).
        rule: "youden" maximises sensitivity + specificity (W. Youden, Cancer 3, 1950), the highest
            threshold among equals; "sensitivity" is the highest that reaches ``sensitivity``.
        sensitivity: wanted, for that rule.

    Returns:
        One of the scores; NaN where one of the outcomes does not occur.
    """
    if positive.all() or not positive.any():
        return math.nan
    levels = np.unique(score)[::-1]
    caught = np.array([(score[positive] >= t).mean() for t in levels])
    if rule == "sensitivity":
        return float(levels[np.flatnonzero(caught >= sensitivity - 1e-12)[0]])
    cleared = np.array([(score[~positive] < t).mean() for t in levels])
    return float(levels[(caught + cleared).argmax()])


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
    spans["f1"] = interval(np.array([w["f1"] for w in without]), "share", support=carried)
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
