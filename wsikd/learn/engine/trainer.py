"""The only training loop, and the interface of a kind of learning.

All chance is drawn from (seed, epoch, step), so a run that was killed and resumed repeats what an
unbroken one does: on a CPU, bit for bit.
"""

from __future__ import annotations

import logging
import math
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np
import torch

from wsikd.core.errors import ConfigError, NonFiniteLossError
from wsikd.core.run import aside
from wsikd.core.timing import Forecast, Waiting, span
from wsikd.learn.data.augment import Part
from wsikd.learn.data.splits import epoch_order, share_of
from wsikd.learn.engine import checkpoints
from wsikd.learn.engine.average import WeightAverage
from wsikd.learn.engine.compiled import compiled
from wsikd.learn.engine.finite import finite_check
from wsikd.learn.engine.loggers import EpochLog, scores_text, write_csv
from wsikd.learn.engine.on_machine import cache_of, threads_of
from wsikd.learn.engine.optimizers import OPTIMIZERS
from wsikd.learn.engine.samples import BatchMaker, Samples
from wsikd.learn.engine.schedules import Best, learning_rate
from wsikd.learn.engine.settings import Optim, Training
from wsikd.learn.methods.base import Method, Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from wsikd.core.run import RunDir
    from wsikd.learn.engine.distributed import Team
    from wsikd.learn.engine.finite import FiniteCheck

logger = logging.getLogger(__name__)
FORWARD = 1 / 3
"""Time of a forward pass as a share of a step, for the forecast of a training's length."""


class Result(Protocol):
    """The result of a run."""

    def text(self) -> str:
        """In a line."""


D = TypeVar("D", bound=Samples)
C = TypeVar("C", bound=Training)
R = TypeVar("R", bound=Result)


class Task(Generic[D, C, R]):
    """One kind of learning: its data, its method, how an epoch is scored, and the final files.

    :func:`wsikd.learn.engine.train.train` calls :meth:`load`, :meth:`build`, :meth:`begin` and
    :meth:`export`; the :class:`Trainer` calls the others.

    Attributes:
        score: the entry of ``val`` that decides which epoch is best; None: its loss.
        keeps_last: the last epoch is exported; none is best, and there is no ``val``.
        takes_last: the last epoch is exported whatever its figures on validation.
        smooth: epochs over which the score is averaged before epochs are compared.
        ema: factor a step of a moving average of the student's weights, which is what is judged
            and exported; None: the weights themselves.
        keep_every: epochs between checkpoints that are kept beside the last; 0: none is.
        init_stream: which chance initialises the network; see :func:`~.train.seed_weights`.
        config: settings of the run.
        seed: seed of order and augmentation.
        data: the samples, once loaded.
        method: what is trained, once built.
        views: what makes batches, once the device is known.
    """

    score: str | None = None
    keeps_last: bool = False
    takes_last: bool = False
    smooth: int = 1
    ema: float | None = None
    keep_every: int = 0
    init_stream: str = "teacher"
    data: D
    method: Method
    views: BatchMaker

    def __init__(self, config: C, *, seed: int = 0) -> None:
        """Reads nothing yet."""
        self.config, self.seed = config, seed

    def load(self, given: D | None = None, resumed: RunDir | None = None) -> None:
        """Read or take over the data, and refuse what cannot be learnt from.

        Args:
            given: the data of the configuration, where they are loaded already.
            resumed: the run that is continued; None for a new one.
        """
        raise NotImplementedError

    def build(self) -> None:
        """Make the method, whose networks start from the seed."""
        raise NotImplementedError

    def make_views(self, device: torch.device) -> BatchMaker:
        """The source of batches."""
        raise NotImplementedError

    def record(self) -> dict[str, Any]:
        """For ``provenance.json``."""
        return {"data": self.data.digests}

    def begin(self, trainer: Trainer[D]) -> None:
        """Once before the first epoch, with the log open; nothing by default."""

    def begin_epoch(self, trainer: Trainer[D]) -> None:
        """Before each epoch; nothing by default."""

    def trained_on(self) -> NDArray[np.int64]:
        """Indices of the samples that are trained on, int64."""
        return self.data.indices("train")

    def order(self, trainer: Trainer[D]) -> NDArray[np.int64]:
        """The samples that an epoch draws, int64 (M,), in order; all processes get the same."""
        own, optim = trainer.train_indices, trainer.optim
        drawn = epoch_order(
            self.data.label[own], trainer.drawn, seed=self.seed, epoch=trainer.epoch,
            balance=optim.balance,
        )  # fmt: skip
        return own[drawn]

    def param_groups(self) -> list[dict[str, Any]]:
        """The trained parameters, as the optimiser takes them.

        The learning rate of a group is multiplied by its ``lr_factor``, if there is one.
        """
        return param_groups(self.method, decay_vectors=self.config.optim.decay_vectors)

    def schedule(self, groups: list[dict[str, Any]], at: Progress, batch_size: int) -> float:
        """Set the groups of the optimiser for a step; returns the learning rate."""
        assert isinstance(self.config.optim, Optim)  # a task with other settings has another one
        rate = learning_rate(self.config.optim, at.epoch * at.steps + at.step, at.steps)
        for group in groups:
            group["lr"] = rate * group.get("lr_factor", 1.0)
        return rate

    def before_step(self, at: Progress, unscale: Callable[[], None]) -> None:
        """Change the gradients of a step, after ``unscale``; nothing by default."""

    def judge(self, trainer: Trainer[D]) -> dict[str, Any]:
        """Figures of an epoch in addition to its losses: ``val``, on validation."""
        return {"val": self.validate(trainer.checked_logits())}

    def validate(self, logits: NDArray[np.float64]) -> dict[str, Any]:
        """Figures of the validation part's logits (M, C): ``loss``, and what ``score`` names."""
        raise NotImplementedError

    def summary(self, row: dict[str, Any]) -> str:
        """An epoch's row, for the log."""
        return f"loss {row['loss']:.4f}, val {scores_text(row['val'])}"

    def export(self, trainer: Trainer[D]) -> R:
        """Score and write the trained network."""
        raise NotImplementedError


