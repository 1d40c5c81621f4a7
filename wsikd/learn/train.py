"""The only training loop.

All chance is drawn from (seed, epoch, step), so a run that was killed and resumed repeats what an
unbroken one does: on a CPU, bit for bit.
"""

from __future__ import annotations

import logging
import math
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from wsikd.core.errors import CheckpointError, NonFiniteLossError
from wsikd.core.run import RunDir, aside
from wsikd.learn import evaluate
from wsikd.learn.data import PatchSet, load_patches
from wsikd.learn.finish import RunResult, finish
from wsikd.learn.methods.base import Batch, Method, Progress
from wsikd.learn.prepare import (
    build_method,
    build_student,
    init_stream,
    input_spec,
    log_cost,
    open_teacher,
    param_groups,
    seed_weights,
)
from wsikd.learn.schedules import learning_rate
from wsikd.learn.seen import check_unseen
from wsikd.learn.smote import with_invented
from wsikd.learn.splits import epoch_order
from wsikd.learn.targets import open_targets
from wsikd.learn.views import Views
from wsikd.models.device import pick_device

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from wsikd.learn.settings import RunConfig
    from wsikd.models.bundle import StudentBundle

logger = logging.getLogger(__name__)


@dataclass
class Best:
    """The best epoch so far; counted from 1, 0 before the first."""

    epoch: int = 0
    kappa: float = -math.inf
    loss: float = math.inf

    def beaten_by(self, kappa: float, loss: float, min_delta: float = 0.0) -> bool:
        """Kappa higher by more than ``min_delta``; at 0 also the same at a lower loss."""
        tie = kappa == self.kappa and loss < self.loss and not min_delta
        return kappa > self.kappa + min_delta or tie


