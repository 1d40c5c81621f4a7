"""One process on any device, or several on CPUs: Lightning's Fabric without its import of 9 s."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel

if TYPE_CHECKING:
    from torch.optim import Optimizer

_CPU = torch.device("cpu")
_HALVES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class LossScale:
    """The scale of a loss in half precision; as ``lightning.fabric.plugins.MixedPrecision``."""

    def __init__(self, device: torch.device) -> None:
        """For one device."""
        self.scaler = GradScaler(device.type)

    def unscale_gradients(self, optimizer: Optimizer) -> None:
        """Undo it in the gradients, once a step."""
        self.scaler.unscale_(optimizer)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return self.scaler.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Load the state of a checkpoint."""
        self.scaler.load_state_dict(state_dict)


class OneProcess:
    """The part of ``lightning.fabric.Fabric`` that a training uses, for one device.

    Attributes:
        device: where it computes.
        scaling: scaling of the loss, with "16-mixed"; else None.
    """

    def __init__(self, precision: str, device: torch.device = _CPU) -> None:
        """Compute in "32-true", "bf16-mixed" or "16-mixed"."""
        self.device, self.half = device, _HALVES.get(precision)
        self.scaling = LossScale(device) if precision == "16-mixed" else None

    def launch(self) -> None:
        """There is no other process; a GPU becomes the one that PyTorch takes by default."""
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device.index or 0)

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
        """Compute the gradients of a loss, scaled in half precision."""
        if self.scaling is not None:
            loss = self.scaling.scaler.scale(loss)
        loss.backward()  # type: ignore[no-untyped-call]

    def step(self, optimizer: Optimizer) -> None:
        """Update the weights; in half precision not by gradients that are not finite."""
        if self.scaling is None:
            optimizer.step()
            return
        self.scaling.scaler.step(optimizer)
        self.scaling.scaler.update()

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of a forward pass."""
        if self.half is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.half)


class CpuProcesses(OneProcess):
    """The interface of :class:`OneProcess` for several CPU processes, started by ``torchrun``."""

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
        if self.process.half is not None:
            terms = {k: v.float() if v.is_floating_point() else v for k, v in terms.items()}
        return terms
