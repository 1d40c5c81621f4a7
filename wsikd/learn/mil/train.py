"""Training over bags: the loop of ``wsikd.learn.engine.trainer``, selected by AUC."""

from __future__ import annotations

import logging
import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from wsikd.core.run import RunDir
from wsikd.learn.data.parts import checked, never_predicted, told_missing, told_slides
from wsikd.learn.engine.distributed import Team
from wsikd.learn.engine.loggers import check_loggers, log_to
from wsikd.learn.engine.trainer import Trainer, run_epochs
from wsikd.learn.methods.base import Batch
from wsikd.learn.mil.data import BagSet, load_bags
from wsikd.learn.mil.method import Mil
from wsikd.learn.mil.settings import MilConfig
from wsikd.learn.patch.build import seed_weights
from wsikd.learn.score.calibrate import fit_temperature, negative_log_likelihood
from wsikd.learn.score.metrics import intervals, measure, softmax
from wsikd.learn.score.thresholds import choose_threshold, with_intervals
from wsikd.models.device import deterministic
from wsikd.models.files.bag_bundle import save_bag_network
from wsikd.models.slide_level.mil import BagNetwork, build_mil

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from wsikd.learn.data.augment import Part
    from wsikd.learn.methods.base import Progress
    from wsikd.learn.mil.settings import Point

logger = logging.getLogger(__name__)
TOLD = ("auc", "balanced_accuracy", "sensitivity", "specificity", "precision", "f1")


class BagViews:
    """Makes batches of bags; the counterpart of ``wsikd.learn.data.views.Views``."""

    def __init__(self, bags: BagSet, device: torch.device) -> None:
        """For one device."""
        self.bags, self.device = bags, device

    def read(self, indices: Sequence[int] | NDArray[np.int64]) -> Tensor:
        """Bags filled up with NaN: float32 (B, n, D)."""
        return self.bags.padded(indices)

    def batch(
        self,
        bags: Tensor,
        indices: NDArray[np.int64],
        at: Progress | None,
        part: Part | None = None,
    ) -> Batch:
        """Views "bag", filled up with zeros, and "mask"."""
        bags = bags.to(self.device, non_blocking=True)
        mask = ~bags[..., 0].isnan()
        return Batch(
            views={"bag": bags.nan_to_num(0.0), "mask": mask},
            label=torch.from_numpy(self.bags.label[indices]).to(self.device),
            slide=tuple(self.bags.slide[i] for i in indices),
            box=torch.from_numpy(indices),
        )


class BagTrainer(Trainer[BagSet, MilConfig]):
    """Trains a bag network; an epoch is better by its AUC on validation."""

    score = "auc"

    def _make_views(self) -> BagViews:
        return BagViews(self.patches, self.device)

    def _validate(self) -> dict[str, Any]:
        logits = self._checked_logits()
        truth = self.patches.label[self.val_indices]
        figures = measure(truth, softmax(logits))
        told = {"auc": figures["auc_macro"], "balanced_accuracy": figures["balanced_accuracy"]}
        loss = negative_log_likelihood(logits, truth)
        return {"loss": loss, **{k: None if math.isnan(v) else v for k, v in told.items()}}


@dataclass(frozen=True)
class BagResult:
    """What a run came to.

    Attributes:
        path: the run folder.
        bundle: the network in it.
        best_epoch: epoch it was taken from, counted from 1.
        metrics: of the network on the validation bags, with intervals.
        threshold: on the last class's probability; None with more than two classes.
        missing: classes that it never predicts on validation.
    """

    path: Path
    bundle: Path
    best_epoch: int
    metrics: dict[str, Any]
    threshold: float | None
    missing: tuple[str, ...]

    def told(self) -> str:
        """What it came to, in a line."""
        parts = [f"{name} {figure(self.metrics[name])}" for name in TOLD if name in self.metrics]
        point = "" if self.threshold is None else f" at {self.threshold:.3g}"
        return (
            f"{self.bundle}: on validation {', '.join(parts)}{point} "
            f"(epoch {self.best_epoch}, {told_slides(self.metrics['bags'])})"
            + told_missing(self.missing)
        )


def figure(found: Mapping[str, Any]) -> str:
    """A value with its interval, for a line."""
    if found["value"] is None:
        return "undefined"
    between = found["interval"]
    spread = "" if between is None else f" [{between[0]:.3f}, {between[1]:.3f}]"
    return f"{found['value']:.3f}{spread}"


