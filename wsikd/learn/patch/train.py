"""Training a grader of patches, with a teacher or without, from a configuration to its bundle."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.core.run import RunDir
from wsikd.learn.data.parts import checked
from wsikd.learn.data.patches import PatchSet, load_patches
from wsikd.learn.data.smote import with_invented
from wsikd.learn.engine.distributed import Team
from wsikd.learn.engine.leakage import check_unseen
from wsikd.learn.engine.loggers import check_loggers, log_to
from wsikd.learn.engine.trainer import run_epochs
from wsikd.learn.patch.build import (
    build_method,
    build_student,
    check_teacher,
    init_stream,
    input_spec,
    log_cost,
    open_teacher,
    seed_weights,
)
from wsikd.learn.patch.export import RunResult, finish
from wsikd.learn.patch.teacher_cache import open_targets
from wsikd.learn.patch.trainer import PatchTrainer
from wsikd.models.device import deterministic

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from wsikd.learn.patch.settings import RunConfig
    from wsikd.models.files.bundle import InputSpec, StudentBundle


def distill(
    config: RunConfig,
    out: Path,
    *,
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
    patches: PatchSet | None = None,
    loggers: Sequence[str] = (),
    told: Callable[[int, int], None] | None = None,
) -> RunResult:
    """Train the network of a configuration and write its run folder.

    Where ``torchrun`` has started several processes, they train it together, and all return the
    same.

    Args:
        config: see ``wsikd.learn.patch.settings``.
        out: the run folder.
        seed: of initialisation, order and augmentation; the split has its own.
        device: "auto", "cpu" or "cuda:0".
        resume: continue the run in ``out``; a finished one only writes its bundle again.
        patches: of ``config.data`` and ``config.split``, where they are loaded already.
        loggers: beside ``metrics.jsonl`` and ``metrics.csv``: "tensorboard".
        told: is given steps done and steps in all, after each.

    Raises:
        WsikdError: of the kind that names the fault: configuration, data, teacher, output folder,
            checkpoint, or a loss that is not finite.
    """
    check_loggers(loggers)
    run, team = RunDir(out), Team(config, device)
    with deterministic(wanted=config.optim.deterministic), team:
        resumed = team.first(lambda: run.check(config, resume=resume, seed=seed))
        teacher = open_teacher(config)
        if resumed:
            check_teacher(run, teacher)
        patches = checked(patches or load_patches(config.data, config.split))
        if teacher is not None:
            check_unseen(
                teacher,
                patches,
                ("val", "test"),
                who="the teacher",
                remedy="give a teacher of the same split, or set split.check_teacher=false if only "
                "the names are the same",
                allow=not config.split.check_teacher,
            )
        seed_weights(seed, init_stream(config))
        student = build_student(config, patches, teacher)
        spec = input_spec(config, student, patches)
        method = build_method(config, student, teacher, patches.classes)
        made: dict[str, Any] = {"device": team.device.type, "processes": team.size}
        made |= {"data": patches.digests, "teacher_sha256": teacher and teacher.sha256}
        if config.data.smote is not None:
            before = run.read_provenance() if resumed else None
            patches, made["smote"] = with_invented(patches, config.data, seed=seed, made=before)
        trainer = PatchTrainer(method, patches, config, run, seed=seed, team=team, told=told)
        team.first(lambda: run.start(config, resume=resume, seed=seed, **made))
        with log_to(run.log_file) if team.is_first else nullcontext():
            log_cost(spec, student, teacher)
            return _train(trainer, spec, teacher, resume=resume, resumed=resumed, loggers=loggers)


def _train(
    trainer: PatchTrainer,
    spec: InputSpec,
    teacher: StudentBundle | None,
    *,
    resume: bool,
    resumed: bool,
    loggers: Sequence[str],
) -> RunResult:
    """Read the patches, train, and finish."""
    config, patches = trainer.config, trainer.patches
    used = np.flatnonzero(np.isin(patches.split, ("train", "val")))
    patches.keep(used, config.data.cache_gb, config.optim.threads)
    if teacher is not None:
        trainer.views.targets = open_targets(trainer, teacher.sha256)
    if trainer.views.averaged:
        patches.keep_averages(trainer.views.factor, config.data.cache_gb)
    best = run_epochs(trainer, resume=resume, resumed=resumed, loggers=loggers)
    return finish(trainer, spec, teacher, best)
