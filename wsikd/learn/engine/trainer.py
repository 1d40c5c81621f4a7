"""The only training loop.

All chance is drawn from (seed, epoch, step), so a run that was killed and resumed repeats what an
unbroken one does: on a CPU, bit for bit.
"""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np
import torch

from wsikd.core.errors import ConfigError, NonFiniteLossError
from wsikd.core.run import aside
from wsikd.core.timing import Waiting, span
from wsikd.learn.data.augment import Part
from wsikd.learn.data.splits import epoch_order, share_of
from wsikd.learn.engine import checkpoints
from wsikd.learn.engine.loggers import EpochLog, told_scores, write_csv
from wsikd.learn.engine.schedules import Best, learning_rate
from wsikd.learn.engine.settings import Training
from wsikd.learn.methods.base import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from wsikd.core.run import RunDir
    from wsikd.learn.engine.distributed import Team
    from wsikd.learn.methods.base import Batch, Method

logger = logging.getLogger(__name__)


class Samples(Protocol):
    """N samples to train on: patches, bags, regions, images."""

    @property
    def label(self) -> NDArray[np.int64]:
        """Class of each, int64 (N,)."""

    @property
    def digests(self) -> list[str]:
        """Identity of every source, sorted."""

    def indices(self, split: str) -> NDArray[np.int64]:
        """Indices of a split, int64."""

    def batches(
        self,
        order: NDArray[np.int64],
        size: int,
        *,
        threads: int = 2,
        read: Callable[[NDArray[np.int64]], torch.Tensor] | None = None,
    ) -> Iterator[tuple[torch.Tensor, NDArray[np.int64]]]:
        """What ``read`` gives of each batch, and the indices, in this order."""


class BatchMaker(Protocol):
    """Makes batches of samples that were read; see :class:`wsikd.learn.data.views.Views`."""

    def read(self, indices: NDArray[np.int64], /) -> torch.Tensor:
        """What :meth:`batch` is to be given."""

    def batch(
        self,
        images: torch.Tensor,
        indices: NDArray[np.int64],
        at: Progress | None,
        part: Part | None = None,
        /,
    ) -> Batch:
        """Views on the device; ``at`` draws the augmentation, None means none."""


D = TypeVar("D", bound=Samples)
C = TypeVar("C", bound=Training)


