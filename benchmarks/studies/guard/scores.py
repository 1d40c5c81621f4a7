"""Candidate scores of a slide: fitted on the features of training slides, one number a slide."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from wsikd.models.guard import fit_guard, slide_means

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]
    Features = NDArray[np.float32]
    Slides = NDArray[np.str_]
    Field = Callable[[Features], Numbers]
    Score = Callable[[Features, Slides], Numbers]

CORESET, NEIGHBOURS, BEYOND, DEEPEST = 500, 5, 0.99, 64
"""The last is the number of channels of the network's deepest map."""


def candidates(train: Features, slides: Slides) -> dict[str, Score]:
    """Name -> score of slides: (features (N, F), slide of each) -> float64 (S,)."""
    half = train.shape[1] // 2
    deep = np.arange(half - DEEPEST, half)
    found: dict[str, Score] = {}
    for which, columns in (("all maps", np.arange(2 * half)), ("deepest map", deep)):
        for name, field in _fields(train[:, columns], slides).items():
            found[f"{name}, {which}; mean of fields"] = partial(_mean, field, columns)
            found[f"{name}, {which}; mean field"] = partial(_of_mean, field, columns)
    field = _fields(train, slides)["Mahalanobis"]
    limit = float(np.quantile(field(train), BEYOND))
    found["Mahalanobis, all maps; share of fields beyond 99 %"] = partial(_share, field, limit)
    return found


def _fields(train: Features, slides: Slides) -> dict[str, Field]:
    guard = fit_guard(train, slides.tolist(), train, slides.tolist())
    away = ((train - guard.mean) / guard.scale).astype(np.float64)
    covariance = np.cov(away.T)
    shrunk = np.linalg.inv(0.9 * covariance + 0.1 * np.eye(len(covariance)))
    order = np.random.default_rng(0).permutation(len(away))[:CORESET]
    coreset = away[order]

    def standard(x: Features) -> Numbers:
        return np.asarray((x - guard.mean) / guard.scale, np.float64)

    def full(x: Features) -> Numbers:
        z = standard(x)
        return np.asarray(np.sqrt(np.einsum("nf,nf->n", z @ shrunk, z)), np.float64)

    def relative(x: Features) -> Numbers:
        return np.asarray(full(x) / np.linalg.norm(standard(x), axis=1), np.float64)

    def nearest(x: Features) -> Numbers:
        z = standard(x)
        square = (z**2).sum(1)[:, None] + (coreset**2).sum(1) - 2 * z @ coreset.T
        near = np.partition(square, NEIGHBOURS - 1, axis=1)[:, NEIGHBOURS - 1]
        return np.asarray(np.sqrt(np.maximum(near, 0)), np.float64)

    return {
        "Mahalanobis": guard.distances,
        "Mahalanobis, full covariance shrunk by 0.1": full,
        "relative Mahalanobis": relative,
        "5th neighbour": nearest,
    }


def _mean(field: Field, columns: NDArray[np.int64], x: Features, slides: Slides) -> Numbers:
    return slide_means(field(x[:, columns]), slides)


def _of_mean(field: Field, columns: NDArray[np.int64], x: Features, slides: Slides) -> Numbers:
    means = [slide_means(x[:, c].astype(np.float64), slides) for c in columns]
    return field(np.stack(means, 1).astype(np.float32))


def _share(field: Field, limit: float, x: Features, slides: Slides) -> Numbers:
    return slide_means((field(x) > limit).astype(np.float64), slides)
