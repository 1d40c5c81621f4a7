"""The interface of data for the training loop: samples, and batches on the device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from wsikd.learn.data.augment import Part
    from wsikd.learn.methods.base import Batch, Progress


class Samples(Protocol):
    """N samples to train on: patches, bags, regions, images."""

    @property
    def label(self) -> NDArray[np.int64]:
        """Class of each, int64 (N,)."""

    @property
    def digests(self) -> list[str]:
        """Identity of every source, sorted."""

    def indices(self, split: str) -> NDArray[np.int64]:
        """Indices of a split, int64."""

    def batches(
        self,
        order: NDArray[np.int64],
        size: int,
        *,
        threads: int = 2,
        read: Callable[[NDArray[np.int64]], torch.Tensor] | None = None,
    ) -> Iterator[tuple[torch.Tensor, NDArray[np.int64]]]:
        """The result of ``read`` for each batch, and the indices, in this order."""


class BatchMaker(Protocol):
    """Makes batches of samples that were read; see :class:`wsikd.learn.data.views.Views`."""

    def read(self, indices: NDArray[np.int64], /) -> torch.Tensor:
        """The input of :meth:`batch`."""

    def batch(
        self,
        images: torch.Tensor,
        indices: NDArray[np.int64],
        at: Progress | None,
        part: Part | None = None,
        /,
    ) -> Batch:
        """Views on the device; ``at`` draws the augmentation, None means none."""
