"""Is a slide like those that a network learnt from, as its own features show it?

The features of a field are the mean and the standard deviation of every channel of the network's
maps. Their distance from the training fields is that of P. C. Mahalanobis, isotropic outside the
principal directions of the training fields; a slide's is the mean over its fields. The threshold
comes from validation slides, which the network did not learn from: docs/decisions/0021-guard.md.
N fields, F features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

FALSE_ALARMS = 0.025
"""Share of slides like the training that the threshold is meant to withhold."""
ENOUGH = 19
"""Validation slides below which a guard is weak: the greatest of so many is passed by 5 %."""
WEAK_FACTOR = 2.0
"""A weak guard's threshold: this many times the greatest distance of a validation slide."""
MOST_DIRECTIONS = 64
_TINY, _LEAST = 1e-6, 1e-3


@dataclass(frozen=True)
class Guard:
    """Where the training fields lie, and how far a slide may be.

    Attributes:
        mean: of the training fields, float32 (F,).
        scale: their standard deviation, float32 (F,).
        axes: float32 (F, K); ``(features - mean) / scale @ axes`` has unit variance in the
            training.
        rest: mean square per feature that the K directions leave of a training field.
        threshold: mean distance beyond which a slide differs from the training.
        train_slides: slides of the training fields.
        val_slides: slides that the threshold was chosen on.
    """

    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    axes: NDArray[np.float32]
    rest: float
    threshold: float
    train_slides: int
    val_slides: int

    @property
    def weak(self) -> bool:
        """Whether too few validation slides carry the threshold."""
        return self.val_slides < ENOUGH

    def distances(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Distance of each field: (N, F) -> float64 (N,)."""
        away = (features - self.mean) / self.scale
        along = away @ self.axes
        inside = np.einsum("nk,nk->n", along, along, dtype=np.float64)
        held = along / self.lengths  # away, along axes of length 1
        left = np.einsum("nf,nf->n", away, away, dtype=np.float64)
        left -= np.einsum("nk,nk->n", held, held, dtype=np.float64)
        total = inside + np.maximum(left, 0) / self.rest
        return np.asarray(np.sqrt(total / len(self.mean)), np.float64)

    @cached_property
    def lengths(self) -> NDArray[np.float32]:
        """Of the axes, (K,)."""
        return np.asarray(np.maximum(np.linalg.norm(self.axes, axis=0), 1e-12), np.float32)


@dataclass
class Reading:
    """Takes the distances of a slide's fields while they pass by."""

    guard: Guard
    _sum: float = field(default=0.0, init=False)
    _fields: int = field(default=0, init=False)

    def __call__(self, features: NDArray[np.float32]) -> None:
        """Look at a batch: features (B, F)."""
        self._sum += float(self.guard.distances(features).sum())
        self._fields += len(features)

    @property
    def distance(self) -> float | None:
        """Of the slide; None without a field."""
        return self._sum / self._fields if self._fields else None

    @property
    def beyond(self) -> bool:
        """Whether the slide differs from the training."""
        return self.distance is not None and self.distance > self.guard.threshold


def fit_guard(
    train: NDArray[np.float32],
    train_slides: Sequence[str],
    val: NDArray[np.float32],
    val_slides: Sequence[str],
) -> Guard:
    """Fit a guard; every slide weighs the same.

    Args:
        train: features of training fields, (N, F).
        train_slides: the slide of each.
        val: features of fields of other slides, (M, F).
        val_slides: the slide of each.
    """
    mean, scale, axes, rest = _directions(train.astype(np.float64), _weights(train_slides))
    own = Guard(mean, scale, axes, rest, math.inf, len(set(train_slides)), len(set(val_slides)))
    return replace(own, threshold=threshold(slide_means(own.distances(val), val_slides)))


def threshold(distances: NDArray[np.float64]) -> float:
    """How far a slide may be, from the distances of slides that are like the training.

    From ``ENOUGH`` slides on the greater of two: the order statistic that a further slide passes
    with a probability of ``FALSE_ALARMS`` at most (the greatest where slides are too few for it),
    and the prediction limit of a normal distribution of the logarithms at the same probability.
    Below ``ENOUGH``, ``WEAK_FACTOR`` times the greatest.

    Args:
        distances: one a slide, float64 (S,), S >= 1.
    """
    from scipy.special import stdtrit

    count, ordered = len(distances), np.sort(distances)
    if count < ENOUGH:
        return float(WEAK_FACTOR * ordered[-1])
    rank = min(math.ceil((count + 1) * (1 - FALSE_ALARMS)), count)
    logs = np.log(np.maximum(ordered, 1e-12))
    spread = float(logs.std(ddof=1)) * math.sqrt(1 + 1 / count)
    limit = math.exp(logs.mean() + float(stdtrit(count - 1, 1 - FALSE_ALARMS)) * spread)
    return float(max(ordered[rank - 1], limit))


def slide_means(
    values: NDArray[np.float64], slides: Sequence[str] | NDArray[np.str_]
) -> NDArray[np.float64]:
    """Mean of each slide, in the order of their names: (N,) -> float64 (S,)."""
    _, place, count = np.unique(np.asarray(slides), return_inverse=True, return_counts=True)
    return np.bincount(place, values) / count


def _weights(slides: Sequence[str]) -> NDArray[np.float64]:
    _, place, count = np.unique(np.asarray(slides), return_inverse=True, return_counts=True)
    weight = 1 / count[place]
    return np.asarray(weight / weight.sum(), np.float64)


def _directions(
    features: NDArray[np.float64], weight: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], float]:
    """Mean, standard deviation, whitened principal directions, and the mean square of the rest."""
    mean = weight @ features
    scale = np.sqrt(weight @ (features - mean) ** 2)
    scale = np.maximum(scale, max(_TINY, 1e-3 * float(np.median(scale))))
    away = (features - mean) / scale
    variance, vectors = np.linalg.eigh((away * weight[:, None]).T @ away)
    variance, vectors = np.maximum(variance[::-1], 0), vectors[:, ::-1]
    count = min(MOST_DIRECTIONS, len(variance) // 2)
    rest = max(float(variance[count:].mean()), _LEAST)
    axes = vectors[:, :count] / np.sqrt(np.maximum(variance[:count], rest))
    return mean.astype(np.float32), scale.astype(np.float32), axes.astype(np.float32), rest
