"""Training of any kind, from settings to the files of the run."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from typing import TYPE_CHECKING

import numpy as np
import torch

from wsikd.core.run import RunDir
from wsikd.learn.engine.distributed import Team, with_precision
from wsikd.learn.engine.loggers import check_loggers, log_to
from wsikd.learn.engine.trainer import C, D, R, Task, Trainer
from wsikd.models.device import deterministic

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


def train(
    kind: type[Task[D, C, R]],
    config: C,
    out: Path,
    *,
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
    data: D | None = None,
    loggers: Sequence[str] = (),
    on_step: Callable[[int, int], None] | None = None,
    on_cost: Callable[[str], None] | None = None,
) -> R:
    """Train by a configuration and write the run folder.

    Where ``torchrun`` has started several processes, they train together, and all return the same.

    Args:
        kind: the task, e.g. ``wsikd.learn.patch.train.PatchTask``.
        config: settings of that task.
        out: the run folder.
        seed: seed of initialisation, order and augmentation; a split has its own.
        device: "auto", "cpu" or "cuda:0".
        resume: continue the run in ``out``; a finished one only writes its bundle again.
        data: data of the configuration, where they are loaded already.
        loggers: beside ``metrics.jsonl`` and ``metrics.csv``: "tensorboard".
        on_step: is given steps done and steps in all, after each.
        on_cost: is given a line on how long the training will take, after the first steps.

    Raises:
        WsikdError: of the kind that names the fault: configuration, data, teacher, output folder,
            checkpoint, or a loss that is not finite.
    """
    check_loggers(loggers)
    config = with_precision(config, device)
    task, run, team = kind(config, seed=seed), RunDir(out), Team(config, device)
    with deterministic(wanted=config.optim.deterministic), team:
        resumed = team.first(lambda: run.check(config, resume=resume, seed=seed))
        task.load(data, run if resumed else None)
        seed_weights(seed, task.init_stream)
        task.build()
        trainer = Trainer(task, run, team=team, on_step=on_step, on_cost=on_cost)
        made = {"device": team.device.type, "processes": team.size, **task.record()}
        made["machine"] = trainer.machine()
        team.first(lambda: run.start(config, resume=resume, seed=seed, **made))
        with log_to(run.log_file) if team.is_first else nullcontext():
            logger.info("%s", trainer.described())
            task.begin(trainer)
            trainer.run_epochs(resume=resume, resumed=resumed, loggers=loggers)
            return task.export(trainer)


def seed_weights(seed: int, stream: str = "teacher") -> None:
    """Fix the random initialisation of networks made after this.

    Args:
        seed: seed of the run.
        stream: "teacher" or "student": networks of one seed and two streams start apart.
    """
    if stream == "student":
        seed = int(np.random.SeedSequence((seed, 1)).generate_state(1)[0])
    torch.manual_seed(seed)
