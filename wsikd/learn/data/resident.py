"""Patches, or their averages, held on the device, where batches are gathered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from wsikd.models.device import upload

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

DEVICE_SHARE = 0.5
"""Share of a GPU's free memory for data; the rest is for networks and their computation."""


def budget_of(asked: float | Literal["auto"], device: torch.device) -> int:
    """Bytes that data may take on a device; 0 on a CPU, whose memory has them already.

    Args:
        asked: size in 1e9 bytes; "auto": half of the free memory.
        device: device of the training.
    """
    if device.type != "cuda":
        return 0
    if asked != "auto":
        return int(asked * 1e9)
    free, _ = torch.cuda.mem_get_info(device)
    return int(free * DEVICE_SHARE)


@dataclass(frozen=True)
class Resident:
    """Samples on a device.

    Attributes:
        values: (N, ...), on the device.
        rows: index of a sample -> its row.
    """

    values: Tensor
    rows: dict[int, int]

    def find(self, indices: Sequence[int] | NDArray[np.int64]) -> Tensor | None:
        """Rows of samples, int64 (B,) on the CPU; None unless all are on the device."""
        found = [self.rows.get(int(i)) for i in indices]
        return None if None in found else torch.tensor(found, dtype=torch.int64)

    def take(self, rows: Tensor) -> Tensor:
        """The samples of ``rows``: (B, ...), on the device."""
        return self.values[upload(rows, self.values.device)]
