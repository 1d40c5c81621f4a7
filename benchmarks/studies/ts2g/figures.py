"""Figures of a study of TS2G-KD over its seeds, with intervals over its test slides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.core.agreement import auc, confusion, kappa
from wsikd.core.intervals import (
    MIN_GROUPS_AUC,
    MIN_GROUPS_AUC_DIFFERENCE,
    difference_interval,
    interval,
    leave_out,
    rate_interval,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    from numpy.typing import NDArray

    from wsikd.core.intervals import Scale

    Said: TypeAlias = dict[str, list[Any]]


def areas(said: Sequence[Said], times: NDArray[Any]) -> NDArray[np.float64]:
    """AUC of each training: (trainings, R).

    Args:
        said: ``label`` and ``probability`` of the same slides, by training.
        times: (R, slides), how often each slide counts.
    """
    slides = np.arange(times.shape[1])
    return np.stack(
        [
            auc(np.asarray(s["label"]) == 1, np.asarray(s["probability"], float), slides, times)
            for s in said
        ]
    )


def rate(said: Sequence[Said], truth: int) -> dict[str, Any]:
    """Share of the slides of a class that are decided so, as of :func:`summed`."""
    own = np.asarray(said[0]["label"]) == truth
    right = np.stack([own & (np.asarray(one["decided"]) == truth) for one in said])
    each = right.sum(1) / own.sum() if own.any() else np.full(len(said), np.nan)
    return _record(each, rate_interval(right.mean(0), own))


def summed(values: NDArray[np.float64], scale: Scale, support: int, least: int) -> dict[str, Any]:
    """Mean over trainings, its 95 % interval over slides, and the value of each training.

    Args:
        values: (trainings, 1 + R), see :mod:`wsikd.core.intervals`.
        scale: see there.
        support: slides that carry the figure.
        least: slides that an interval takes.
    """
    return _record(values[:, 0], interval(values.mean(0), scale, support=support, least=least))


def _record(each: NDArray[np.float64], between: tuple[float, float] | None) -> dict[str, Any]:
    return {
        "value": None if np.isnan(each).any() else float(each.mean()),
        "interval": None if between is None else list(between),
        "trainings": [None if np.isnan(v) else float(v) for v in each],
    }


def figures(said: Sequence[Said]) -> dict[str, Any]:
    """``auc``, ``sensitivity`` and ``specificity``, each as of :func:`summed`."""
    label = np.asarray(said[0]["label"])
    fewest = min(int((label == 1).sum()), int((label != 1).sum()))
    return {
        "slides": len(label),
        "auc": summed(areas(said, leave_out(len(label))), "slides", fewest, MIN_GROUPS_AUC),
        "sensitivity": rate(said, 1),
        "specificity": rate(said, 0),
    }


def difference(said: Sequence[Said], other: Sequence[Said]) -> dict[str, Any]:
    """AUC of one minus that of another, training by training on the same slides."""
    without = leave_out(len(said[0]["label"]))
    one, two = areas(said, without), areas(other, without)
    span = difference_interval(one.mean(0), two.mean(0), "slides", least=MIN_GROUPS_AUC_DIFFERENCE)
    return _record((one - two)[:, 0], span)


def agreement(said: Sequence[Said], other: Sequence[Said]) -> dict[str, Any]:
    """How far two decide alike: ``share`` and ``kappa``, means over trainings; kappa None where
    one of the trainings has none."""
    shares, kappas = [], []
    for one, two in zip(said, other, strict=True):
        a, b = np.asarray(one["decided"]), np.asarray(two["decided"])
        shares.append(float((a == b).mean()))
        kappas.append(kappa(confusion(a, b, 2), quadratic=False))
    whole = float(np.mean(kappas))
    return {"share": float(np.mean(shares)), "kappa": None if np.isnan(whole) else whole}
