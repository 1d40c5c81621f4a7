"""Training a detector, selected by mean average precision."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from wsikd.core.errors import BundleError, ConfigError
from wsikd.learn.engine.trainer import Task, Trainer
from wsikd.learn.methods.base import Batch
from wsikd.learn.ts2g.detect_data import BoxSet, load_boxes
from wsikd.learn.ts2g.detect_method import Detect, DetectConfig, DetectNetwork
from wsikd.learn.ts2g.detect_score import mean_average_precision
from wsikd.learn.ts2g.detectors import Detector, build_detector
from wsikd.models.backbones.resnet_trunks import TRUNK_FILE, resnet_weights
from wsikd.models.device import upload
from wsikd.models.encoders.base import read_state
from wsikd.models.files.card import CARD, REMEDY, DetectorCard
from wsikd.models.files.folder import read_network, write_network

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from wsikd.core.run import RunDir
    from wsikd.learn.data.augment import Part
    from wsikd.learn.methods.base import Progress

logger = logging.getLogger(__name__)


class ImageViews:
    """Makes batches of images; the counterpart of ``wsikd.learn.data.views.Views``."""

    def __init__(self, images: BoxSet, device: torch.device) -> None:
        """For one device."""
        self.images, self.device = images, device

    def read(self, indices: Sequence[int] | NDArray[Any]) -> Tensor:
        """Images filled up with zeros: uint8 (B, 3, H, W)."""
        return self.images.padded(indices)

    def batch(
        self, images: Tensor, indices: NDArray[Any], at: Progress | None, part: Part | None = None
    ) -> Batch:
        """View "image"."""
        return Batch(
            views={"image": upload(images, self.device)},
            label=upload(torch.from_numpy(self.images.label[indices]), self.device),
            slide=tuple(self.images.files[i].stem for i in indices),
            box=torch.from_numpy(indices),
        )


def average_precision(
    method: Detect, views: ImageViews, indices: NDArray[Any], size: int, threads: int = 2
) -> dict[str, float | None]:
    """COCO's mAP of a detector in eval mode, and that at IoU 0.50; None where there is no box.

    Args:
        method: the detector.
        views: views of the images.
        indices: int64 (M,), which of them.
        size: images in a batch.
        threads: number of reading threads.
    """
    found: list[dict[str, Tensor]] = []
    true: list[dict[str, Tensor]] = []
    with torch.inference_mode():
        for batch, chosen in views.images.batches(indices, size, threads=threads, read=views.read):
            found += method.detect(views.batch(batch, chosen, None))
            true += [method.target(int(i)) for i in chosen]
    return mean_average_precision(found, true)


def load_detector(run: Path) -> Detector:
    """The detector of a run, in eval mode on the CPU. Raises BundleError."""
    place, card, weights = read_network(run, DetectorCard)
    try:
        network = DetectNetwork(**card.network)
        detector = _built(network, len(card.classes))
        detector.load_state_dict(weights)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise BundleError(
            place / CARD, f"does not match its weights ({type(error).__name__})",
            REMEDY,
        ) from error  # fmt: skip
    return detector.eval()


@dataclass(frozen=True)
class DetectResult:
    """The result of a run: its folder, the detector in it, the best epoch, mAP on validation."""

    path: Path
    bundle: Path
    best_epoch: int
    metrics: dict[str, Any]

    def text(self) -> str:
        """The result as a line."""
        parts = [
            f"{name} {'undefined' if v is None else f'{v:.3f}'}" for name, v in self.metrics.items()
        ]
        return f"{self.bundle}: on validation {', '.join(parts)} (epoch {self.best_epoch})"


class DetectTask(Task[BoxSet, DetectConfig, DetectResult]):
    """Trains a detector; an epoch is better by its mAP (COCO's, 0.50 to 0.95) on validation."""

    score = "map"
    method: Detect
    views: ImageViews

    def load(self, given: BoxSet | None = None, resumed: RunDir | None = None) -> None:
        """Read the boxes, where the package that scores them is installed."""
        if find_spec("pycocotools") is None:
            raise ConfigError("method detector", "needs pycocotools", "pip install 'wsikd[detect]'")
        data = self.config.data
        if data.train is None or data.val is None:
            missing = "data.train" if data.train is None else "data.val"
            raise ConfigError(missing, "names no annotation file", f"set {missing}=FILE.json")
        folder = None if data.images is None else Path(data.images)
        self.data = given or load_boxes(Path(data.train), Path(data.val), folder)

    def build(self) -> None:
        """A detector on its trunk."""
        detector = _start(self.config, len(self.data.classes))
        learner = self.config.learner
        assert issubclass(learner, Detect)
        self.method = learner.build(self.config, detector, self.data)

    def make_views(self, device: torch.device) -> ImageViews:
        """Views of whole images."""
        return ImageViews(self.data, device)

    def begin(self, trainer: Trainer[BoxSet]) -> None:
        """Log what there is."""
        for name in ("train", "val"):
            chosen = self.data.indices(name)
            boxes = sum(len(self.data.labels[i]) for i in chosen)
            logger.info("%s: %d images, %d boxes", name, len(chosen), boxes)

    def judge(self, trainer: Trainer[BoxSet]) -> dict[str, Any]:
        """``map`` and ``map_50`` on validation, and ``loss``, which falls as mAP rises."""
        figures = self._precision(trainer)
        return {"val": {"loss": -(figures["map"] or 0.0), **figures}}

    def _precision(self, trainer: Trainer[BoxSet]) -> dict[str, float | None]:
        trainer.wrapped.eval()
        with trainer.fabric.autocast():
            return average_precision(
                self.method, self.views, trainer.val_indices, trainer.batch_size,
                trainer.threads,
            )  # fmt: skip

    def export(self, trainer: Trainer[BoxSet]) -> DetectResult:
        """Write the detector, and its trunk apart."""
        metrics, run, best = self._precision(trainer), trainer.run, trainer.best.epoch
        if trainer.team.is_first:
            detector = self.method.student.to("cpu")
            trunk = {k: v.contiguous() for k, v in detector.trunk().items()}
            write_network(run.student, detector.state_dict(), DetectorCard, {
                "network": self.config.network.model_dump(), "classes": list(self.data.classes),
                "data": self.data.digests, "metrics": {"split": "val", **metrics},
                "training": {"seed": self.seed, "epochs": self.config.optim.epochs,
                             "best_epoch": best},
            }, {TRUNK_FILE: trunk})  # fmt: skip
            run.append_metrics({"event": "final", "val": metrics})
        return DetectResult(run.path, run.student, best, metrics)


def _start(config: DetectConfig, classes: int) -> Detector:
    network = config.network
    if network.arch == "deformable_detr" and network.trunk is None:
        raise ConfigError(
            "network.trunk", "deformable_detr, whose norms are frozen, needs a trained trunk",
            f"set it to the weights of a {network.backbone}, or use fasterrcnn",
        )  # fmt: skip
    detector = _built(network, classes)
    if network.trunk is not None:
        detector.load_trunk(resnet_weights(read_state(Path(network.trunk)), network.trunk))
    return detector


def _built(network: DetectNetwork, classes: int) -> Detector:
    return build_detector(
        network.arch, classes, image_px=network.image_px, backbone=network.backbone,
        layers=network.layers, anchors_px=network.anchors_px, **network.options,
    )  # fmt: skip