class Trainer(Generic[D]):
    """Trains the method of a task on its data and keeps the best student.

    Attributes:
        row: figures of the last epoch; empty before one is trained here.
    """

    def __init__(
        self,
        task: Task[D, Any, Any],
        run: RunDir,
        *,
        team: Team,
        on_step: Callable[[int, int], None] | None = None,
        on_cost: Callable[[str], None] | None = None,
    ) -> None:
        """Put the method on its device.

        Args:
            task: with its data loaded and its method built.
            run: folder that metrics and checkpoints are written into.
            team: the processes of the training.
            on_step: is given steps done and steps in all, after each.
            on_cost: is given a line on how long the training will take, after the first steps.
        """
        self.task, self.run, self.team, self.on_step = task, run, team, on_step
        self.data, self.seed, self.device = task.data, task.seed, team.device
        config: Training = task.config
        self.optim, self.weights = config.optim, config.weights
        self.train_indices, self.val_indices = task.trained_on(), self.data.indices("val")
        self.fabric: Any = team.fabric
        method, optim = task.method, self.optim
        team.share_norms(method.student)
        self.method = method.to(device=team.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        groups = task.param_groups()
        self._plain = OPTIMIZERS[optim.name](
            groups, lr=optim.lr, weight_decay=optim.weight_decay, fused=team.fuses or None
        )
        self.wrapped, self.optimizer = team.setup(self.method, self._plain)
        self.threads = threads_of(optim.threads)
        self.drawn = optim.epoch_patches or len(self.train_indices)
        self.batch_size = self._batch_size()
        self.steps = self.drawn // self.batch_size
        self.views = task.views = task.make_views(team.device)
        self.average = None if task.ema is None else WeightAverage(method.student, task.ema)
        self.epoch, self.best = 0, Best()
        self.row: dict[str, Any] = {}
        self.forecast = None
        if on_cost is not None:
            checked = 0.0 if task.keeps_last else FORWARD * len(self.val_indices) / self.drawn
            self.forecast = Forecast(
                on_cost, steps=self.steps, more=checked, at_most=optim.patience is not None
            )

    def _batch_size(self) -> int:
        """Patches in a step of all processes; all that an epoch draws where it draws fewer."""
        parts = self.team.size * self.optim.accumulate
        size = min(self.optim.batch_size, self.drawn) // parts * parts
        if size == 0:
            raise ConfigError(
                "optim.batch_size", f"an epoch of {self.drawn} patches does not fill {parts} parts",
                "lower optim.accumulate, or start fewer processes",
            )  # fmt: skip
        return size

    def fit(self, log: EpochLog | None = None) -> None:
        """Train until it is over; raises NonFiniteLossError where a term is not a number."""
        begun, first, most = time.perf_counter(), self.epoch, self.optim.most_epochs
        while not self._is_over():
            start = time.perf_counter()
            self.task.begin_epoch(self)
            if self.forecast is not None:
                self.forecast.begin_epoch(most - self.epoch)
            row = {"epoch": self.epoch + 1, **self._train_epoch()}
            with nullcontext() if self.average is None else self.average.in_place():
                row |= self.task.judge(self)
                row["seconds"] = round(time.perf_counter() - start, 3)
                self.epoch, self.row = self.epoch + 1, row
                if self.forecast is not None:
                    self.forecast.end_epoch(row["seconds"])
                if not self.task.keeps_last:
                    self._compare(row["val"])
            if self.team.is_first:
                self.run.append_metrics(row)
                if log is not None:
                    log.write(row)
            state = checkpoints.state_of(self._parts, self.epoch, self.best)
            if self.task.keep_every and self.epoch % self.task.keep_every == 0:
                self._save(f"epoch_{self.epoch}.ckpt", state)
            self._save("last.ckpt", state)
            each = (time.perf_counter() - begun) / (self.epoch - first)
            logger.info(
                "epoch %d/%d: %s, %.1f s (%.0f %% waiting for data), %s left",
                self.epoch, most, self.task.summary(row), row["seconds"], 100 * row["waiting"],
                span(each * (most - self.epoch)),
            )  # fmt: skip

    def _compare(self, val: dict[str, Any]) -> None:
        """Keep the student where its epoch is the best so far."""
        loss = val["loss"]
        score = -loss if self.task.score is None else val[self.task.score]
        score = -1.0 if score is None else score
        found = self.best.smoothed(score, loss, self.task.smooth)
        if found is None:
            return
        score, loss = found
        better = self.best.beaten_by(score, loss, self.optim.min_delta)
        if better or self.task.takes_last:
            self.best = Best(self.epoch, score, loss, self.best.recent)
            self._save("best.ckpt", {"student": self.method.student.state_dict()})

    @property
    def _parts(self) -> checkpoints.Parts:
        return checkpoints.Parts(
            self.method, self.optimizer, self.data.digests, self.team.scaling, self.average
        )

    def _is_over(self) -> bool:
        """After the last epoch, or when ``optim.patience`` epochs brought nothing."""
        patience = self.optim.patience
        flat = patience is not None and self.epoch - self.best.epoch >= patience
        return flat or self.epoch >= self.optim.most_epochs

    def _train_epoch(self) -> dict[str, Any]:
        chance = (self.seed, self.epoch, *([self.team.rank] if self.team.rank else []))
        torch.manual_seed(int(np.random.SeedSequence(chance).generate_state(1)[0]))
        self.wrapped.train()
        order = self.task.order(self)
        own = share_of(order, self.batch_size, size=self.team.size, rank=self.team.rank)
        batches = self._batches(own, self.batch_size // self.team.size)
        sums: dict[str, torch.Tensor] = {}
        before = self.epoch * self.steps
        rate, clock, check = 0.0, Waiting(), finite_check(self.team, self._plain, self.epoch)
        for step, (images, indices) in enumerate(clock.watch(batches)):
            at = Progress(self.epoch, self.optim.epochs, step, self.steps)
            rate = self.task.schedule(self.optimizer.param_groups, at, self.batch_size)
            for name, term in self._step(images, indices, at, check).items():
                sums[name] = sums.get(name, torch.zeros((), device=self.device)) + term
            if self.forecast is not None:
                self.forecast.step()
            if self.on_step is not None:
                self.on_step(before + step + 1, self.optim.most_epochs * self.steps)
        check.flush()
        raw = self.team.mean({name: float(total) / self.steps for name, total in sums.items()})
        weighted = {name: self.weights[name] * value for name, value in raw.items()}
        figures = {"lr": rate, "loss": sum(weighted.values()), "raw": raw, "weighted": weighted}
        return {**figures, "waiting": round(clock.share, 3)}

    def _step(
        self, images: torch.Tensor, indices: NDArray[np.int64], at: Progress, check: FiniteCheck
    ) -> dict[str, torch.Tensor]:
        """One optimiser step on this process's part of a batch; returns the detached terms.

        On a GPU nothing in it waits for the device but ``check``, and that for the step before.
        """
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, torch.Tensor] = {}
        parts, size = self.optim.accumulate, len(indices) // self.optim.accumulate
        for part in range(parts):
            own = slice(part * size, (part + 1) * size)
            place = Part(self.team.rank * len(indices) + own.start, self.batch_size)
            batch = self.views.batch(images[own], indices[own], at, place)
            with self.fabric.no_backward_sync(self.wrapped, enabled=part < parts - 1):
                terms: dict[str, torch.Tensor] = self.wrapped(batch, at)
                total = torch.stack([self.weights[k] * v for k, v in terms.items()]).sum()
                check.see({k: v.detach() for k, v in terms.items()}, total.detach(), at)
                self.fabric.backward(total / parts)
            for name, term in terms.items():
                sums[name] = sums.get(name, torch.zeros_like(term)) + term.detach() / parts
        self.task.before_step(at, self._unscale)
        check.guard(self._plain)
        self.team.step(self.optimizer)
        self.method.after_step(at)
        if self.average is not None:
            self.average.update()
        check.step_done()
        return sums

    def _unscale(self) -> None:
        """Undo the scaling of gradients in half precision."""
        if self.team.scaling is not None:
            self.team.scaling.unscale_gradients(self._plain)

    def predict(self, indices: NDArray[np.int64]) -> NDArray[np.float64]:
        """Logits of samples without augmentation, each process its share: float64 (M, C)."""
        self.wrapped.eval()
        parts = []
        with torch.inference_mode(), self.fabric.autocast():
            own = indices[self.team.rank :: self.team.size]
            for images, chosen in self._batches(own, 2 * self.batch_size):
                parts.append(self.method.predict(self.views.batch(images, chosen, None)))
            mine = torch.cat(parts).cpu().double().numpy() if parts else None
        shares = self.team.gather(mine)
        width = next(share.shape[1] for share in shares if share is not None)
        found = np.empty((len(indices), width))
        for rank, share in enumerate(shares):
            if share is not None:
                found[rank :: self.team.size] = share
        return found

    def _batches(
        self, order: NDArray[np.int64], size: int
    ) -> Iterator[tuple[torch.Tensor, NDArray[np.int64]]]:
        """What the task's views read of samples, and which these are."""
        ring = getattr(self.views, "ring", None)  # views of other packages have none
        more = {} if ring is None else {"ring": ring}
        read = self.views.read
        return self.data.batches(order, size, threads=self.threads, read=read, **more)

    def machine(self) -> dict[str, Any]:
        """What the training uses of this machine, for its record."""
        cache = getattr(getattr(self.task.config, "data", None), "cache_gb", None)
        found: dict[str, Any] = {"precision": self.optim.precision, "threads": self.threads}
        return found if cache is None else found | {"cache_gb": cache_of(cache)}

    def described(self) -> str:
        """The values of :meth:`machine` in a line."""
        made = self.machine()
        cache = f", up to {made['cache_gb']:g} GB of data in memory" if "cache_gb" in made else ""
        return f"{self.device}, {made['precision']}, {made['threads']} reading threads{cache}"

    def checked_logits(self) -> NDArray[np.float64]:
        """Logits of the validation part; raises NonFiniteLossError."""
        self.team.average_buffers(self.method.student)
        logits = self.predict(self.val_indices)
        if not np.isfinite(logits).all():
            raise self.team.reported_once(
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
        self.epoch, self.best = checkpoints.restore(self._parts, state, file)
        self._keep_metrics()
        logger.info("resumed after epoch %d", self.epoch)

    def _keep_metrics(self) -> None:
        """Drop the rows of epochs that are to come again."""
        if self.team.is_first:
            rows = [r for r in self.run.read_metrics() if r.get("epoch", math.inf) <= self.epoch]
            self.run.keep_metrics(rows)
            write_csv(self.run)

    def load_best(self) -> None:
        """Put the weights of the best epoch into the student, if the task keeps that one."""
        if self.task.keeps_last:
            return
        file = self.run.checkpoints / "best.ckpt"
        state = self.team.first(lambda: checkpoints.load(file, self.device))
        self.method.student.load_state_dict(state["student"])

    def run_epochs(self, *, resume: bool, resumed: bool, loggers: Sequence[str] = ()) -> None:
        """Train to the end, from where the run stopped if asked, and load the best epoch."""
        if resume:
            self.resume()
        if resumed and self.team.is_first:
            self.run.note_resume()
        first = self.team.is_first
        log = EpochLog(self.run, loggers, epoch=self.epoch) if first else None
        try:
            with compiled(self.method, wanted=self.optim.compile):
                self.fit(log)
        finally:
            if log is not None:
                log.close()
        self.load_best()


def param_groups(method: Method, *, decay_vectors: bool) -> list[dict[str, Any]]:
    """The trained parameters; those of one dimension in a group of their own without decay."""
    groups: list[dict[str, Any]] = list(method.param_groups())
    if decay_vectors:
        return groups
    parted = []
    for group in groups:
        flat = [p for p in group["params"] if p.ndim <= 1]
        rest = [p for p in group["params"] if p.ndim > 1]
        parted += [group | {"params": rest}, group | {"params": flat, "weight_decay": 0.0}]
    return [group for group in parted if group["params"]]
