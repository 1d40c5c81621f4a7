"""Operating points of a test with two outcomes: chosen on validation, applied elsewhere."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.core.resampling import interval, multiplicities

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
    """The threshold from which on a score counts as positive.

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
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """The figures at a threshold with bootstrap intervals at 95 % over groups.

    Args:
        positive: bool (N,), the truth.
        score: float64 (N,).
        threshold: fixed beforehand.
        groups: patient or slide of each, (N,).
        resamples: how many.
        seed: of the draws.

    Returns:
        Name -> {"value", "interval"}; None where undefined.
    """
    known, group = np.unique(np.asarray(groups), return_inverse=True)
    times = multiplicities(len(known), resamples=resamples, seed=seed)
    drawn = [at_threshold(positive, score, threshold, counts[group]) for counts in times]
    found: dict[str, dict[str, Any]] = {}
    for name, value in at_threshold(positive, score, threshold).items():
        spread = interval(np.array([d[name] for d in drawn])) if len(known) > 1 else None
        found[name] = {
            "value": None if math.isnan(value) else value,
            "interval": None if spread is None else list(spread),
        }
    return found
