"""Patches, or their averages, that are held on the device: batches are then gathered there."""

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
    """Bytes that data may take on a device; none on a CPU, which has them already.

    Args:
        asked: in 1e9 bytes; "auto": half of what is free.
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
        rows: row of each sample's index.
    """

    values: Tensor
    rows: dict[int, int]

    def find(self, indices: Sequence[int] | NDArray[np.int64]) -> Tensor | None:
        """Rows of samples, int64 (B,) on the CPU; None unless all are here."""
        found = [self.rows.get(int(i)) for i in indices]
        return None if None in found else torch.tensor(found, dtype=torch.int64)

    def take(self, rows: Tensor) -> Tensor:
        """Samples by :meth:`find`: (B, ...), on the device."""
        return self.values[upload(rows, self.values.device)]
