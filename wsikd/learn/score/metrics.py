"""Figures of a grader on labelled patches, and how far they depend on which slides were drawn.

Intervals are over whole groups, see :mod:`wsikd.core.intervals`. R weightings, G groups, N patches,
C classes.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.core.agreement import auc, kappas
from wsikd.core.intervals import MIN_GROUPS, MIN_GROUPS_AUC, interval, leave_out

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from wsikd.core.intervals import Scale

FEW_ITEMS = 4
"""Up to so many items a group, on average, each weighs like a slide."""
METRICS = ("balanced_accuracy", "accuracy", "kappa", "kappa_unweighted", "auc_macro", "auc_cancer")


def measure(
    truth: NDArray[np.int64],
    probability: NDArray[np.float64],
    *,
    benign: Sequence[int] = (0,),
    fold: NDArray[np.int64] | None = None,
) -> dict[str, float]:
    """The figures of one set of predictions.

    Args:
        truth: int64 (N,).
        probability: float64 (N, C).
        benign: the classes that are not cancer; without one ``auc_cancer`` is undefined.
        fold: int64 (N,), which network gave each probability, see :func:`weighted`.

    Returns:
        ``balanced_accuracy`` (mean recall of the classes that occur), ``accuracy``, ``kappa``
        (quadratic weights), ``kappa_unweighted``, ``auc_macro`` (each class against the others,
        mean over those that occur), ``auc_cancer`` (benign against all others) and ``f1_0``,
        ``f1_1``, ... of each class; NaN where one is undefined.
    """
    group = np.zeros(len(truth), np.int64)
    found = weighted(truth, probability, group, np.ones((1, 1)), benign=benign, fold=fold)
    return {k: float(v[0]) for k, v in found.items()}


def weighted(
    truth: NDArray[np.int64],
    probability: NDArray[np.float64],
    group: NDArray[np.int64],
    times: NDArray[Any],
    *,
    benign: Sequence[int] = (0,),
    fold: NDArray[np.int64] | None = None,
) -> dict[str, NDArray[np.float64]]:
    """The figures of :func:`measure` with each group counted so many times.

    Scores of two networks are not on one scale: where the patches were scored by the networks of
    several folds, an AUC is the mean over the folds in which it is defined.

    Args:
        truth: int64 (N,).
        probability: float64 (N, C).
        group: int64 (N,), 0 to G - 1.
        times: (R, G), how often each group counts.
        benign: the classes that are not cancer.
        fold: int64 (N,), fold of each patch; None: one.

    Returns:
        Name -> float64 (R,).
    """
    classes, count = probability.shape[1], times.shape[1]
    flat = (group * classes + truth) * classes + probability.argmax(1)
    own = np.bincount(flat, minlength=count * classes**2).reshape(count, classes, classes)
    matrix = np.tensordot(times.astype(np.float64), own.astype(np.float64), 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = _of_confusion(matrix)

        whole = np.zeros(len(truth), np.int64) if fold is None else fold

        def area(positive: NDArray[np.bool_], score: NDArray[np.float64]) -> NDArray[np.float64]:
            parts = [whole == f for f in np.unique(whole)]
            each = [auc(positive[own], score[own], group[own], times) for own in parts]
            return _mean_defined(np.stack(each, 1))

        areas = [area(truth == c, _odds(probability, [c])) for c in range(classes)]
        found["auc_macro"] = _mean_defined(np.stack(areas, 1))
        found["auc_cancer"] = np.full(len(times), np.nan)
        if 0 < len(benign) < classes:
            cancer = ~np.isin(truth, benign)
            found["auc_cancer"] = area(cancer, -_odds(probability, benign))
    return found


def _odds(probability: NDArray[np.float64], chosen: Sequence[int]) -> NDArray[np.float64]:
    """Log odds of classes: they rank as their probability does, but do not tie close to 0 and 1.

    Nine decimals: sums of the other probabilities differ in their last digits where those tie.
    """
    tiny = np.finfo(np.float64).tiny
    others = np.delete(probability, list(chosen), 1).sum(1)
    own = np.maximum(probability[:, list(chosen)].sum(1), tiny)
    return np.asarray(np.round(np.log(own) - np.log(np.maximum(others, tiny)), 9))


def _of_confusion(matrix: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Figures of confusion matrices (R, C, C), true class first."""
    rows, columns, total = matrix.sum(2), matrix.sum(1), matrix.sum((1, 2))
    right = np.diagonal(matrix, axis1=1, axis2=2)
    found = {"balanced_accuracy": _mean_defined(right / rows), "accuracy": right.sum(1) / total}
    found["kappa"] = kappas(matrix, quadratic=True)
    found["kappa_unweighted"] = kappas(matrix, quadratic=False)
    f1 = 2 * right / np.maximum(rows + columns, 1)
    return found | {f"f1_{c}": f1[:, c] for c in range(matrix.shape[1])}


def _mean_defined(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the last axis without NaN."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
        return np.asarray(np.nanmean(values, -1))


def scale_of(name: str, items: float = 100.0) -> Scale:
    """The scale on which a figure's interval is made, see :mod:`wsikd.core.intervals`.

    Args:
        name: name of the figure.
        items: in a group, on average.
    """
    if name.startswith("kappa"):
        return "kappa"
    return "share" if items > FEW_ITEMS else "slides"


def least_groups(name: str) -> int:
    """Groups that the interval of a figure takes."""
    return MIN_GROUPS_AUC if name.startswith("auc") else MIN_GROUPS


def supports(
    truth: NDArray[np.int64],
    group: NDArray[np.int64],
    classes: int,
    benign: Sequence[int] = (0,),
) -> dict[str, int]:
    """How many groups carry each figure of :func:`measure`: those of its rarest class.

    Args:
        truth: int64 (N,).
        group: int64 (N,), 0 to G - 1.
        classes: how many there are, C.
        benign: the classes that are not cancer.
    """
    has = np.zeros((int(group.max(initial=-1)) + 1, classes), bool)
    has[group, truth] = True
    own, every = has.sum(0), len(has)
    rarest = int(own[own > 0].min(initial=every))
    found = {"accuracy": every, "kappa": every, "kappa_unweighted": every}
    found |= {"balanced_accuracy": rarest, "auc_macro": rarest}
    free = np.isin(np.arange(classes), benign)
    sides = has[:, free].any(1).sum(), has[:, ~free].any(1).sum()
    return found | {"auc_cancer": int(min(sides))} | {f"f1_{c}": int(n) for c, n in enumerate(own)}


def intervals(
    truth: NDArray[np.int64],
    probability: NDArray[np.float64],
    groups: Sequence[str],
    *,
    benign: Sequence[int] = (0,),
) -> dict[str, tuple[float, float] | None]:
    """Intervals of every figure, at 95 %, over groups.

    Args:
        truth: int64 (N,).
        probability: float64 (N, C).
        groups: patient or slide of each patch, (N,).
        benign: the classes that are not cancer.

    Returns:
        Name -> (low, high), or None: there are too few groups, or the figure is undefined.
    """
    known, group = np.unique(np.asarray(groups), return_inverse=True)
    without = weighted(truth, probability, group, leave_out(len(known)), benign=benign)
    carried = supports(truth, group, probability.shape[1], benign)
    items = len(truth) / max(len(known), 1)
    return {
        k: interval(v, scale_of(k, items), support=carried[k], least=least_groups(k))
        for k, v in without.items()
    }
