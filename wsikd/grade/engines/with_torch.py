"""PyTorch without a graph: the reference, and the engine for GPUs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from wsikd.models.device import pick_device, upload
from wsikd.models.in_flight import Lane, most_in_flight
from wsikd.models.memory import Halved

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from wsikd.grade.engines import Network, Place


HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class TorchEngine:
    """PyTorch, channels last; bf16 and fp16 by autocast; pinned copies to a GPU."""

    name = "torch"
    bf16 = fp16 = True

    def __init__(self, network: Network, place: Place) -> None:
        """Move the network to its device.

        Raises:
            ConfigError: there is no such device.
        """
        self.precision = place.precision
        self.device = pick_device(place.device)
        module = network.build().eval().to(self.device)
        self.module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.in_flight = most_in_flight(self.device)
        self._half = HALVES.get(self.precision)
        if self.device.type == "cuda" and self._half is not None:
            cast_once(self.module, self._half)
        self._lane = Lane(self.device)
        self._halved = Halved(self._run, self.device)

    def __call__(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits of uint8 (B, patch_px, patch_px, 3), in parts if memory is short.

        Raises:
            ConfigError: the device has not enough memory for one patch.
        """
        return self._halved(patches)

    def submit(self, patches: NDArray[np.uint8]) -> Callable[[], NDArray[np.float32]]:
        """Start a batch; the result waits for its logits. ``patches`` may then be overwritten.

        On a GPU the next batch is read and sent while this one is computed.
        """
        if self.device.type != "cuda" or self._halved.most is not None:
            return partial(_given, self(patches))
        try:
            return self._started(patches)
        except torch.OutOfMemoryError:
            return partial(_given, self(patches))

    @torch.inference_mode()
    def _started(self, patches: NDArray[np.uint8]) -> Callable[[], NDArray[np.float32]]:
        return self._lane.start(patches, self._logits)

    @torch.inference_mode()
    def _run(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits = self._logits(upload(torch.from_numpy(patches), self.device))
        return np.asarray(logits.cpu().numpy(), np.float32)

    def _logits(self, batch: torch.Tensor) -> torch.Tensor:
        """Float32 outputs of uint8 (B, patch_px, patch_px, 3)."""
        with torch.autocast(
            self.device.type, self._half, enabled=self._half is not None, cache_enabled=False
        ):
            return self.forward(batch.permute(0, 3, 1, 2)).float()

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Logits of uint8 (B, 3, patch_px, patch_px), channels last."""
        return self.module(batch)  # type: ignore[no-any-return]


def cast_once(network: nn.Module, dtype: torch.dtype = torch.bfloat16) -> None:
    """Give the layers that autocast computes in ``dtype`` weights of it, in place.

    Autocast rounds the same weights for each batch, to the same values.
    """
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            for parameter in layer.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)


def _given(found: NDArray[np.float32]) -> NDArray[np.float32]:
    return found
