"""Which of the processes that ``torchrun`` started this one is. Needs no PyTorch."""

from __future__ import annotations

import os

from wsikd.core.errors import ConfigError


def processes() -> int:
    """How many processes ``torchrun`` has started; 1 without it."""
    if os.environ.get("TORCHELASTIC_RUN_ID") is None:
        return 1
    return int(os.environ["WORLD_SIZE"])


def rank() -> int:
    """Number of this process among them, 0 the first."""
    return int(os.environ["RANK"]) if processes() > 1 else 0


def refuse_unlaunched() -> None:
    """Refuse tasks of SLURM that ``torchrun`` has not joined. Raises ConfigError.

    Each would train for itself, into the same folder.
    """
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if "TORCHELASTIC_RUN_ID" not in os.environ and tasks not in ("", "1"):
        raise ConfigError(
            f"srun of {tasks} tasks", "starts trainings that do not know of each other",
            "start one task a node that calls torchrun; unset SLURM_STEP_NUM_TASKS for runs apart",
        )  # fmt: skip


def refuse_team(command: str, remedy: str) -> None:
    """Refuse ``torchrun`` for a command that works alone. Raises ConfigError."""
    if processes() > 1:
        raise ConfigError(command, f"was started as {processes()} processes", remedy)