def train_bags(
    config: MilConfig,
    out: Path,
    *,
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
    bags: BagSet | None = None,
    loggers: Sequence[str] = (),
    told: Callable[[int, int], None] | None = None,
) -> BagResult:
    """Train a bag network and write its run folder.

    Args:
        config: see ``wsikd.learn.mil.settings``.
        out: the run folder.
        seed: of initialisation and order; the split has its own.
        device: "auto", "cpu" or "cuda:0".
        resume: continue the run in ``out``.
        bags: of ``config.data`` and ``config.split``, where they are loaded already.
        loggers: beside ``metrics.jsonl`` and ``metrics.csv``: "tensorboard".
        told: is given steps done and steps in all, after each.

    Raises:
        WsikdError: of the kind that names the fault.
    """
    check_loggers(loggers)
    run, team = RunDir(out), Team(config, device)
    with deterministic(wanted=config.optim.deterministic), team:
        resumed = team.first(lambda: run.check(config, resume=resume, seed=seed))
        bags = checked(bags or load_bags(config.data, config.split))
        seed_weights(seed)
        network = build_mil(
            config.network.arch, bags.dim, len(bags.classes), **config.network.options()
        )
        method = Mil(network, instance=config.weights["instance"] > 0)
        trainer = BagTrainer(method, bags, config, run, seed=seed, team=team, told=told)
        made = {"device": team.device.type, "processes": team.size, "data": bags.digests}
        team.first(lambda: run.start(config, resume=resume, seed=seed, **made))
        with log_to(run.log_file) if team.is_first else nullcontext():
            run_epochs(trainer, resume=resume, resumed=resumed, loggers=loggers)
            return _finish(trainer, bags, config)


def _finish(trainer: BagTrainer, bags: BagSet, config: MilConfig) -> BagResult:
    """Choose the operating point on validation, and write the network."""
    val = trainer.val_indices
    logits, truth = trainer.predict(val), bags.label[val]
    probability = softmax(logits)
    threshold = operating_point(truth, probability, config.point)
    metrics = score_bags(truth, probability, [bags.group[i] for i in val], threshold)
    bundle = trainer.run.student
    if trainer.team.is_first:
        save_bag_network(
            bundle, cast("BagNetwork", trainer.method.student.to("cpu")), arch=config.network.arch,
            options=config.network.options(), dim=bags.dim, classes=bags.classes,
            encoder=bags.encoder, threshold=threshold, point=config.point.model_dump(),
            temperature=fit_temperature(logits, truth), data=bags.digests,
            metrics={"split": "val", **metrics}, left_out=len(bags.left_out),
            training={"seed": trainer.seed, "epochs": config.optim.epochs,
                      "best_epoch": trainer.best.epoch},
        )  # fmt: skip
        trainer.run.append_metrics({"event": "final", "val": metrics, "threshold": threshold})
    predicted = probability.argmax(1)
    if threshold is not None:
        predicted = (probability[:, 1] >= threshold).astype(np.int64)
    missing = never_predicted(predicted, bags.classes)
    return BagResult(trainer.run.path, bundle, trainer.best.epoch, metrics, threshold, missing)


def operating_point(
    truth: NDArray[np.int64], probability: NDArray[np.float64], point: Point
) -> float | None:
    """The threshold on the last of two classes, chosen on these bags; None with more classes."""
    if probability.shape[1] != 2:
        return None
    found = choose_threshold(
        truth == 1, probability[:, 1], rule=point.rule, sensitivity=point.sensitivity
    )
    return None if math.isnan(found) else found


def score_bags(
    truth: NDArray[np.int64],
    probability: NDArray[np.float64],
    groups: Sequence[str],
    threshold: float | None,
) -> dict[str, Any]:
    """Figures of bags with bootstrap intervals over groups.

    Args:
        truth: int64 (N,).
        probability: float64 (N, C).
        groups: patient or slide of each, (N,).
        threshold: chosen elsewhere; None leaves out what needs one.

    Returns:
        ``bags``, and ``auc``, ``accuracy``, ``balanced_accuracy`` and, with a threshold,
        ``sensitivity``, ``specificity``, ``precision``, ``f1``, each {"value", "interval"}.
    """
    point, spread = measure(truth, probability), intervals(truth, probability, groups)
    found: dict[str, Any] = {"bags": len(truth)}
    names = {"auc": "auc_macro", "accuracy": "accuracy", "balanced_accuracy": "balanced_accuracy"}
    for name, own in names.items():
        between = spread[own]
        found[name] = {
            "value": None if math.isnan(point[own]) else point[own],
            "interval": None if between is None else list(between),
        }
    if threshold is not None and probability.shape[1] == 2:
        found.update(with_intervals(truth == 1, probability[:, 1], threshold, groups))
    return found
