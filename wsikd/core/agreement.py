"""How far two gradings of the same fields agree, and how well a score ranks.

R weightings, G groups, N items.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_AT_ONCE = 1 << 16
"""Items of all weightings that are counted at a time."""


def confusion(truth: NDArray[Any], predicted: NDArray[Any], classes: int) -> NDArray[np.int64]:
    """Counts by true class (rows) and predicted class (columns).

    Args:
        truth: integers (N,), 0 to ``classes`` - 1.
        predicted: integers (N,), the same.
        classes: how many there are, C; those that do not occur count too.

    Returns:
        int64 (C, C).
    """
    flat = np.asarray(truth, np.int64) * classes + np.asarray(predicted, np.int64)
    return np.bincount(flat, minlength=classes**2).reshape(classes, classes)


def kappa(matrix: NDArray[Any], *, quadratic: bool) -> float:
    """Cohen's kappa (1960), with quadratic weights (1968) where asked.

    1 - sum w O / sum w E, w_ij = (i - j)^2 or [i != j], E the product of the margins. NaN where
    both give one and the same single class, since chance explains everything there, and for an
    empty matrix.

    Args:
        matrix: (C, C), as ``confusion`` gives it.
        quadratic: classes are grades in order.

    >>> kappa(np.array([[2, 0], [1, 1]]), quadratic=True)
    0.5
    """
    return float(kappas(np.asarray(matrix)[None], quadratic=quadratic)[0])


def kappas(matrices: NDArray[Any], *, quadratic: bool) -> NDArray[np.float64]:
    """:func:`kappa` of each of many matrices (R, C, C): float64 (R,)."""
    observed = np.asarray(matrices, np.float64)
    places = np.arange(observed.shape[1])
    distance = places[:, None] - places[None]
    weight = distance**2 if quadratic else (distance != 0).astype(np.int64)
    total = np.maximum(observed.sum((1, 2)), 1)
    margins = observed.sum(2)[:, :, None] * observed.sum(1)[:, None]
    chance = (weight * margins).sum((1, 2)) / total
    found = np.full(len(observed), np.nan)
    lost = (weight * observed).sum((1, 2))
    return np.asarray(1 - np.divide(lost, chance, out=found, where=chance > 0))


def balanced_accuracy(matrix: NDArray[Any]) -> float:
    """Mean recall over the classes that occur in truth (the rows); NaN if none does."""
    count = matrix.sum(1)
    seen = count > 0
    return float((np.diag(matrix)[seen] / count[seen]).mean()) if seen.any() else math.nan


def auc(
    positive: NDArray[np.bool_],
    score: NDArray[np.float64],
    group: NDArray[np.int64],
    times: NDArray[Any],
) -> NDArray[np.float64]:
    """Share of (positive, negative) pairs in order, ties half.

    Args:
        positive: bool (N,).
        score: float64 (N,), higher for positive ones.
        group: int64 (N,), 0 to G - 1.
        times: (R, G), how often each group counts.

    Returns:
        float64 (R,); NaN without pairs.
    """
    if not len(score):
        return np.full(len(times), np.nan)
    _, place = np.unique(score, return_inverse=True)
    order = np.argsort(place, kind="stable")
    first = np.flatnonzero(np.diff(place[order], prepend=-1))  # of equal scores
    group, positive = group[order], positive[order]
    rows, found = max(1, _AT_ONCE // len(score)), np.full(len(times), np.nan)
    for start in range(0, len(times), rows):
        weight = times[start : start + rows][:, group].astype(np.float64)
        above = np.add.reduceat(weight * positive, first, axis=1)
        below = np.add.reduceat(weight * ~positive, first, axis=1)
        pairs = above.sum(1) * below.sum(1)
        ordered = (above * (np.cumsum(below, 1) - below / 2)).sum(1)
        np.divide(ordered, pairs, out=found[start : start + rows], where=pairs > 0)
    return found
