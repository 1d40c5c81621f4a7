"""Computes batches in smaller parts when the device runs out of memory."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import torch

from wsikd.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

log = logging.getLogger(__name__)


class Halved:
    """Computes batches; each time the device runs out of memory, it halves the size of the parts.

    Attributes:
        most: greatest number of patches that are computed at once; None: any number.
    """

    def __init__(
        self, run: Callable[[NDArray[np.uint8]], NDArray[np.float32]], device: torch.device
    ) -> None:
        """Wrap ``run``, which maps uint8 (B, height, width, 3) to float32 (B, D)."""
        self.run, self.device = run, device
        self.most: int | None = None

    def __call__(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Apply ``run`` to a batch, as a whole or in parts.

        Raises:
            ConfigError: not even one patch fits.
        """
        while True:
            size = min(len(patches), self.most or len(patches))
            try:
                parts = [self.run(patches[i : i + size]) for i in range(0, len(patches), size)]
            except torch.OutOfMemoryError as error:
                self._shrink(size, patches.shape[1], error)
            else:
                return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _shrink(self, size: int, side: int, error: Exception) -> None:
        if size == 1:
            raise ConfigError(
                f"--device {self.device}", f"has no memory for one patch of {side} px",
                "give --device cpu, or free the device",
            ) from error  # fmt: skip
        self.most = size // 2
        log.warning(
            "%s has no memory for %d patches at once; %d from now on", self.device, size, self.most
        )
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
