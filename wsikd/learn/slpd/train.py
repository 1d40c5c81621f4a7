"""Training a region encoder: ``wsikd.learn.engine.trainer`` without labels or validation.

The last epoch's teacher is what is kept. An epoch with prototype terms begins by clustering every
slide with the teacher as it is then; all of that goes into the checkpoint.
"""

from __future__ import annotations

import hashlib
import logging
import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from wsikd.core.errors import ConfigError
from wsikd.core.leak_hashes import seen_hash
from wsikd.core.run import RunDir
from wsikd.core.timing import span
from wsikd.learn.data.augment import Part
from wsikd.learn.data.splits import groups_of
from wsikd.learn.engine import checkpoints
from wsikd.learn.engine.distributed import Team
from wsikd.learn.engine.loggers import check_loggers, log_to
from wsikd.learn.engine.schedules import cosine_steps
from wsikd.learn.engine.trainer import Trainer, run_epochs
from wsikd.learn.patch.build import seed_weights
from wsikd.learn.slpd.cluster_epoch import encode, make_table, sizes, tensors
from wsikd.learn.slpd.data import RegionSet, RegionViews, check_crops, load_regions
from wsikd.learn.slpd.method import Options, Slpd
from wsikd.learn.slpd.prototypes import FILE
from wsikd.models.device import deterministic
from wsikd.models.files.region_bundle import save_region_encoder
from wsikd.models.slide_level.region_vit import RegionShape, RegionStudent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from wsikd.learn.engine.loggers import EpochLog
    from wsikd.learn.engine.schedules import Best
    from wsikd.learn.methods.base import Progress
    from wsikd.learn.slpd.prototypes import PrototypeTable
    from wsikd.learn.slpd.settings import SlpdConfig

logger = logging.getLogger(__name__)
_SAMPLE = 512
_RATE_BATCH = 256


@dataclass(frozen=True)
class RegionResult:
    """What a run came to.

    Attributes:
        path: the run folder.
        bundle: the region encoder in it.
        prototypes: file of the slides' prototypes; None where no slide had regions enough.
        epochs: that were trained.
        loss: of the last one; None where a finished run was only taken up.
        spread: see :meth:`SlpdTrainer.spread`.
    """

    path: Path
    bundle: Path
    prototypes: Path | None
    epochs: int
    loss: float | None
    spread: float

    def told(self) -> str:
        """What it came to, in a line."""
        loss = "" if self.loss is None else f", loss {self.loss:.4f}"
        more = "" if self.prototypes is None else f"; {self.prototypes.name} beside it"
        return (
            f"{self.bundle}: region encoder after {self.epochs} epochs{loss}, "
            f"spread {self.spread:.2f} of 1{more}"
        )