class Trainer:
    """Trains a method on patches and keeps the best student."""

    def __init__(
        self,
        method: Method,
        patches: PatchSet,
        config: RunConfig,
        run: RunDir,
        *,
        seed: int,
        device: torch.device,
    ) -> None:
        """Put the method on its device; see :func:`distill` for the arguments."""
        from lightning.fabric import Fabric

        self.config, self.patches, self.run, self.seed = config, patches, run, seed
        self.device = device
        self.train_indices, self.val_indices = patches.indices("train"), patches.indices("val")
        on = [device.index or 0] if device.type == "cuda" else 1
        self.fabric = Fabric(accelerator=device.type, devices=on, precision=config.optim.precision)
        self.fabric.launch()
        self.method = method.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        make = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[config.optim.name]
        groups = param_groups(method, decay_vectors=config.optim.decay_vectors)
        optimizer = make(groups, lr=config.optim.lr, weight_decay=config.optim.weight_decay)
        self.wrapped, self.optimizer = self.fabric.setup(self.method, optimizer)
        drawn = config.optim.epoch_patches or len(self.train_indices)
        self.drawn, self.batch_size = drawn, min(config.optim.batch_size, drawn)
        self.steps = max(1, drawn // self.batch_size)
        self.views = Views(patches, config, method.views, seed=seed, device=device)
        self.epoch, self.best = 0, Best()

    def fit(self) -> Best:
        """Train until it is over; raises NonFiniteLossError where a term is not a number."""
        while not self._is_over():
            start = time.perf_counter()
            row = {"epoch": self.epoch + 1, **self._train_epoch()}
            row["val"] = self._validate()
            row["seconds"] = round(time.perf_counter() - start, 3)
            self.epoch += 1
            kappa, loss = row["val"]["kappa"], row["val"]["loss"]
            kappa = -1.0 if kappa is None else kappa
            if self.best.beaten_by(kappa, loss, self.config.optim.min_delta):
                self.best = Best(self.epoch, kappa, loss)
                self._save("best.ckpt", {"student": self.method.student.state_dict()})
            self.run.append_metrics(row)
            self._save("last.ckpt", self._state())
            logger.info(
                "epoch %d/%d: loss %.4f, val loss %.4f, kappa %.3f, balanced accuracy %.3f, %.1f s",
                self.epoch, self.config.optim.epochs, row["loss"], loss, kappa,
                row["val"]["balanced_accuracy"] or 0, row["seconds"],
            )  # fmt: skip
        return self.best

    def _is_over(self) -> bool:
        """After the last epoch, or when ``optim.patience`` epochs brought nothing."""
        patience = self.config.optim.patience
        flat = patience is not None and self.epoch - self.best.epoch >= patience
        return flat or self.epoch >= self.config.optim.epochs

    def _train_epoch(self) -> dict[str, Any]:
        torch.manual_seed(int(np.random.SeedSequence((self.seed, self.epoch)).generate_state(1)[0]))
        self.wrapped.train()
        order = epoch_order(
            self.patches.label[self.train_indices],
            self.drawn,
            seed=self.seed,
            epoch=self.epoch,
            balance=self.config.optim.balance,
        )
        batches = self.patches.batches(
            self.train_indices[order],
            self.batch_size,
            threads=self.config.optim.threads,
            drop_last=True,
            read=self.views.read,
        )
        sums: dict[str, torch.Tensor] = {}
        count, rate = 0, 0.0
        for step, (images, indices) in enumerate(batches):
            at = Progress(self.epoch, self.config.optim.epochs, step, self.steps)
            rate = learning_rate(self.config.optim, self.epoch * self.steps + step, self.steps)
            for name, term in self._step(images, indices, at, rate).items():
                sums[name] = sums.get(name, torch.zeros((), device=self.device)) + term
            count += 1
        raw = {name: float(total) / count for name, total in sums.items()}
        weighted = {name: self.config.weights[name] * value for name, value in raw.items()}
        return {"lr": rate, "loss": sum(weighted.values()), "raw": raw, "weighted": weighted}

    def _step(
        self, images: torch.Tensor, indices: NDArray[np.int64], at: Progress, rate: float
    ) -> dict[str, torch.Tensor]:
        """One optimiser step; returns the detached terms."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        batch = self.batch(images, indices, at)
        self.optimizer.zero_grad(set_to_none=True)
        terms: dict[str, torch.Tensor] = self.wrapped(batch, at)
        total = torch.stack([self.config.weights[k] * v for k, v in terms.items()]).sum()
        if not bool(torch.isfinite(total)):
            name = next((k for k, v in terms.items() if not bool(torch.isfinite(v))), "total")
            value = float(terms.get(name, total).detach())
            raise NonFiniteLossError(
                f"loss term '{name}'",
                f"is {value} in epoch {at.epoch + 1}, step {at.step + 1}",
                "lower optim.lr or that weight; checkpoints/last.ckpt holds the last good epoch",
            )
        self.fabric.backward(total)
        self.optimizer.step()
        self.method.after_step(at)
        return {k: v.detach() for k, v in terms.items()}

    def batch(self, images: torch.Tensor, indices: NDArray[np.int64], at: Progress | None) -> Batch:
        """Views of patches on the device; see :meth:`Views.batch`."""
        return self.views.batch(images, indices, at)

    def predict(self, indices: NDArray[np.int64]) -> NDArray[np.float64]:
        """Logits of patches without augmentation: float64 (M, C)."""
        self.wrapped.eval()
        parts = []
        with torch.inference_mode(), self.fabric.autocast():
            for images, chosen in self.patches.batches(
                indices, 2 * self.batch_size, threads=self.config.optim.threads,
                read=self.views.read,
            ):  # fmt: skip
                logits = self.method.predict(self.batch(images, chosen, None))
                parts.append(logits.double().cpu().numpy())
        return np.concatenate(parts)

    def _validate(self) -> dict[str, Any]:
        logits = self.predict(self.val_indices)
        if not np.isfinite(logits).all():
            raise NonFiniteLossError(
                "validation logits",
                f"are not finite after epoch {self.epoch + 1}",
                "lower optim.lr; checkpoints/last.ckpt holds the last good epoch",
            )
        truth = self.patches.label[self.val_indices]
        shifted = logits - logits.max(1, keepdims=True)
        chosen = np.take_along_axis(shifted, truth[:, None], 1)[:, 0]
        loss = float((np.log(np.exp(shifted).sum(1)) - chosen).mean())
        matrix = evaluate.confusion(truth, logits.argmax(1), len(self.patches.classes))
        summary = evaluate.summarise(matrix, self.patches.classes)
        return {"loss": loss, **{k: summary[k] for k in ("kappa", "balanced_accuracy", "accuracy")}}

    def _state(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "student": self.method.student.state_dict(),
            "helpers": self.method.helpers.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": [self.best.epoch, self.best.kappa, self.best.loss],
            "digests": list(self.patches.digests),
        }

    def _save(self, name: str, state: dict[str, Any]) -> None:
        with aside(self.run.checkpoints / name) as part:
            torch.save(state, part)

    def resume(self) -> None:
        """Take up ``checkpoints/last.ckpt`` where there is one. Raises CheckpointError."""
        file = self.run.checkpoints / "last.ckpt"
        if not file.exists():
            self.run.keep_metrics([])
            return
        state = load_checkpoint(file, self.device)
        try:
            if state["digests"] != self.patches.digests:
                raise CheckpointError(
                    file, "was made on other data", "give the same --data or another -o"
                )
            self.method.student.load_state_dict(state["student"])
            self.method.helpers.load_state_dict(state["helpers"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.epoch, self.best = int(state["epoch"]), Best(*state["best"])
        except (KeyError, TypeError, RuntimeError, ValueError) as error:
            raise CheckpointError(file, "does not fit this run", "choose another -o") from error
        rows = [r for r in self.run.read_metrics() if r.get("epoch", math.inf) <= self.epoch]
        self.run.keep_metrics(rows)
        logger.info("resumed after epoch %d", self.epoch)

    def load_best(self) -> None:
        """Put the weights of the best epoch into the student."""
        file = self.run.checkpoints / "best.ckpt"
        self.method.student.load_state_dict(load_checkpoint(file, self.device)["student"])


def load_checkpoint(file: Path, device: torch.device) -> dict[str, Any]:
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


def distill(
    config: RunConfig,
    out: Path,
    *,
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
    patches: PatchSet | None = None,
) -> RunResult:
    """Train the network of a configuration and write its run folder.

    Args:
        config: see ``wsikd.learn.settings``.
        out: the run folder.
        seed: of initialisation, order and augmentation; the split has its own.
        device: "auto", "cpu" or "cuda:0".
        resume: continue the run in ``out``; a finished one only writes its bundle again.
        patches: of ``config.data`` and ``config.split``, where they are loaded already.

    Raises:
        WsikdError: of the kind that names the fault: configuration, data, teacher, output folder,
            checkpoint, or a loss that is not finite.
    """
    run, where = RunDir(out), pick_device(device)
    resumed = run.check(config, resume=resume, seed=seed)
    teacher = open_teacher(config)
    if resumed:
        _check_teacher(run, teacher)
    patches = patches or load_patches(config.data, config.split)
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
    identity: dict[str, Any] = {"data": patches.digests}
    identity["teacher_sha256"] = teacher and teacher.sha256
    if config.data.smote is not None:
        made = run.read_provenance() if resumed else None
        patches, identity["smote"] = with_invented(patches, config.data, seed=seed, made=made)
    run.start(config, resume=resume, seed=seed, device=where.type, **identity)
    with _log_to(run.log_file):
        used = np.flatnonzero(np.isin(patches.split, ("train", "val")))
        log_cost(spec, student, teacher)
        patches.keep(used, config.data.cache_gb, config.optim.threads)
        trainer = Trainer(method, patches, config, run, seed=seed, device=where)
        if teacher is not None:
            trainer.views.targets = open_targets(trainer, teacher.sha256)
        if trainer.views.averaged:
            patches.keep_averages(trainer.views.factor, config.data.cache_gb)
        if resume:
            trainer.resume()
        if resumed:
            run.note_resume()
        best = trainer.fit()
        trainer.load_best()
        return finish(trainer, spec, teacher, best)


def _check_teacher(run: RunDir, teacher: StudentBundle | None) -> None:
    """Refuse to resume with another teacher, whose losses and digest the run has not seen."""
    made = run.read_provenance()
    if "teacher_sha256" in made and made["teacher_sha256"] != (teacher and teacher.sha256):
        raise CheckpointError(
            run.path,
            "was started with another teacher",
            "give the same --teacher or another -o",
        )


@contextmanager
def _log_to(file: Path) -> Iterator[None]:
    """Copy what wsikd logs to a file."""
    package = logging.getLogger("wsikd")
    handler = logging.FileHandler(file, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    before, least = package.level, package.getEffectiveLevel()
    shown = [(h, h.level) for h in logging.getLogger().handlers]
    package.addHandler(handler)
    if least > logging.INFO:  # for the file alone: what others show stays as it was
        package.setLevel(logging.INFO)
        for other, level in shown:
            other.setLevel(max(level, least))
    try:
        yield
    finally:
        package.setLevel(before)
        for other, level in shown:
            other.setLevel(level)
        package.removeHandler(handler)
        handler.close()
