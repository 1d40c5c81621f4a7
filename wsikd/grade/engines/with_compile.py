"""PyTorch's compiler: for long runs, since it takes tens of seconds to start."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import torch

from wsikd.core.errors import ConfigError
from wsikd.grade.engines.with_torch import TorchEngine

if TYPE_CHECKING:
    from wsikd.grade.engines import Network, Place

_COMPILERS = ("c++", "g++", "clang++", "cl")


class CompileEngine(TorchEngine):
    """``torch.compile``, once for each full batch size; a slide's last batch is padded."""

    name = "compile"

    def __init__(self, network: Network, place: Place) -> None:
        """Wrap the network; it is compiled at its first batch.

        Raises:
            ConfigError: there is no such device, or, on a CPU, no C++ compiler.
        """
        super().__init__(network, place)
        if self.device.type == "cpu" and not any(map(shutil.which, _COMPILERS)):
            raise ConfigError(
                "--engine compile", "no C++ compiler was found", "install g++, or omit --engine"
            )
        graphs = "reduce-overhead" if self.device.type == "cuda" else None  # CUDA graphs
        self._compiled: Any = torch.compile(self.module, dynamic=False, mode=graphs)
        self._full = 0

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Logits; a smaller last batch is padded, since compiling takes long."""
        count = len(batch)
        if count < self._full:
            filler = batch[:1].expand(self._full - count, -1, -1, -1)
            batch = torch.cat([batch, filler]).contiguous(memory_format=torch.channels_last)
        self._full = len(batch)
        return self._compiled(batch)[:count]  # type: ignore[no-any-return]
