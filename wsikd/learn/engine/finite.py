"""Whether the loss of a step is a number: asked at once, or one step late without waiting.

A GPU works behind the host. A host that read each loss before the next step would let the GPU run
dry, so there the answer is read a step later, and until then the update of the step is one that
the device itself leaves out where the loss is not a number.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, NoReturn, Protocol

import torch

from wsikd.core.errors import NonFiniteLossError
from wsikd.learn.engine import checkpoints

if TYPE_CHECKING:
    from torch import Tensor

    from wsikd.learn.engine.distributed import Team
    from wsikd.learn.methods.base import Progress


class FiniteCheck(Protocol):
    """Called in each step, in this order; any call may raise NonFiniteLossError."""

    def see(self, terms: dict[str, Tensor], total: Tensor, at: Progress) -> None:
        """After the forward pass of a part of a step: its terms and their sum, detached."""

    def guard(self, optimizer: torch.optim.Optimizer) -> None:
        """Before the update."""

    def step_done(self) -> None:
        """After the update."""

    def flush(self) -> None:
        """After the last step of an epoch."""


def finite_check(team: Team, optimizer: torch.optim.Optimizer, epoch: int) -> FiniteCheck:
    """The check of an epoch: late where the update can be left out on the device.

    Args:
        team: the processes of the training.
        optimizer: optimizer of torch.
        epoch: epochs that are complete, for the message.
    """
    late = getattr(optimizer, "_step_supports_amp_scaling", False)
    return LateCheck(team, epoch) if late else PromptCheck(team, epoch)


class PromptCheck:
    """Reads every loss before its gradient is computed."""

    def __init__(self, team: Team, epoch: int) -> None:
        """See :func:`finite_check`."""
        self.team, self.epoch = team, epoch

    def see(self, terms: dict[str, Tensor], total: Tensor, at: Progress) -> None:
        """Stop, in every process, where a term of one of them is not a number."""
        here = not bool(torch.isfinite(total))
        if not self.team.any(here=here):
            return
        name = next((k for k, v in terms.items() if not bool(torch.isfinite(v))), "total")
        found = (name, float(terms.get(name, total))) if here else None
        _stop(self.team, found, at, self.epoch)

    def guard(self, optimizer: torch.optim.Optimizer) -> None:
        """Nothing: a step that comes here is sound."""

    def step_done(self) -> None:
        """Nothing."""

    def flush(self) -> None:
        """Nothing is left to read."""


class _Asked(NamedTuple):
    """Losses of a step on their way to the host: bad, then for each part terms and total."""

    values: Tensor
    there: torch.cuda.Event | None
    names: list[str]
    at: Progress


class LateCheck:
    """Reads the losses of a step while the device computes the next one.

    Fused optimisers of PyTorch leave an update out where ``found_inf`` is 1 on the device.
    """

    def __init__(self, team: Team, epoch: int) -> None:
        """See :func:`finite_check`."""
        self.team, self.epoch = team, epoch
        self._parts: list[Tensor] = []
        self._names: list[str] = []
        self._at: Progress | None = None
        self._bad: Tensor | None = None
        self._asked: _Asked | None = None

    def see(self, terms: dict[str, Tensor], total: Tensor, at: Progress) -> None:
        """Remember, on the device, whether a part is bad."""
        self._names, self._at = [*terms, "total"], at
        self._parts.append(torch.stack([v.detach().float() for v in (*terms.values(), total)]))

    def guard(self, optimizer: torch.optim.Optimizer) -> None:
        """Let the device leave the update out in every process where a part of one is bad."""
        totals = torch.stack([part[-1] for part in self._parts])
        bad = (~torch.isfinite(totals)).any().float()
        if self.team.size > 1:
            torch.distributed.all_reduce(bad, torch.distributed.ReduceOp.MAX)
        self._bad = optimizer.found_inf = bad  # type: ignore[attr-defined]

    def step_done(self) -> None:
        """Send the losses of this step to the host, and read those of the one before."""
        assert self._bad is not None
        assert self._at is not None
        sent = torch.cat([self._bad[None], *self._parts])
        on_gpu = sent.device.type == "cuda"
        values = torch.empty(sent.shape, dtype=sent.dtype, pin_memory=on_gpu)
        values.copy_(sent, non_blocking=on_gpu)
        there = None
        if on_gpu:
            there = torch.cuda.Event()  # type: ignore[no-untyped-call]
            there.record(torch.cuda.current_stream(sent.device))
        before, self._asked = self._asked, _Asked(values, there, self._names, self._at)
        self._parts = []
        if before is not None:
            self._read(before)

    def flush(self) -> None:
        """Read the losses of the last step."""
        before, self._asked = self._asked, None
        if before is not None:
            self._read(before)

    def _read(self, asked: _Asked) -> None:
        if asked.there is not None:
            asked.there.synchronize()
        bad, *values = asked.values.numpy().tolist()
        if not bad:
            return
        width = len(asked.names)
        parts = [values[i : i + width] for i in range(0, len(values), width)]
        found = next((_first_bad(asked.names, part) for part in parts if _is_bad(part)), None)
        _stop(self.team, found, asked.at, self.epoch)


def _is_bad(part: list[float]) -> bool:
    return not math.isfinite(part[-1])


def _first_bad(names: list[str], part: list[float]) -> tuple[str, float]:
    """The first term that is not a number, else their sum."""
    return next((n, v) for n, v in zip(names, part, strict=True) if not math.isfinite(v))


def _stop(team: Team, found: tuple[str, float] | None, at: Progress, epoch: int) -> NoReturn:
    """Raise, in every process, what one of them has found."""
    name, value = next(f for f in team.gather(found) if f is not None)
    raise team.reported_once(
        NonFiniteLossError(
            f"loss term '{name}'",
            f"is {value} in epoch {at.epoch + 1}, step {at.step + 1}",
            f"lower optim.lr or that weight; {checkpoints.kept(epoch)}",
        )
    )
