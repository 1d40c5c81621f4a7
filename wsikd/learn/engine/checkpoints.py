"""The state of a training run, so that a resumed run gives the same result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch

from wsikd.core.errors import CheckpointError
from wsikd.learn.engine.schedules import Best

if TYPE_CHECKING:
    from pathlib import Path

    from wsikd.learn.methods.base import Method


class Stateful(Protocol):
    """An optimiser, or what scales a loss."""

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Load the state of a checkpoint."""


class Parts(NamedTuple):
    """The state of a training, without the number of its epoch.

    Attributes:
        method: with the student and the helpers.
        optimizer: optimizer of Lightning or of torch.
        digests: identity of the data, which must be the same.
        scaling: scaling of the loss in half precision, else None.
        average: of the student's weights, where there is one.
    """

    method: Method
    optimizer: Stateful
    digests: list[str]
    scaling: Stateful | None
    average: Stateful | None = None


def kept(epoch: int) -> str:
    """The files of a training that stops after so many epochs."""
    return f"checkpoints/last.ckpt holds epoch {epoch}" if epoch else "no epoch is kept"


def state_of(parts: Parts, epoch: int, best: Best) -> dict[str, Any]:
    """Everything that the next epoch depends on; chance is drawn again from seed and epoch."""
    method, optimizer, digests, scaling, average = parts
    averaged = {} if average is None else {"average": average.state_dict()}
    return {
        "epoch": epoch,
        "student": method.student.state_dict(),
        "helpers": method.helpers.state_dict(),
        "optimizer": optimizer.state_dict(),
        "best": [best.epoch, best.score, best.loss],
        "digests": list(digests),
        "recent": [list(one) for one in best.recent],
        "scaling": {} if scaling is None else scaling.state_dict(),
        **averaged,
    }


def restore(parts: Parts, state: dict[str, Any], file: Path) -> tuple[int, Best]:
    """Put a state of :func:`state_of`, read from ``file``, into the parts of a training.

    Returns:
        Its epoch, and the best one so far.

    Raises:
        CheckpointError: it is of other data, or of another network.
    """
    method, optimizer, digests, scaling, average = parts
    try:
        if state["digests"] != digests:
            raise CheckpointError(
                file, "was made with other data", "give the same --data or another -o"
            )
        method.student.load_state_dict(state["student"])
        method.helpers.load_state_dict(state["helpers"])
        optimizer.load_state_dict(state["optimizer"])
        if scaling is not None:
            scaling.load_state_dict(state["scaling"])
        if average is not None:
            average.load_state_dict(state["average"])
        recent = [(score, loss) for score, loss in state.get("recent", ())]
        epoch, score, loss = state["best"]
        return int(state["epoch"]), Best(epoch, score, loss, recent)
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
        raise CheckpointError(file, "is not a checkpoint of wsikd", "choose another -o")
    return state
