"""Candidate scores of a slide: fitted on the features of training slides, one number a slide."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wsikd.core.guard import fit_guard, slide_means

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Features = NDArray[np.float32]
    Slides = NDArray[np.str_]
    Score = Callable[[Features, Slides], NDArray[np.float64]]

CORESET, NEIGHBOURS, BEYOND = 500, 5, 0.99


def candidates(train: Features, slides: Slides) -> dict[str, Score]:
    """Name -> score of slides: (features (N, F), slide of each) -> float64 (S,)."""
    guard = fit_guard(train, slides.tolist(), train, slides.tolist())
    centre = train.mean(0, dtype=np.float64)
    covariance = np.cov(train.T.astype(np.float64))
    spread = np.trace(covariance) / len(covariance)
    shrunk = np.linalg.inv(0.9 * covariance + 0.1 * spread * np.eye(len(covariance)))
    loose = np.linalg.inv(np.diag(np.diag(covariance)) + 1e-3 * spread * np.eye(len(covariance)))
    rng = np.random.default_rng(0)
    coreset = train[rng.permutation(len(train))[:CORESET]] @ guard.axes
    limit = np.quantile(guard.distances(train), BEYOND)

    def quadratic(inverse: NDArray[np.float64], x: Features) -> NDArray[np.float64]:
        return np.asarray(np.einsum("nf,fg,ng->n", x - centre, inverse, x - centre))

    def nearest(x: Features) -> NDArray[np.float64]:
        own = x @ guard.axes
        square = (own**2).sum(1)[:, None] + (coreset**2).sum(1) - 2 * own @ coreset.T
        return np.sqrt(np.maximum(np.sort(square, 1)[:, NEIGHBOURS - 1], 0))

    fields: dict[str, Callable[[Features], NDArray[np.float64]]] = {
        "Mahalanobis in principal directions": guard.distances,
        "Mahalanobis, covariance shrunk by 0.1": lambda x: np.sqrt(quadratic(shrunk, x)),
        "relative Mahalanobis": lambda x: quadratic(shrunk, x) - quadratic(loose, x),
        "5th neighbour in a coreset": nearest,
    }
    found: dict[str, Score] = {
        f"{name}; mean of fields": lambda x, s, f=f: slide_means(f(x), s)
        for name, f in fields.items()
    }
    found["Mahalanobis in principal directions; share of fields beyond 99 %"] = (
        lambda x, s: slide_means((guard.distances(x) > limit).astype(float), s)
    )
    found["Mahalanobis in principal directions; of the mean field"] = lambda x, s: guard.distances(
        np.stack([slide_means(column, s) for column in x.T], 1).astype(np.float32)
    )
    return found
