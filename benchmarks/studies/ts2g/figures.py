"""Figures of a study of TS2G-KD over its seeds, with intervals over its test slides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.core.agreement import confusion, kappa
from wsikd.core.resampling import auc, interval, multiplicities

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeAlias

    from numpy.typing import NDArray

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


def rates(said: Sequence[Said], times: NDArray[Any], truth: int) -> NDArray[np.float64]:
    """Share of the slides of a class that are decided so, by training: (trainings, R)."""
    found = []
    for one in said:
        own = (np.asarray(one["label"]) == truth).astype(float)
        right = own * (np.asarray(one["decided"]) == truth)
        total = times @ own
        found.append(np.where(total > 0, times @ right / np.maximum(total, 1), np.nan))
    return np.stack(found)


def summed(measured: Callable[[NDArray[Any]], NDArray[np.float64]], slides: int) -> dict[str, Any]:
    """Mean over trainings, its 95 % interval over slides, and the value of each training.

    Args:
        measured: gives (trainings, R) of (R, slides).
        slides: how many.
    """
    each = measured(np.ones((1, slides), np.int64))[:, 0]
    between = interval(measured(multiplicities(slides)).mean(0)) if slides > 1 else None
    return {
        "value": None if np.isnan(each).any() else float(each.mean()),
        "interval": None if between is None else list(between),
        "trainings": [None if np.isnan(v) else float(v) for v in each],
    }


def figures(said: Sequence[Said]) -> dict[str, Any]:
    """``auc``, ``sensitivity`` and ``specificity``, each as of :func:`summed`."""
    slides = len(said[0]["label"])
    return {
        "slides": slides,
        "auc": summed(lambda t: areas(said, t), slides),
        "sensitivity": summed(lambda t: rates(said, t, 1), slides),
        "specificity": summed(lambda t: rates(said, t, 0), slides),
    }


def difference(said: Sequence[Said], other: Sequence[Said]) -> dict[str, Any]:
    """AUC of one minus that of another, training by training on the same resamples."""
    return summed(lambda t: areas(said, t) - areas(other, t), len(said[0]["label"]))


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
