"""Learning to detect lesions: the sum of the losses of a detector's own library."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch

from wsikd.learn.methods.base import Batch, Method, Progress
from wsikd.learn.ts2g.detect_settings import DetectConfig

if TYPE_CHECKING:
    from typing import Self

    from torch import Tensor

    from wsikd.learn.methods.base import Terms
    from wsikd.learn.ts2g.detect_data import BoxSet
    from wsikd.learn.ts2g.detectors import Detector


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
            image, target = self._cut(padded, index), self.target(index, padded.device)
            if self.flips and bool(torch.rand(()) < 0.5):
                image, target = mirrored(image, target)
            images.append(image)
            targets.append(target)
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

    def target(self, index: int, device: torch.device) -> dict[str, Tensor]:
        """Boxes and labels of an image."""
        return {
            "boxes": torch.from_numpy(self.images.boxes[index]).to(device),
            "labels": torch.from_numpy(self.images.labels[index]).to(device),
        }


def mirrored(image: Tensor, target: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """An image (3, H, W) and its boxes, left to right."""
    boxes = target["boxes"].clone()
    boxes[:, [0, 2]] = image.shape[2] - boxes[:, [2, 0]]
    return image.flip(2), {**target, "boxes": boxes}
