"""PyTorch without a graph: the reference, and the engine for GPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from wsikd.models.device import pick_device
from wsikd.models.memory import Halved

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsikd.grade.engines import Network, Place


class TorchEngine:
    """PyTorch, channels last; bf16 by autocast; pinned copies to a GPU."""

    name = "torch"
    bf16 = True

    def __init__(self, network: Network, place: Place) -> None:
        """Move the network to its device.

        Raises:
            ConfigError: there is no such device.
        """
        self.precision = place.precision
        self.device = pick_device(place.device)
        module = network.build().eval().to(self.device)
        self.module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._halved = Halved(self._run, self.device)

    def __call__(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits of uint8 (B, patch_px, patch_px, 3), in parts if memory is short.

        Raises:
            ConfigError: the device has not enough memory for one patch.
        """
        return self._halved(patches)

    @torch.inference_mode()
    def _run(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        batch = torch.from_numpy(patches)
        if self.device.type == "cuda":
            batch = batch.pin_memory().to(self.device, non_blocking=True)
        batch = batch.to(self.device).permute(0, 3, 1, 2)
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.precision == "bf16", cache_enabled=False
        ):
            logits = self.forward(batch)
        return np.asarray(logits.float().cpu().numpy(), np.float32)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Logits of uint8 (B, 3, patch_px, patch_px), channels last."""
        return self.module(batch)  # type: ignore[no-any-return]
