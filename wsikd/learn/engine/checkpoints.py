"""What a training must remember to go on as if nothing had stopped it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch

from wsikd.core.errors import CheckpointError
from wsikd.learn.engine.schedules import Best

if TYPE_CHECKING:
    from pathlib import Path

    from wsikd.learn.engine.distributed import Team
    from wsikd.learn.methods.base import Method


class Digested(Protocol):
    """Data whose identity is known."""

    @property
    def digests(self) -> list[str]:
        """Of every source, sorted."""


class Resumable(Protocol):
    """A training, of which a checkpoint is made; its attributes as in ``Trainer``."""

    epoch: int
    best: Best
    optimizer: Any

    @property
    def method(self) -> Method:
        """With what it trains."""

    @property
    def patches(self) -> Digested:
        """What it learns from."""

    @property
    def team(self) -> Team:
        """Its processes."""


def kept(epoch: int) -> str:
    """What a training that stops after so many epochs leaves."""
    return f"checkpoints/last.ckpt holds epoch {epoch}" if epoch else "no epoch is kept"


def state_of(trainer: Resumable) -> dict[str, Any]:
    """Everything that the next epoch depends on; chance is drawn anew from seed and epoch."""
    method, best, scaling = trainer.method, trainer.best, trainer.team.scaling
    return {
        "epoch": trainer.epoch,
        "student": method.student.state_dict(),
        "helpers": method.helpers.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "best": [best.epoch, best.kappa, best.loss],
        "digests": list(trainer.patches.digests),
        "scaling": {} if scaling is None else scaling.state_dict(),
    }


def restore(trainer: Resumable, state: dict[str, Any], file: Path) -> None:
    """Put a state of :func:`state_of`, read from ``file``, into a trainer.

    Raises:
        CheckpointError: it is of other data, or of another network.
    """
    try:
        if state["digests"] != trainer.patches.digests:
            raise CheckpointError(
                file, "was made on other data", "give the same --data or another -o"
            )
        trainer.method.student.load_state_dict(state["student"])
        trainer.method.helpers.load_state_dict(state["helpers"])
        trainer.optimizer.load_state_dict(state["optimizer"])
        if trainer.team.scaling is not None:
            trainer.team.scaling.load_state_dict(state["scaling"])
        trainer.epoch, trainer.best = int(state["epoch"]), Best(*state["best"])
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        raise CheckpointError(file, "does not fit this run", "choose another -o") from error


def load(file: Path, device: torch.device) -> dict[str, Any]:
    """Read a checkpoint; nothing in it is executed. Raises CheckpointError."""
    try:
        state = torch.load(file, map_location=device, weights_only=True)  # noqa: TID251
    except Exception as error:  # the unpickler fails in any way on a torn file
        raise CheckpointError(
            file,
            "cannot be read",
            "remove checkpoints/last.ckpt and checkpoints/best.ckpt to start over, or choose "
            "another -o",
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(file, "is no checkpoint of wsikd", "choose another -o")
    return state
