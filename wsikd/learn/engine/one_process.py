"""Processes on a CPU, one or several: Lightning's Fabric without the 9 s that its import takes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

if TYPE_CHECKING:
    from torch.optim import Optimizer


class OneProcess:
    """The part of ``lightning.fabric.Fabric`` that a training uses, for one CPU.

    Attributes:
        device: the CPU.
    """

    device = torch.device("cpu")

    def __init__(self, precision: str) -> None:
        """Compute in "32-true" or "bf16-mixed"."""
        self.mixed = precision == "bf16-mixed"

    def launch(self) -> None:
        """Nothing: there is no other process."""

    def setup(self, module: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
        """The module with its forward pass in the precision, and the optimiser as it is."""
        return _InPrecision(module, self), optimizer

    def no_backward_sync(
        self,
        module: nn.Module,
        *,
        enabled: bool,
    ) -> AbstractContextManager[None]:
        """Nothing: gradients are not shared."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of a loss."""
        loss.backward()  # type: ignore[no-untyped-call]

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of a forward pass."""
        return torch.autocast("cpu", dtype=torch.bfloat16) if self.mixed else nullcontext()


class CpuProcesses(OneProcess):
    """The same for several processes on CPUs, as ``torchrun`` starts them."""

    def __init__(self, precision: str, *, idle: bool) -> None:
        """Compute in "32-true" or "bf16-mixed"; ``idle`` parameters may have no gradient."""
        super().__init__(precision)
        self.idle = idle

    def launch(self) -> None:
        """Meet the other processes, which the environment names."""
        torch.distributed.init_process_group("gloo")

    def setup(self, module: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
        """The module, whose gradients are means over the processes, and the optimiser as it is."""
        shared = DistributedDataParallel(module, find_unused_parameters=self.idle)
        return super().setup(shared, optimizer)

    def no_backward_sync(
        self,
        module: nn.Module,
        *,
        enabled: bool,
    ) -> AbstractContextManager[None]:
        """Keep gradients to this process in the block, where ``enabled``."""
        if not enabled:
            return nullcontext()
        assert isinstance(module, _InPrecision)
        assert isinstance(module.module, DistributedDataParallel)
        return module.module.no_sync()


class _InPrecision(nn.Module):
    """A module computed under autocast; the terms it returns are float32."""

    def __init__(self, module: nn.Module, process: OneProcess) -> None:
        super().__init__()
        self.module, self.process = module, process

    def forward(self, *given: Any) -> dict[str, Tensor]:
        with self.process.autocast():
            terms: dict[str, Tensor] = self.module(*given)
        if self.process.mixed:
            terms = {k: v.float() if v.is_floating_point() else v for k, v in terms.items()}
        return terms
