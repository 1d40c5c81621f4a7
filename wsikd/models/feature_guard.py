"""The guard of students trained with an early wsikd: distance in the network's own features.

The features of a field are the mean and the standard deviation of every channel of the network's
maps. Their distance from the training fields is that of P. C. Mahalanobis, isotropic outside the
principal directions of the training fields; a slide's distance is the mean over its fields. This
guard is still read, but no longer fitted: new students have the guard of ``wsikd.models.guard``.
It runs the network a second time, in PyTorch on the CPU. N fields, F features, B fields in a batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from wsikd.models.guard import ENOUGH

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from wsikd.models.graders.pooled import Grader


@dataclass(frozen=True)
class FeatureGuard:
    """The distribution of the training fields, and the threshold of a slide's distance from it.

    Attributes:
        mean: mean of the training fields, float32 (F,).
        scale: their standard deviation, float32 (F,).
        axes: float32 (F, K); ``(features - mean) / scale @ axes`` has unit variance in the
            training.
        rest: mean square per feature of a training field outside the K directions.
        threshold: mean distance beyond which a slide differs from the training.
        train_slides: slides of the training fields.
        val_slides: slides that the threshold was chosen on.
        network: makes the network.
    """

    mean: NDArray[np.float32]
    scale: NDArray[np.float32]
    axes: NDArray[np.float32]
    rest: float
    threshold: float
    train_slides: int
    val_slides: int
    network: Callable[[], Grader]

    @property
    def weak(self) -> bool:
        """Whether the threshold was chosen on too few validation slides."""
        return self.val_slides < ENOUGH

    def features(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Means of all channels of all maps, then deviations: (B, H, W, 3) -> (B, F)."""
        import torch

        with torch.inference_mode():
            pixels = torch.tensor(patches).permute(0, 3, 1, 2)
            names = tuple(self._grader.backbone.taps)
            found = self._grader.with_taps(pixels, names)[1]
            maps = [found[name] for name in names]
            means = torch.cat([one.mean((2, 3)) for one in maps], 1)
            squares = torch.cat([one.square().mean((2, 3)) for one in maps], 1)
            spreads = (squares - means.square()).clamp_min(0).sqrt()
            return np.asarray(torch.cat([means, spreads], 1).numpy(), np.float32)

    @cached_property
    def _grader(self) -> Grader:
        return self.network().eval()

    def distances(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Distance of each field: (N, F) -> float64 (N,)."""
        away = (features - self.mean) / self.scale
        along = away @ self.axes
        inside = np.einsum("nk,nk->n", along, along, dtype=np.float64)
        held = along / self.lengths  # components along axes of unit length
        left = np.einsum("nf,nf->n", away, away, dtype=np.float64)
        left -= np.einsum("nk,nk->n", held, held, dtype=np.float64)
        total = inside + np.maximum(left, 0) / self.rest
        return np.asarray(np.sqrt(total / len(self.mean)), np.float64)

    def reading(self) -> FeatureReading:
        """Measure a slide: make an object that receives its fields."""
        return FeatureReading(self)

    @cached_property
    def lengths(self) -> NDArray[np.float32]:
        """Lengths of the axes, (K,)."""
        return np.asarray(np.maximum(np.linalg.norm(self.axes, axis=0), 1e-12), np.float32)


@dataclass
class FeatureReading:
    """Measures a slide's distance from its fields, which it receives batch by batch."""

    guard: FeatureGuard
    _sum: float = field(default=0.0, init=False)
    _fields: int = field(default=0, init=False)

    def watch(self, index: NDArray[np.int64], count: int, patches: NDArray[np.uint8]) -> None:
        """Receive a batch; see :class:`wsikd.models.guard.Reading`."""
        self._sum += float(self.guard.distances(self.guard.features(patches)).sum())
        self._fields += len(patches)

    @property
    def distance(self) -> float | None:
        """The slide's distance, in multiples of the threshold; None without a field."""
        if not self._fields:
            return None
        return self._sum / self._fields / max(self.guard.threshold, 1e-12)
