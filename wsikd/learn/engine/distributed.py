"""Processes that train one network together, as ``torchrun`` starts them, or a single one.

Each batch is divided among them; files are written by the first alone, and what it finds wrong is
raised in all, so that none waits for another that has gone.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from wsikd.core.errors import ConfigError, WsikdError
from wsikd.core.ranks import processes as processes
from wsikd.core.ranks import rank as rank
from wsikd.core.ranks import refuse_team as refuse_team
from wsikd.core.ranks import refuse_unlaunched
from wsikd.learn.engine.one_process import CpuProcesses, LossScale, OneProcess
from wsikd.models.device import computes_bf16, pick_device
from wsikd.models.shared_norm import share_norms

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from lightning.fabric import Fabric
    from lightning.fabric.plugins import MixedPrecision

    from wsikd.learn.engine.settings import Training

T = TypeVar("T")
E = TypeVar("E", bound=WsikdError)
C = TypeVar("C", bound="Training")

_left: list[object] = []
"""Groups that were left. Were the last reference to one of gloo's dropped, its threads would be
waited for under Python's lock, which they may wait for themselves."""


class Team:
    """The processes of one training.

    Attributes:
        fabric: knows the device, the precision and the other processes.
        size: how many processes there are.
        rank: number of this one, 0 the first.
        scaling: of the loss in half precision, whose state belongs into a checkpoint; else None.
    """

    scaling: LossScale | MixedPrecision | None = None

    def __init__(self, config: Training, device: str) -> None:
        """Join the others, if any; a context manager, which leaves them at its end.

        Args:
            config: configuration of the training; its precision, its batch and its terms count.
            device: "auto", "cpu" or "cuda:0"; several processes take a GPU each.

        Raises:
            ConfigError: the device is not there, cannot compute in that precision, or cannot be
                shared; or the batch does not divide.
        """
        refuse_unlaunched()
        self.size, self.rank = processes(), rank()
        where = pick_device(device)
        if where.type == "cuda":
            where = torch.device("cuda", where.index or 0)
        _check(config, where, device, self.size)
        self.fabric: Fabric | OneProcess
        # without labels the head may have no gradient, but for slpd's
        idle = not (config.weights.get("ce") or "dino" in config.weights)
        if self.size == 1:
            self.fabric = OneProcess(config.optim.precision, where)
            self.scaling = self.fabric.scaling
        elif where.type == "cpu":
            self.fabric = CpuProcesses(config.optim.precision, idle=idle)
        else:
            self.fabric = self._fabric(config, where, idle=idle)

    def _fabric(self, config: Training, where: torch.device, *, idle: bool) -> Fabric:
        """For several GPUs."""
        from lightning.fabric import Fabric
        from lightning.fabric.strategies.ddp import DDPStrategy

        here = int(os.environ["LOCAL_WORLD_SIZE"])
        more: dict[str, Any] = {"num_nodes": self.size // here, "devices": here}
        more["strategy"] = DDPStrategy(
            find_unused_parameters=idle,
            broadcast_buffers=False,  # norms are shared, and kept targets do not change
            gradient_as_bucket_view=True,
        )
        if config.optim.precision == "16-mixed":
            from lightning.fabric.plugins import MixedPrecision

            self.scaling = MixedPrecision("16-mixed", device=where.type)
            more["plugins"] = [self.scaling]
        else:
            more["precision"] = config.optim.precision
        return Fabric(accelerator=where.type, **more)

    def __enter__(self) -> Self:
        """Meet the others."""
        for name in ("lightning", "lightning.fabric", "lightning.pytorch"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self.fabric.launch()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave them: together after work that went well."""
        if self.size > 1 and torch.distributed.is_initialized():
            if error is None:
                torch.distributed.barrier()
            _left.append(torch.distributed.group.WORLD)
            torch.distributed.destroy_process_group()

    def setup(
        self, module: torch.nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        """The module and its optimiser, in the precision and for all processes."""
        made: Any = self.fabric.setup(module, optimizer)
        return made[0], made[1]

    @property
    def fuses(self) -> bool:
        """Whether the optimiser updates all weights at once on the device.

        It does on GPUs, but where Lightning scales the loss, whose clipping refuses it.
        """
        lightning_scales = self.scaling is not None and not isinstance(self.scaling, LossScale)
        return self.device.type == "cuda" and not lightning_scales

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Update the weights."""
        if isinstance(self.fabric, OneProcess):
            self.fabric.step(optimizer)
        else:
            optimizer.step()

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self.fabric.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def first(self, work: Callable[[], T]) -> T:
        """Run ``work`` in the first process; all get its result, or raise its WsikdError."""
        if self.size == 1:
            return work()
        shared: list[Any] = [None, None]
        if self.is_first:
            try:
                shared = [work(), None]
            except WsikdError as error:
                shared = [None, error]
        torch.distributed.broadcast_object_list(shared, src=0, device=self._carrier)
        if shared[1] is not None:
            raise self.reported_once(shared[1])
        return shared[0]  # type: ignore[no-any-return]

    def reported_once(self, error: E) -> E:
        """An error that every process raises, marked so that only the first reports it."""
        error.elsewhere = not self.is_first
        return error

    def gather(self, mine: T) -> list[T]:
        """The values of all processes, in their order."""
        if self.size == 1:
            return [mine]
        found: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(found, mine)
        return found

    def any(self, *, here: bool) -> bool:
        """Whether it is so in some process."""
        if self.size == 1:
            return here
        flag = torch.tensor([float(here)], device=self.device)
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
        return bool(flag.item())

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """Mean over the processes of each value."""
        parts = self.gather(values)
        return {k: sum(part[k] for part in parts) / self.size for k in values}

    def share_norms(self, network: torch.nn.Module) -> None:
        """Let batch norm see the whole batch, not this process's part; changes the network."""
        if self.size > 1:  # PyTorch's own has no second derivative, which AT+ takes
            share_norms(network)

    def average_buffers(self, module: torch.nn.Module) -> None:
        """Give every process the mean of running statistics, of norms that are not shared."""
        if self.size == 1:
            return
        for buffer in module.buffers():
            if buffer.is_floating_point():
                torch.distributed.all_reduce(buffer)
                buffer /= self.size

    @property
    def _carrier(self) -> torch.device | None:
        return self.device if self.device.type == "cuda" else None


def with_precision(config: C, device: str) -> C:
    """The settings with the precision that ``auto`` means on a device; raises ConfigError.

    Where a GPU does not compute in bf16 it is fp32, not fp16: methods take slopes within the
    forward pass, and those no scale of the loss keeps from vanishing.
    """
    optim: Any = config.optim
    if optim.precision != "auto":
        return config
    half = computes_bf16(pick_device(device)) and not optim.deterministic
    found = optim.model_copy(update={"precision": "bf16-mixed" if half else "32-true"})
    settings: Any = config
    return settings.model_copy(update={"optim": found})  # type: ignore[no-any-return]


def _check(config: Training, where: torch.device, device: str, size: int) -> None:
    optim = config.optim
    if optim.precision == "16-mixed" and where.type != "cuda":
        raise ConfigError(
            "optim.precision 16-mixed", f"needs a GPU, not {where.type}",
            "set optim.precision=bf16-mixed or 32-true, or give --device cuda",
        )  # fmt: skip
    if size == 1:
        return
    if where.type == "cuda" and device not in ("auto", "cuda"):
        raise ConfigError(
            "--device", f"{size} processes cannot share {device}", "give auto or cuda, or cpu"
        )
    if optim.batch_size % (size * optim.accumulate):
        step = size * optim.accumulate
        raise ConfigError(
            "optim.batch_size", f"{optim.batch_size} does not divide among {size} processes"
            + (f" of {optim.accumulate} parts" if optim.accumulate > 1 else ""),
            f"set it to a multiple of {step}",
        )  # fmt: skip
