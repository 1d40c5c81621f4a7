"""k-means in every slide at once: slides are filled up to one length and clustered as a batch.

Euclidean on vectors of length 1, with centroids scaled to length 1 at the end, as in SLPD (section
2.2); ``spherical`` scales them in every iteration instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

_CHUNK_BYTES = 1 << 26
_EQUAL = 1e-5


@dataclass(frozen=True)
class KMeans:
    """How each slide is clustered.

    Attributes:
        clusters: K, at most the regions of the smallest slide that is clustered.
        iterations: number of iterations of each start.
        restarts: starts from other regions; the one with the least squared distance is kept.
        points_per_cluster: centroids are found from at most K times so many regions of a slide.
        spherical: assign by cosine and scale centroids in every iteration.
        seed: seed of the starts.
    """

    clusters: int
    iterations: int = 10
    restarts: int = 5
    points_per_cluster: int = 1000
    spherical: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Clusters:
    """The clusters of N slides with R regions of width D.

    Attributes:
        centroids: float32 (N, K, D), of length 1; zeros in slides that were left out.
        assignment: int64 (R,), cluster of each region; -1 in slides that were left out.
        closeness: float32 (R,), cosine of a region and its centroid; NaN as before.
    """

    centroids: NDArray[np.float32]
    assignment: NDArray[np.int64]
    closeness: NDArray[np.float32]


def cluster_slides(
    features: NDArray[np.float32],
    slide_index: NDArray[np.int64],
    valid: NDArray[np.bool_],
    how: KMeans,
    *,
    device: torch.device | str = "cpu",
) -> Clusters:
    """Cluster the regions of each slide by themselves.

    Slides of like size are clustered together, as many as a bounded amount of memory takes, so what
    is required beside ``features`` does not grow with the number of slides.

    Args:
        features: float32 (R, D), of length 1, slide by slide.
        slide_index: int64 (R,), not falling.
        valid: bool (N,), the slides to be clustered; each has ``how.clusters`` regions or more.
        how: see :class:`KMeans`.
        device: device that computes.
    """
    slides, k, dim = len(valid), how.clusters, features.shape[1]
    found = Clusters(
        np.zeros((slides, k, dim), np.float32),
        np.full(len(features), -1, np.int64),
        np.full(len(features), np.nan, np.float32),
    )
    counts = np.bincount(slide_index, minlength=slides)
    first = np.concatenate([[0], np.cumsum(counts)[:-1]])
    for chosen in _chunks(counts, valid, dim):
        longest = int(counts[chosen].max())
        place = np.arange(longest)
        mask = place < counts[chosen, None]  # (S, n)
        rows = np.minimum(first[chosen, None] + place, len(features) - 1)
        x = torch.from_numpy(features[rows] * mask[..., None]).to(device)
        starts, weight = _draw(chosen, counts, longest, how)
        centroids = _fit(x, torch.from_numpy(weight).to(device), starts.to(device), how)
        assigned = _best_scores(x, centroids, how)[1][..., 0]
        centroids = functional.normalize(centroids, dim=2)
        own = centroids.gather(1, assigned[..., None].expand(-1, -1, dim))
        closeness = (functional.normalize(x, dim=2) * own).sum(2)
        found.centroids[chosen] = centroids.cpu().numpy()
        found.assignment[rows[mask]] = assigned.cpu().numpy()[mask]
        found.closeness[rows[mask]] = closeness.cpu().numpy()[mask]
    return found


def _chunks(
    counts: NDArray[np.int64], valid: NDArray[np.bool_], dim: int
) -> Iterator[NDArray[np.int64]]:
    """Slides that are clustered together, from the largest to the smallest."""
    order = np.flatnonzero(valid)
    order = order[np.argsort(-counts[order], kind="stable")]
    while len(order):
        size = max(1, _CHUNK_BYTES // int(4 * dim * counts[order[0]]))
        yield order[:size]
        order = order[size:]


def _draw(
    slides: NDArray[np.int64], counts: NDArray[np.int64], longest: int, how: KMeans
) -> tuple[Tensor, NDArray[np.float32]]:
    """Regions that each start begins from, (restarts, S, K), and the weight of each, (S, n)."""
    starts = np.empty((how.restarts, len(slides), how.clusters), np.int64)
    weight = np.zeros((len(slides), longest), np.float32)
    for row, slide in enumerate(slides.tolist()):
        rng = np.random.default_rng((how.seed, slide))
        used = rng.permutation(counts[slide])[: how.points_per_cluster * how.clusters]
        weight[row, used] = 1
        for start in starts[:, row]:
            start[:] = rng.choice(used, how.clusters, replace=False)
    return torch.from_numpy(starts), weight


def _fit(x: Tensor, weight: Tensor, starts: Tensor, how: KMeans) -> Tensor:
    """The best of several starts: x (S, n, D), weight (S, n), starts (T, S, K) -> (S, K, D).

    The starts run side by side, so that each iteration reads the regions once.
    """
    slides, _, dim = x.shape
    chosen = starts.transpose(0, 1).reshape(slides, -1)
    centroids = x.gather(1, chosen[..., None].expand(-1, -1, dim))  # (S, T K, D)
    for _ in range(how.iterations):
        centroids = _moved(x, weight, centroids, how)
    # minus the mean squared distance, but for a constant; of equal ones the first
    score = (_best_scores(x, centroids, how)[0] * weight[..., None]).sum(1)
    score = score / weight.sum(1, keepdim=True)
    best = (score >= score.amax(1, keepdim=True) - _EQUAL).int().argmax(1)
    every = centroids.view(slides, len(starts), how.clusters, dim)
    return every[torch.arange(slides, device=x.device), best]


def _moved(x: Tensor, weight: Tensor, centroids: Tensor, how: KMeans) -> Tensor:
    """One iteration; a centroid that nothing is nearest to stays where it is."""
    nearest = _best_scores(x, centroids, how)[1]  # (S, n, T)
    member = functional.one_hot(nearest, how.clusters).to(x.dtype) * weight[..., None, None]
    member = member.flatten(2)  # (S, n, T K)
    size = member.sum(1)[..., None]
    mean = member.transpose(1, 2) @ x / size.clamp_min(1)
    moved = torch.where(size > 0, mean, centroids)
    return functional.normalize(moved, dim=2) if how.spherical else moved


def _best_scores(x: Tensor, centroids: Tensor, how: KMeans) -> tuple[Tensor, Tensor]:
    """Score and number of each region's nearest centroid, of each start: (S, n, T)."""
    scores = _scores(x, centroids, spherical=how.spherical)
    found = scores.unflatten(2, (-1, how.clusters)).max(3)  # type: ignore[no-untyped-call]
    return found.values, found.indices


def _scores(x: Tensor, centroids: Tensor, *, spherical: bool) -> Tensor:
    """(S, n, K), the highest where a centroid is nearest."""
    products = x @ centroids.transpose(1, 2)
    if spherical:
        return products
    return 2 * products - centroids.square().sum(2)[:, None]
