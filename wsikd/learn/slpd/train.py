"""Training a region encoder, without labels or validation.

The last epoch's teacher is what is kept. An epoch with prototype terms begins by clustering every
slide with the teacher as it is then; all of that goes into the checkpoint.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from wsikd.core.errors import ConfigError
from wsikd.core.leak_hashes import seen_hash
from wsikd.learn.data.splits import groups_of
from wsikd.learn.engine.schedules import cosine_steps
from wsikd.learn.engine.trainer import Task, Trainer
from wsikd.learn.slpd.cluster_epoch import encode, make_table, sizes, tensors
from wsikd.learn.slpd.data import RegionSet, RegionViews, check_crops, load_regions
from wsikd.learn.slpd.method import Slpd, SlpdConfig
from wsikd.learn.slpd.prototypes import FILE
from wsikd.models.files.region_bundle import save_region_encoder
from wsikd.models.slide_level.region_vit import RegionShape, RegionStudent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from wsikd.core.run import RunDir
    from wsikd.learn.methods.base import Progress
    from wsikd.learn.slpd.prototypes import PrototypeTable

logger = logging.getLogger(__name__)
_SAMPLE = 512
_RATE_BATCH = 256


@dataclass(frozen=True)
class RegionResult:
    """The result of a run.

    Attributes:
        path: the run folder.
        bundle: the region encoder in it.
        prototypes: file of the slides' prototypes; None where no slide had regions enough.
        epochs: number of trained epochs.
        loss: loss of the last epoch; None if the run had finished before.
        spread: see :meth:`SlpdTask.spread`.
    """

    path: Path
    bundle: Path
    prototypes: Path | None
    epochs: int
    loss: float | None
    spread: float

    def text(self) -> str:
        """The result as a line."""
        loss = "" if self.loss is None else f", loss {self.loss:.4f}"
        more = "" if self.prototypes is None else f"; {self.prototypes.name} beside it"
        return (
            f"{self.bundle}: region encoder after {self.epochs} epochs{loss}, "
            f"spread {self.spread:.2f} of 1{more}"
        )


class SlpdTask(Task[RegionSet, SlpdConfig, RegionResult]):
    """Trains student and teacher on regions, to the last epoch."""

    keeps_last = True
    method: Slpd

    def __init__(self, config: SlpdConfig, *, seed: int = 0) -> None:
        """See ``wsikd.learn.slpd.method``."""
        super().__init__(config, seed=seed)
        self.keep_every = config.optim.keep_every

    def load(self, given: RegionSet | None = None, resumed: RunDir | None = None) -> None:
        """List the regions, which views and prototypes must fit."""
        config = self.config
        self.data = given or load_regions(config.data)
        check_crops(config.crops, self.data.table.shape)
        if config.uses_prototypes:
            sizes(config.prototypes, self.data.table.counts)

    def build(self) -> None:
        """Student and teacher."""
        self.method = build(self.config, self.data.table.shape[0])

    def make_views(self, device: torch.device) -> RegionViews:
        """Squares cut from regions."""
        return RegionViews(self.data, self.config.crops, device, seed=self.seed)

    def begin(self, trainer: Trainer[RegionSet]) -> None:
        """Log what there is."""
        logger.info(
            "%d regions of %d slides, %d in a step, %d steps an epoch",
            len(self.data), len(self.data.table.slides), trainer.batch_size, trainer.steps,
        )  # fmt: skip

    def begin_epoch(self, trainer: Trainer[RegionSet]) -> None:
        """Cluster the slides, where the epoch has prototype terms."""
        config = self.config
        if not config.uses_prototypes or trainer.epoch < config.prototypes.start_epoch:
            return
        self.method.bank.put(tensors(self.cluster(trainer), trainer.device))

    def cluster(self, trainer: Trainer[RegionSet]) -> PrototypeTable:
        """Prototypes of all slides by the teacher as it is; the same in every process."""
        features, table = self._encode(trainer, np.arange(len(self.data))), self.data.table
        about = {"epoch": trainer.epoch, "data": self.data.digests, "encoder": dict(table.encoder),
                 "mpp": table.mpp, "region_px": table.region_px}  # fmt: skip

        def made() -> PrototypeTable:
            found = make_table(
                features, table, self.config.prototypes, device=trainer.device, **about
            )
            found.save(trainer.run.path / FILE)
            return found

        return trainer.team.first(made)

    def judge(self, trainer: Trainer[RegionSet]) -> dict[str, Any]:
        """``spread``: there is no validation."""
        return {"spread": self.spread(trainer)}

    def spread(self, trainer: Trainer[RegionSet]) -> float:
        """Deviation of unit vectors of up to 512 regions: 1 where they lie in all directions alike,
        0 where all are one, a collapse."""
        count = len(self.data)
        chosen = np.unique(np.linspace(0, count - 1, min(count, _SAMPLE)).astype(np.int64))
        features = self._encode(trainer, chosen)
        return float(np.sqrt(features.var(0, dtype=np.float64).sum()))

    def _encode(
        self, trainer: Trainer[RegionSet], indices: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        self.method.eval()
        return encode(
            self.method.teacher, self.data, indices, trainer.team,
            side=self.config.crops.global_grid, batch=2 * trainer.batch_size // trainer.team.size,
            threads=trainer.threads,
        )  # fmt: skip

    def summary(self, row: dict[str, Any]) -> str:
        """Loss, its terms, and the spread."""
        terms = ", ".join(f"{name} {value:.4f}" for name, value in row["raw"].items())
        return f"loss {row['loss']:.4f} ({terms}), spread {row['spread']:.2f}"

    def schedule(self, groups: list[dict[str, Any]], at: Progress, batch_size: int) -> float:
        """Learning rate and weight decay of a step; groups without decay stay so."""
        optim = self.config.optim
        step, steps = at.epoch * at.steps + at.step, at.epochs * at.steps
        rate = cosine_steps(
            optim.lr * batch_size / _RATE_BATCH, optim.lr_end, step, steps,
            round(optim.warmup_epochs * at.steps),
        )  # fmt: skip
        decay = cosine_steps(optim.weight_decay, optim.weight_decay_end, step, steps)
        for group in groups:
            group["lr"] = rate
            if all(p.ndim > 1 for p in group["params"]):
                group["weight_decay"] = decay
        return rate

    def before_step(self, at: Progress, unscale: Callable[[], None]) -> None:
        """Clip each parameter's gradient, and hold the last layer in the first epochs."""
        optim, student = self.config.optim, self.method.student
        unscale()
        if optim.clip:
            clip_each(student.parameters(), optim.clip)
        if at.epoch < optim.freeze_last_epochs:
            for weight in student.last.parameters():
                weight.grad = None

    def export(self, trainer: Trainer[RegionSet]) -> RegionResult:
        """Cluster by the final teacher, and write it."""
        run, table, spread = trainer.run, self.data.table, self.spread(trainer)
        prototypes: Path | None = run.path / FILE
        if spread < 0.05:
            logger.warning(
                "spread %.3f: all regions get nearly the same vector; give more regions, lower "
                "optim.lr, or "
                "raise network.init_std (to 0.1 in networks some tens wide)",
                spread,
            )
        try:
            self.cluster(trainer)
        except ConfigError as error:  # without prototype terms they are only an extra
            logger.info("no %s: %s", FILE, error)
            prototypes = None
        if trainer.team.is_first:
            save_region_encoder(
                run.student, self.method.teacher, encoder=table.encoder, mpp=table.mpp,
                grid=table.shape[1], region_px=table.region_px, variant=self.config.variant,
                data=self.data.digests, metrics={"spread": spread},
                training={"seed": self.seed, "epochs": trainer.epoch},
                seen=[seen(self.data)],
            )  # fmt: skip
            run.append_metrics({"event": "final", "spread": spread})
        loss = trainer.row.get("loss")
        return RegionResult(run.path, run.student, prototypes, trainer.epoch, loss, spread)


