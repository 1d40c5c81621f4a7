"""Learning to detect lesions: the sum of the losses of a detector's own library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator

from wsikd.core.config import Settings
from wsikd.learn.engine.configurations import MethodConfig
from wsikd.learn.engine.settings import NonNegative, Optim
from wsikd.learn.methods.base import Batch, Method, Progress
from wsikd.models.device import upload

if TYPE_CHECKING:
    from typing import Self

    from torch import Tensor

    from wsikd.learn.methods.base import Terms
    from wsikd.learn.ts2g.detect_data import BoxSet
    from wsikd.learn.ts2g.detectors import Detector


class DetectData(Settings):
    """Images and boxes in COCO's format."""

    train: str | None = None
    """Annotation file (JSON) of the training images."""
    val: str | None = None
    """Annotation file of the validation images; no image may be in both."""
    images: str | None = None
    """Folder of the images; none: the folder of each annotation file, or images/ in it."""
    flips: bool = True
    """Mirror images at random, left to right."""

    files: ClassVar[tuple[str, ...]] = ("train", "val")


class DetectNetwork(Settings):
    """The detector."""

    arch: Literal["fasterrcnn", "retinanet", "deformable_detr"] = "fasterrcnn"
    """See wsikd.learn.ts2g.detectors."""
    image_px: Annotated[int, Field(gt=31)] = 800
    """Images are resized so that their shorter side is this."""
    backbone: Literal["resnet50", "resnet18"] = "resnet50"
    """Its trunk."""
    layers: list[Annotated[int, Field(ge=1, le=4)]] | None = Field(default=None, min_length=1)
    """Groups of the trunk whose maps (strides 4, 8, 16, 32) are used, e.g. [2, 3, 4]; later groups
    are removed. None: the library's choice. Not for deformable_detr."""
    anchors_px: list[Annotated[float, Field(gt=0)]] | None = None
    """Sides of the anchor boxes on each map, from the finest, in px of the resized image: one for
    each of layers, and one more (fasterrcnn) or two (retinanet). None: 32, 64, 128, ... px, which
    is too large for lesions below 20 px. Not for deformable_detr."""
    trunk: str | None = None
    """Initial weights of its trunk: a state dict of the network or of a detector; none: random
    ones."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the library's constructor, e.g. num_queries of deformable_detr, which needs
    decoder_layers of 2 or more."""

    @model_validator(mode="after")
    def _options_in_range(self) -> Self:
        least = {"decoder_layers": 2, "encoder_layers": 1, "num_queries": 1, "d_model": 2}
        for name, lowest in least.items() if self.arch == "deformable_detr" else ():
            value = self.options.get(name, lowest)
            if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
                raise ValueError(f"options.{name} is {value!r}; give a whole number from {lowest}")
        return self


class DetectOptim(Optim):
    """Training of the detector."""

    lr: Annotated[float, Field(gt=0)] = 2e-4
    epochs: Annotated[int, Field(gt=0)] = 50
    batch_size: Annotated[int, Field(gt=0)] = 2
    warmup_epochs: NonNegative = 1.0
    balance: bool = False


class DetectConfig(MethodConfig):
    """One training run of a detector."""

    data: DetectData = DetectData()
    network: DetectNetwork = DetectNetwork()
    optim: DetectOptim = DetectOptim()
    weights: dict[str, NonNegative] = Field(default_factory=lambda: {"loss": 1.0})
    """Factor on ``loss``, the library's sum of losses."""


class Detect(Method):
    """Trains ``student``, a detector; term ``loss``, the sum of its library's own."""

    Config = DetectConfig
    TERMS: ClassVar[Terms] = {"loss": 1.0}
    views = ("image",)
    task = "wsikd.learn.ts2g.detect_train:DetectTask"

    student: Detector  # type: ignore[assignment]

    def __init__(self, student: Detector, images: BoxSet, *, flips: bool) -> None:
        """Boxes are looked up in ``images`` by index."""
        super().__init__()
        self.student, self.images, self.flips = student, images, flips

    @classmethod
    def build(cls, config: DetectConfig, student: Detector, teacher: BoxSet) -> Self:
        """``teacher``: images and the boxes drawn in them."""
        return cls(student, teacher, flips=config.data.flips)

    def forward(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        """``loss`` of images, each mirrored with its boxes by an even chance."""
        images, targets = [], []
        for padded, index in zip(batch.views["image"], batch.box.tolist(), strict=True):
            image, target = self._cut(padded, index), self.target(index)
            if self.flips and bool(torch.rand(()) < 0.5):
                image, target = mirrored(image, target)
            images.append(image)
            targets.append({k: upload(v, padded.device) for k, v in target.items()})
        losses = self.student.losses(images, targets)
        return {"loss": torch.stack([v.sum() for v in losses.values()]).sum()}

    def detect(self, batch: Batch) -> list[dict[str, Tensor]]:
        """Detections of whole images, on the CPU."""
        images = [
            self._cut(padded, index)
            for padded, index in zip(batch.views["image"], batch.box.tolist(), strict=True)
        ]
        return [{k: v.cpu() for k, v in d.items()} for d in self.student.detect(images)]

    def _cut(self, padded: Tensor, index: int) -> Tensor:
        width, height = self.images.size[index].tolist()
        return padded[:, :height, :width].float() / 255

    def target(self, index: int) -> dict[str, Tensor]:
        """Boxes and labels of an image, on the CPU."""
        return {
            "boxes": torch.from_numpy(self.images.boxes[index]),
            "labels": torch.from_numpy(self.images.labels[index]),
        }


def mirrored(image: Tensor, target: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """An image (3, H, W) and its boxes, on the CPU, left to right."""
    boxes = target["boxes"].clone()
    boxes[:, [0, 2]] = image.shape[2] - boxes[:, [2, 0]]
    return image.flip(2), {**target, "boxes": boxes}