class Trainer(Generic[D, C]):
    """Trains a method on samples and keeps the best student.

    A subclass makes the views of its data and judges an epoch.

    Attributes:
        score: the entry of an epoch's validation that decides which epoch is best; None: its loss.
    """

    score: str | None = None

    def __init__(
        self,
        method: Method,
        patches: D,
        config: C,
        run: RunDir,
        *,
        seed: int,
        team: Team,
        told: Callable[[int, int], None] | None = None,
    ) -> None:
        """Put the method on its device.

        Args:
            method: what is trained.
            patches: the samples, with the parts "train" and "val".
            config: its optimiser and the weights of its terms count.
            run: folder that metrics and checkpoints are written into.
            seed: of order and augmentation.
            team: the processes of the training.
            told: is given steps done and steps in all, after each.
        """
        self.config, self.patches, self.run, self.seed = config, patches, run, seed
        self.team, self.told, self.device = team, told, team.device
        self.train_indices, self.val_indices = patches.indices("train"), patches.indices("val")
        self.fabric: Any = team.fabric
        team.share_norms(method.student)
        self.method = method.to(device=team.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        make = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[config.optim.name]
        groups = param_groups(method, decay_vectors=config.optim.decay_vectors)
        optimizer = make(groups, lr=config.optim.lr, weight_decay=config.optim.weight_decay)
        self.wrapped, self.optimizer = team.setup(self.method, optimizer)
        self.drawn = config.optim.epoch_patches or len(self.train_indices)
        self.batch_size = self._batch_size()
        self.steps = self.drawn // self.batch_size
        self.views = self._make_views()
        self.epoch, self.best = 0, Best()

    def _make_views(self) -> BatchMaker:
        """What makes batches of the samples."""
        raise NotImplementedError

    def _validate(self) -> dict[str, Any]:
        """Figures of the epoch on validation: ``loss``, and what ``score`` names."""
        raise NotImplementedError

    def _batch_size(self) -> int:
        """Patches in a step of all processes; all that an epoch draws where it draws fewer."""
        parts = self.team.size * self.config.optim.accumulate
        size = min(self.config.optim.batch_size, self.drawn) // parts * parts
        if size == 0:
            raise ConfigError(
                "optim.batch_size", f"an epoch of {self.drawn} patches does not fill {parts} parts",
                "lower optim.accumulate, or start fewer processes",
            )  # fmt: skip
        return size

    def fit(self, log: EpochLog | None = None) -> Best:
        """Train until it is over; raises NonFiniteLossError where a term is not a number."""
        begun, first = time.perf_counter(), self.epoch
        while not self._is_over():
            start = time.perf_counter()
            row = {"epoch": self.epoch + 1, **self._train_epoch()}
            row["val"] = self._validate()
            row["seconds"] = round(time.perf_counter() - start, 3)
            self.epoch += 1
            loss = row["val"]["loss"]
            score = -loss if self.score is None else row["val"][self.score]
            score = -1.0 if score is None else score
            if self.best.beaten_by(score, loss, self.config.optim.min_delta):
                self.best = Best(self.epoch, score, loss)
                self._save("best.ckpt", {"student": self.method.student.state_dict()})
            if self.team.is_first:
                self.run.append_metrics(row)
                if log is not None:
                    log.write(row)
            self._save("last.ckpt", checkpoints.state_of(self))
            each = (time.perf_counter() - begun) / (self.epoch - first)
            logger.info(
                "epoch %d/%d: loss %.4f, val %s, %.1f s (%.0f %% waiting for data), %s left",
                self.epoch, self.config.optim.most_epochs, row["loss"], told_scores(row["val"]),
                row["seconds"], 100 * row["waiting"],
                span(each * (self.config.optim.most_epochs - self.epoch)),
            )  # fmt: skip
        return self.best

    def _is_over(self) -> bool:
        """After the last epoch, or when ``optim.patience`` epochs brought nothing."""
        patience = self.config.optim.patience
        flat = patience is not None and self.epoch - self.best.epoch >= patience
        return flat or self.epoch >= self.config.optim.most_epochs

    def _train_epoch(self) -> dict[str, Any]:
        chance = (self.seed, self.epoch, *([self.team.rank] if self.team.rank else []))
        torch.manual_seed(int(np.random.SeedSequence(chance).generate_state(1)[0]))
        self.wrapped.train()
        order = epoch_order(
            self.patches.label[self.train_indices],
            self.drawn,
            seed=self.seed,
            epoch=self.epoch,
            balance=self.config.optim.balance,
        )
        batches = self.patches.batches(
            self.train_indices[
                share_of(order, self.batch_size, size=self.team.size, rank=self.team.rank)
            ],
            self.batch_size // self.team.size,
            threads=self.config.optim.threads,
            read=self.views.read,
        )
        sums: dict[str, torch.Tensor] = {}
        optim, before = self.config.optim, self.epoch * self.steps
        rate, clock = 0.0, Waiting()
        for step, (images, indices) in enumerate(clock.watch(batches)):
            at = Progress(self.epoch, optim.epochs, step, self.steps)
            rate = self._rate(before + step)
            for name, term in self._step(images, indices, at, rate).items():
                sums[name] = sums.get(name, torch.zeros((), device=self.device)) + term
            if self.told is not None:
                self.told(before + step + 1, optim.most_epochs * self.steps)
        raw = self.team.mean({name: float(total) / self.steps for name, total in sums.items()})
        weighted = {name: self.config.weights[name] * value for name, value in raw.items()}
        told = {"lr": rate, "loss": sum(weighted.values()), "raw": raw, "weighted": weighted}
        return {**told, "waiting": round(clock.share, 3)}

    def _rate(self, step: int) -> float:
        """Learning rate at a step, counted over the run."""
        return learning_rate(self.config.optim, step, self.steps)

    def _step(
        self, images: torch.Tensor, indices: NDArray[np.int64], at: Progress, rate: float
    ) -> dict[str, torch.Tensor]:
        """One optimiser step on this process's part of a batch; returns the detached terms."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, torch.Tensor] = {}
        parts, size = self.config.optim.accumulate, len(indices) // self.config.optim.accumulate
        for part in range(parts):
            own = slice(part * size, (part + 1) * size)
            place = Part(self.team.rank * len(indices) + own.start, self.batch_size)
            batch = self.batch(images[own], indices[own], at, place)
            with self.fabric.no_backward_sync(self.wrapped, enabled=part < parts - 1):
                terms: dict[str, torch.Tensor] = self.wrapped(batch, at)
                total = torch.stack([self.config.weights[k] * v for k, v in terms.items()]).sum()
                self._check_finite(terms, total.detach(), at)
                self.fabric.backward(total / parts)
            for name, term in terms.items():
                sums[name] = sums.get(name, torch.zeros_like(term)) + term.detach() / parts
        self.optimizer.step()
        self.method.after_step(at)
        return sums

    def _check_finite(
        self, terms: dict[str, torch.Tensor], total: torch.Tensor, at: Progress
    ) -> None:
        """Stop, in every process, where a term of one of them is not a number."""
        here = not bool(torch.isfinite(total))
        if not self.team.any(here=here):
            return
        name = next((k for k, v in terms.items() if not bool(torch.isfinite(v))), "total")
        found = (name, float(terms.get(name, total).detach())) if here else None
        name, value = next(f for f in self.team.gather(found) if f is not None)
        raise self.team.told_once(
            NonFiniteLossError(
                f"loss term '{name}'",
                f"is {value} in epoch {at.epoch + 1}, step {at.step + 1}",
                f"lower optim.lr or that weight; {checkpoints.kept(self.epoch)}",
            )
        )

    def batch(
        self,
        images: torch.Tensor,
        indices: NDArray[np.int64],
        at: Progress | None,
        part: Part | None = None,
    ) -> Batch:
        """Views of samples on the device; see :meth:`BatchMaker.batch`."""
        return self.views.batch(images, indices, at, part)

    def predict(self, indices: NDArray[np.int64]) -> NDArray[np.float64]:
        """Logits of samples without augmentation, each process its share: float64 (M, C)."""
        self.wrapped.eval()
        parts = []
        with torch.inference_mode(), self.fabric.autocast():
            for images, chosen in self.patches.batches(
                indices[self.team.rank :: self.team.size],
                2 * self.batch_size,
                threads=self.config.optim.threads,
                read=self.views.read,
            ):
                logits = self.method.predict(self.batch(images, chosen, None))
                parts.append(logits.double().cpu().numpy())
        shares = self.team.gather(np.concatenate(parts) if parts else None)
        width = next(share.shape[1] for share in shares if share is not None)
        found = np.empty((len(indices), width))
        for rank, share in enumerate(shares):
            if share is not None:
                found[rank :: self.team.size] = share
        return found

    def _checked_logits(self) -> NDArray[np.float64]:
        """What the network says of the validation part; raises NonFiniteLossError."""
        self.team.average_buffers(self.method.student)
        logits = self.predict(self.val_indices)
        if not np.isfinite(logits).all():
            raise self.team.told_once(
                NonFiniteLossError(
                    "validation logits",
                    f"are not finite after epoch {self.epoch + 1}",
                    f"lower optim.lr; {checkpoints.kept(self.epoch)}",
                )
            )
        return logits

    def _save(self, name: str, state: dict[str, Any]) -> None:
        if not self.team.is_first:
            return
        with aside(self.run.checkpoints / name) as part:
            torch.save(state, part)

    def resume(self) -> None:
        """Take up ``checkpoints/last.ckpt`` where there is one. Raises CheckpointError."""
        file = self.run.checkpoints / "last.ckpt"
        state = self.team.first(
            lambda: checkpoints.load(file, self.device) if file.exists() else None
        )
        if state is None:
            self._keep_metrics()
            return
        checkpoints.restore(self, state, file)
        self._keep_metrics()
        logger.info("resumed after epoch %d", self.epoch)

    def _keep_metrics(self) -> None:
        """Drop what was told of epochs that are to come again."""
        if self.team.is_first:
            rows = [r for r in self.run.read_metrics() if r.get("epoch", math.inf) <= self.epoch]
            self.run.keep_metrics(rows)
            write_csv(self.run)

    def load_best(self) -> None:
        """Put the weights of the best epoch into the student."""
        file = self.run.checkpoints / "best.ckpt"
        state = self.team.first(lambda: checkpoints.load(file, self.device))
        self.method.student.load_state_dict(state["student"])


def run_epochs(
    trainer: Trainer[Any, Any], *, resume: bool, resumed: bool, loggers: Sequence[str] = ()
) -> Best:
    """Train to the end, from where the run stopped if asked, and take up the best epoch."""
    team = trainer.team
    if resume:
        trainer.resume()
    if resumed and team.is_first:
        trainer.run.note_resume()
    log = EpochLog(trainer.run, loggers, epoch=trainer.epoch) if team.is_first else None
    try:
        best = trainer.fit(log)
    finally:
        if log is not None:
            log.close()
    trainer.load_best()
    return best


def param_groups(method: Method, *, decay_vectors: bool) -> list[dict[str, Any]]:
    """What the optimiser trains; parameters of one dimension apart, if they are not to decay."""
    groups: list[dict[str, Any]] = list(method.param_groups())
    if decay_vectors:
        return groups
    parted = []
    for group in groups:
        flat = [p for p in group["params"] if p.ndim <= 1]
        rest = [p for p in group["params"] if p.ndim > 1]
        parted += [group | {"params": rest}, group | {"params": flat, "weight_decay": 0.0}]
    return [group for group in parted if group["params"]]