class SlpdTrainer(Trainer[RegionSet, Any]):
    """Trains student and teacher on regions."""

    method: Slpd
    loss: float | None = None

    @property
    def regions(self) -> RegionSet:
        """What is learnt from."""
        return self.patches

    @property
    def settings(self) -> SlpdConfig:
        """The run's."""
        return cast("SlpdConfig", self.config)

    def _make_views(self) -> RegionViews:
        return RegionViews(self.regions, self.settings.crops, self.device, seed=self.seed)

    def fit(self, log: EpochLog | None = None) -> Best:
        """Train to the last epoch; raises NonFiniteLossError where a term is not a number."""
        begun, first, epochs = time.perf_counter(), self.epoch, self.settings.optim.epochs
        while self.epoch < epochs:
            start = time.perf_counter()
            self.begin_epoch()
            row = {"epoch": self.epoch + 1, **self._train_epoch(), "spread": self.spread()}
            row["seconds"] = round(time.perf_counter() - start, 3)
            self.epoch, self.loss = self.epoch + 1, row["loss"]
            if self.team.is_first:
                self.run.append_metrics(row)
                if log is not None:
                    log.write(row)
            state, every = checkpoints.state_of(self), self.settings.optim.keep_every
            if every and self.epoch % every == 0:
                self._save(f"epoch_{self.epoch}.ckpt", state)
            self._save("last.ckpt", state)
            each = (time.perf_counter() - begun) / (self.epoch - first)
            logger.info(
                "epoch %d/%d: loss %.4f (%s), spread %.2f, %.1f s (%.0f %% waiting for data), "
                "%s left",
                self.epoch, epochs, row["loss"],
                ", ".join(f"{name} {value:.4f}" for name, value in row["raw"].items()),
                row["spread"], row["seconds"], 100 * row["waiting"],
                span(each * (epochs - self.epoch)),
            )  # fmt: skip
        return self.best

    def load_best(self) -> None:
        """The last epoch is what is kept."""

    def begin_epoch(self) -> None:
        """Cluster the slides, where the epoch has prototype terms."""
        config = self.settings
        if not config.uses_prototypes or self.epoch < config.prototypes.start_epoch:
            return
        table = self.cluster()
        self.method.bank.put(tensors(table, self.device))

    def cluster(self) -> PrototypeTable:
        """Prototypes of all slides by the teacher as it is; the same in every process."""
        self.method.eval()
        every = np.arange(len(self.regions))
        features, table = self._encode(every), self.regions.table
        about = {"epoch": self.epoch, "data": self.regions.digests, "encoder": dict(table.encoder),
                 "mpp": table.mpp, "region_px": table.region_px}  # fmt: skip

        def made() -> PrototypeTable:
            found = make_table(
                features, table, self.settings.prototypes, device=self.device, **about
            )
            found.save(self.run.path / FILE)
            return found

        return self.team.first(made)

    def spread(self) -> float:
        """Deviation of unit vectors of up to 512 regions: 1 where they lie in all directions alike,
        0 where all are one, a collapse."""
        self.method.eval()
        count = len(self.regions)
        chosen = np.unique(np.linspace(0, count - 1, min(count, _SAMPLE)).astype(np.int64))
        features = self._encode(chosen)
        return float(np.sqrt(features.var(0, dtype=np.float64).sum()))

    def _encode(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        return encode(
            self.method.teacher, self.regions, indices, self.team,
            side=self.settings.crops.global_grid, batch=2 * self.batch_size // self.team.size,
            threads=self.settings.optim.threads,
        )  # fmt: skip

    def _rate(self, step: int) -> float:
        optim = self.settings.optim
        return cosine_steps(
            optim.lr * self.batch_size / _RATE_BATCH, optim.lr_end, step,
            optim.epochs * self.steps, round(optim.warmup_epochs * self.steps),
        )  # fmt: skip

    def _step(
        self, images: torch.Tensor, indices: NDArray[np.int64], at: Progress, rate: float
    ) -> dict[str, torch.Tensor]:
        """One optimiser step on this process's part of a batch; returns the detached terms."""
        self._schedule(at, rate)
        self.optimizer.zero_grad(set_to_none=True)
        part = Part(self.team.rank * len(indices), self.batch_size)
        terms: dict[str, torch.Tensor] = self.wrapped(self.batch(images, indices, at, part), at)
        total = torch.stack([self.config.weights[k] * v for k, v in terms.items()]).sum()
        self._check_finite(terms, total.detach(), at)
        self.fabric.backward(total)
        self._tame(at)
        self.optimizer.step()
        self.method.after_step(at)
        return {name: term.detach() for name, term in terms.items()}

    def _schedule(self, at: Progress, rate: float) -> None:
        """Learning rate and weight decay of a step; groups without decay stay so."""
        optim = self.settings.optim
        step, steps = at.epoch * at.steps + at.step, at.epochs * at.steps
        decay = cosine_steps(optim.weight_decay, optim.weight_decay_end, step, steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
            if all(p.ndim > 1 for p in group["params"]):
                group["weight_decay"] = decay

    def _tame(self, at: Progress) -> None:
        """Clip each parameter's gradient, and hold the last layer in the first epochs."""
        optim = self.settings.optim
        if self.team.scaling is not None:
            self.team.scaling.unscale_gradients(cast("Any", self.optimizer).optimizer)
        if optim.clip:
            clip_each(self.method.student.parameters(), optim.clip)
        if at.epoch < optim.freeze_last_epochs:
            for weight in self.method.student.last.parameters():
                weight.grad = None


def clip_each(weights: Iterable[torch.nn.Parameter], most: float) -> None:
    """Scale the gradient of each parameter down to a norm, each by itself."""
    grads = [p.grad for p in weights if p.grad is not None]
    for grad, norm in zip(grads, torch._foreach_norm(grads), strict=True):
        grad.mul_((most / (norm + 1e-6)).clamp_max(1.0))


def train_regions(
    config: SlpdConfig,
    out: Path,
    *,
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
    regions: RegionSet | None = None,
    loggers: Sequence[str] = (),
    told: Callable[[int, int], None] | None = None,
) -> RegionResult:
    """Train a region encoder and write its run folder.

    Args:
        config: see ``wsikd.learn.slpd.settings``.
        out: the run folder.
        seed: of initialisation, order and views.
        device: "auto", "cpu" or "cuda:0".
        resume: continue the run in ``out``; a finished one only writes its bundle again.
        regions: of ``config.data``, where they are listed already.
        loggers: beside ``metrics.jsonl`` and ``metrics.csv``: "tensorboard".
        told: is given steps done and steps in all, after each.

    Raises:
        WsikdError: of the kind that names the fault.
    """
    check_loggers(loggers)
    run, team = RunDir(out), Team(cast("Any", config), device)
    with deterministic(wanted=config.optim.deterministic), team:
        resumed = team.first(lambda: run.check(config, resume=resume, seed=seed))
        regions = regions or load_regions(config.data)
        check_crops(config.crops, regions.table.shape)
        if config.uses_prototypes:
            sizes(config.prototypes, regions.table.counts)
        seed_weights(seed)
        method = build(config, regions.table.shape[0])
        trainer = SlpdTrainer(method, regions, config, run, seed=seed, team=team, told=told)
        made = {"device": team.device.type, "processes": team.size, "data": regions.digests}
        team.first(lambda: run.start(config, resume=resume, seed=seed, **made))
        with log_to(run.log_file) if team.is_first else nullcontext():
            logger.info(
                "%d regions of %d slides, %d in a step, %d steps an epoch",
                len(regions), len(regions.table.slides), trainer.batch_size, trainer.steps,
            )  # fmt: skip
            run_epochs(trainer, resume=resume, resumed=resumed, loggers=loggers)
            return _finish(trainer)


def build(config: SlpdConfig, dim: int) -> Slpd:
    """Student, teacher and what they learn, freshly initialised, for embeddings of width D."""
    shape = RegionShape(dim=dim, table=config.crops.global_grid, **config.network.model_dump())
    student = RegionStudent(shape)
    still = RegionShape(**{**shape.record(), "drop_path": 0.0})
    with torch.random.fork_rng(devices=[]):
        teacher = RegionStudent(still)
    options = Options(
        terms=tuple(config.weights),
        student_temperature=config.student_temperature,
        teacher_temperature=config.teacher_temperature,
        centre_momentum=config.centre_momentum,
        teacher_momentum=config.optim.momentum,
        skip_first_view=config.prototypes.skip_first_view,
        shared_centre=config.prototypes.shared_centre,
    )
    return Slpd(student, teacher, options)


def _finish(trainer: SlpdTrainer) -> RegionResult:
    """Cluster by the final teacher, and write it."""
    run, table, config = trainer.run, trainer.regions.table, trainer.settings
    spread = trainer.spread()
    prototypes: Path | None = run.path / FILE
    if spread < 0.05:
        logger.warning(
            "spread %.3f: all regions are encoded alike; give more regions, lower optim.lr, or "
            "raise network.init_std (to 0.1 in networks some tens wide)",
            spread,
        )
    try:
        trainer.cluster()
    except ConfigError as error:  # without prototype terms they are only an extra
        logger.info("no %s: %s", FILE, error)
        prototypes = None
    if trainer.team.is_first:
        save_region_encoder(
            run.student, trainer.method.teacher, encoder=table.encoder, mpp=table.mpp,
            grid=table.shape[1], region_px=table.region_px, variant=config.variant,
            data=trainer.regions.digests, metrics={"spread": spread},
            training={"seed": trainer.seed, "epochs": trainer.epoch},
            seen=[seen(trainer.regions)],
        )  # fmt: skip
        trainer.run.append_metrics({"event": "final", "spread": spread})
    return RegionResult(run.path, run.student, prototypes, trainer.epoch, trainer.loss, spread)


def seen(regions: RegionSet) -> dict[str, Any]:
    """Keyed hashes of slides and patients, as :mod:`wsikd.learn.engine.leakage` keeps them."""
    table, salt = regions.table, hashlib.sha256(regions.digests[0].encode()).hexdigest()[:16]
    names = {f"slide {s}" for s in table.slides} | {
        *groups_of(table.slides, table.patients, "auto")
    }
    nothing = {"names": "", "images": ""}
    every = "".join(sorted(seen_hash(name, salt) for name in names))
    return {"salt": salt, "train": {**nothing, "names": every}, "val": nothing}
