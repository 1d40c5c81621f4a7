"""Training a network over bags, selected by AUC."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from wsikd.core.intervals import MIN_GROUPS_AUC, NO_INTERVAL, rate_interval
from wsikd.core.softmax import softmax
from wsikd.learn.data.parts import checked, missing_text, never_predicted, slides_text
from wsikd.learn.engine.trainer import Task, Trainer
from wsikd.learn.methods.base import Batch
from wsikd.learn.mil.data import BagSet, load_bags
from wsikd.learn.mil.method import Mil, MilConfig
from wsikd.learn.score.calibrate import fit_temperature, negative_log_likelihood
from wsikd.learn.score.metrics import intervals, measure
from wsikd.learn.score.thresholds import (
    CONFIDENCE,
    assured_sensitivity,
    choose_threshold,
    least_of_groups,
    positives_needed,
    with_intervals,
)
from wsikd.models.device import upload
from wsikd.models.files.bag_bundle import save_bag_network
from wsikd.models.slide_level.mil import build_mil

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from wsikd.core.run import RunDir
    from wsikd.learn.data.augment import Part
    from wsikd.learn.methods.base import Progress
    from wsikd.learn.mil.method import Point

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
        """Views "bag", filled up with zeros, "mask", and on the CPU "count"."""
        count = (~bags[..., 0].isnan()).sum(1)
        bags = upload(bags, self.device)
        mask = ~bags[..., 0].isnan()
        return Batch(
            views={"bag": bags.nan_to_num(0.0), "mask": mask, "count": count},
            label=upload(torch.from_numpy(self.bags.label[indices]), self.device),
            slide=tuple(self.bags.slide[i] for i in indices),
            box=torch.from_numpy(indices),
        )


@dataclass(frozen=True)
class BagResult:
    """The result of a run.

    Attributes:
        path: the run folder.
        bundle: the network in it.
        best_epoch: epoch it was taken from, counted from 1.
        metrics: metrics of the network on the validation bags, with intervals.
        threshold: on the last class's probability; None with more than two classes.
        missing: classes that it never predicts on validation.
    """

    path: Path
    bundle: Path
    best_epoch: int
    metrics: dict[str, Any]
    threshold: float | None
    missing: tuple[str, ...]

    def text(self) -> str:
        """The result as a line."""
        parts = [f"{name} {figure(self.metrics[name])}" for name in TOLD if name in self.metrics]
        point = "" if self.threshold is None else f" at {self.threshold:.3g}"
        return (
            f"{self.bundle}: on validation {', '.join(parts)}{point} "
            f"(epoch {self.best_epoch}, {slides_text(self.metrics['bags'])})"
            + ("" if self.metrics["groups"] >= MIN_GROUPS_AUC else f"; {NO_INTERVAL}")
            + missing_text(self.missing)
        )


def figure(found: Mapping[str, Any]) -> str:
    """A value with its interval, for a line."""
    if found["value"] is None:
        return "undefined"
    between = found["interval"]
    spread = "" if between is None else f" [{between[0]:.3f}, {between[1]:.3f}]"
    return f"{found['value']:.3f}{spread}"


class BagTask(Task[BagSet, MilConfig, BagResult]):
    """Classifies bags; an epoch is better by its AUC on validation."""

    score = "auc"
    method: Mil

    def load(self, given: BagSet | None = None, resumed: RunDir | None = None) -> None:
        """List the bags."""
        self.data = checked(given or load_bags(self.config.data, self.config.split))

    def build(self) -> None:
        """The method around a network over bags."""
        own, bags = self.config.network, self.data
        network = build_mil(own.arch, bags.dim, len(bags.classes), **own.options())
        learner = self.config.learner
        assert issubclass(learner, Mil)
        self.method = learner.build(self.config, network, None)

    def make_views(self, device: torch.device) -> BagViews:
        """Views of whole bags."""
        return BagViews(self.data, device)

    def validate(self, logits: NDArray[np.float64]) -> dict[str, Any]:
        """Loss, AUC and balanced accuracy."""
        truth = self.data.label[self.data.indices("val")]
        figures = measure(truth, softmax(logits))
        scores = {"auc": figures["auc_macro"], "balanced_accuracy": figures["balanced_accuracy"]}
        loss = negative_log_likelihood(logits, truth)
        return {"loss": loss, **{k: None if math.isnan(v) else v for k, v in scores.items()}}

    def export(self, trainer: Trainer[BagSet]) -> BagResult:
        """Choose the operating point on validation, and write the network."""
        bags, config, run, val = self.data, self.config, trainer.run, trainer.val_indices
        logits, truth, best = trainer.predict(val), bags.label[val], trainer.best.epoch
        probability, slides = softmax(logits), [bags.slide[i] for i in val]
        groups = [bags.group[i] for i in val]
        threshold = operating_point(truth, probability, config.point, groups)
        point = config.point.model_dump() | held_at(truth, threshold, config.point, groups)
        metrics = score_bags(truth, probability, groups, threshold)
        if trainer.team.is_first:
            save_bag_network(
                run.student, self.method.student.to("cpu"), arch=config.network.arch,
                options=config.network.options(), dim=bags.dim, classes=bags.classes,
                encoder=bags.encoder, threshold=threshold, point=point,
                temperature=fit_temperature(logits, truth, slides), data=bags.digests,
                metrics={"split": "val", **metrics}, left_out=len(bags.left_out),
                training={"seed": self.seed, "epochs": config.optim.epochs, "best_epoch": best},
            )  # fmt: skip
            run.append_metrics({"event": "final", "val": metrics, "threshold": threshold})
        predicted = probability.argmax(1)
        if threshold is not None:
            predicted = (probability[:, 1] >= threshold).astype(np.int64)
        missing = never_predicted(predicted, bags.classes)
        return BagResult(run.path, run.student, best, metrics, threshold, missing)


def operating_point(
    truth: NDArray[np.int64],
    probability: NDArray[np.float64],
    point: Point,
    groups: Sequence[str] | None = None,
) -> float | None:
    """The threshold on the last of two classes, chosen on these bags; None with more classes."""
    if probability.shape[1] != 2:
        return None
    found = choose_threshold(
        truth == 1,
        probability[:, 1],
        rule=point.rule,
        sensitivity=point.sensitivity,
        groups=groups,
    )
    return None if math.isnan(found) else found


def held_at(
    truth: NDArray[np.int64], threshold: float | None, point: Point, groups: Sequence[str]
) -> dict[str, Any]:
    """For the card: the sensitivity that a threshold assures. Warns where it is less than asked.

    Args:
        truth: int64 (N,).
        threshold: result of :func:`operating_point`.
        point: how it was chosen; nothing is assured by another rule than "sensitivity".
        groups: patient or slide of each, (N,).

    Returns:
        ``positives`` (slides or patients), ``needed``, ``assured`` (a sensitivity) and
        ``confidence``.
    """
    if threshold is None or point.rule != "sensitivity":
        return {}
    count = len(least_of_groups(truth == 1, np.zeros(len(truth)), groups))
    needed, assured = positives_needed(point.sensitivity), point.sensitivity
    if needed is None or count < needed:
        assured = assured_sensitivity(count)
        logger.warning(
            "the threshold at a sensitivity of %g is the least score of %d positive slide(s) or "
            "patient(s), which assures %.2f with %.0f %% confidence%s",
            point.sensitivity, count, assured, 100 * CONFIDENCE,
            "" if needed is None else f"; {needed} positives are needed",
        )  # fmt: skip
    return {
        "positives": count, "needed": needed, "assured": assured, "confidence": CONFIDENCE,
    }  # fmt: skip


def score_bags(
    truth: NDArray[np.int64],
    probability: NDArray[np.float64],
    groups: Sequence[str],
    threshold: float | None,
) -> dict[str, Any]:
    """Figures of bags with intervals over groups.

    Args:
        truth: int64 (N,).
        probability: float64 (N, C).
        groups: patient or slide of each, (N,).
        threshold: chosen elsewhere; None leaves out what needs one.

    Returns:
        ``bags`` and ``groups``, and ``auc``, ``accuracy``, ``balanced_accuracy`` and, with a
        threshold, ``sensitivity``, ``specificity``, ``precision``, ``f1``, each {"value",
        "interval"}.
    """
    point, spread = measure(truth, probability), intervals(truth, probability, groups)
    known, group = np.unique(np.asarray(groups), return_inverse=True)
    right = np.bincount(group, probability.argmax(1) == truth)
    spread["accuracy"] = rate_interval(right, np.bincount(group))
    found: dict[str, Any] = {"bags": len(truth), "groups": len(known)}
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