def clip_each(weights: Iterable[torch.nn.Parameter], most: float) -> None:
    """Scale the gradient of each parameter down to a norm, each by itself."""
    grads = [p.grad for p in weights if p.grad is not None]
    for grad, norm in zip(grads, torch._foreach_norm(grads), strict=True):
        grad.mul_((most / (norm + 1e-6)).clamp_max(1.0))


def build(config: SlpdConfig, dim: int) -> Slpd:
    """Student, teacher and method, newly initialised, for embeddings of width D."""
    shape = RegionShape(dim=dim, table=config.crops.global_grid, **config.network.model_dump())
    student = RegionStudent(shape)
    still = RegionShape(**{**shape.record(), "drop_path": 0.0})
    with torch.random.fork_rng(devices=[]):
        teacher = RegionStudent(still)
    learner = config.learner
    assert issubclass(learner, Slpd)
    return learner.build(config, student, teacher)


def seen(regions: RegionSet) -> dict[str, Any]:
    """Keyed hashes of slides and patients, as :mod:`wsikd.learn.engine.leakage` keeps them."""
    table, salt = regions.table, hashlib.sha256(regions.digests[0].encode()).hexdigest()[:16]
    names = {f"slide {s}" for s in table.slides} | {
        *groups_of(table.slides, table.patients, "auto")
    }
    nothing = {"names": "", "images": ""}
    every = "".join(sorted(seen_hash(name, salt) for name in names))
    return {"salt": salt, "train": {**nothing, "names": every}, "val": nothing}
