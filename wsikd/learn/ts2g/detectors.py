"""Lesion detectors of other libraries behind one face; their ResNet becomes a trunk.

===================  ============================================================
fasterrcnn           torchvision, ResNet with feature pyramid (S. Ren et al., NeurIPS 2015)
retinanet            torchvision, the same trunk (T.-Y. Lin et al., ICCV 2017)
deformable_detr      transformers, ResNet (X. Zhu et al., ICLR 2021); extra ``detect``
===================  ============================================================

Images are float (3, H, W) of 0 to 1, RGB. A target has ``boxes`` float (n, 4), left, top, right,
bottom in px, and ``labels`` int64 (n,) from 0. A detection has ``scores`` too.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from wsikd.core.errors import ConfigError
from wsikd.core.registry import resolve
from wsikd.models.backbones.resnet_trunks import resnet_weights
from wsikd.models.graders.pooled import IMAGENET_MEAN, IMAGENET_STD

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Target = Mapping[str, Tensor]

DETECTORS: dict[str, str] = {
    "fasterrcnn": "wsikd.learn.ts2g.detectors:faster_rcnn",
    "retinanet": "wsikd.learn.ts2g.detectors:retinanet",
    "deformable_detr": "wsikd.learn.ts2g.detectors:deformable_detr",
}


class Detector(nn.Module):
    """A detector: losses in training, detections otherwise."""

    def losses(self, images: Sequence[Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        """Scalar terms by the names of its library."""
        raise NotImplementedError

    def detect(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Boxes, labels and scores of each image."""
        raise NotImplementedError

    def trunk(self) -> dict[str, Tensor]:
        """Weights of its ResNet, in torchvision's names."""
        return resnet_weights(self.state_dict(), "detector")

    def load_trunk(self, weights: Mapping[str, Tensor]) -> None:
        """Start from a ResNet of its own depth, in torchvision's names. Raises ConfigError."""
        prefix = next(k for k in self.state_dict() if k.endswith("layer1.0.conv1.weight"))
        prefix = prefix.removesuffix("layer1.0.conv1.weight")
        own = {k for k in self.state_dict() if k.startswith(prefix)}
        state = {prefix + k: v for k, v in weights.items() if prefix + k in own}
        missing = {k for k in own if not k.endswith("num_batches_tracked")} - set(state)
        if missing:
            raise ConfigError(
                "network.trunk", f"lacks {min(missing)}", "give a whole network.backbone"
            )
        try:
            self.load_state_dict(state, strict=False)
        except RuntimeError as error:
            raise ConfigError(
                "network.trunk", "is not a network.backbone", "give weights of one"
            ) from error


def build_detector(
    arch: str,
    classes: int,
    *,
    image_px: int,
    backbone: str = "resnet50",
    layers: Sequence[int] | None = None,
    anchors_px: Sequence[float] | None = None,
    **options: Any,
) -> Detector:
    """Make a detector with random weights.

    Args:
        arch: entry of ``DETECTORS``.
        classes: kinds of lesions.
        image_px: images are resized so that their shorter side is this.
        backbone: its trunk, a ResNet of torchvision.
        layers: groups of the trunk, 1 to 4, whose maps (strides 4 to 32) the pyramid is made of;
            None takes the library's. Of fasterrcnn and retinanet, as is the next.
        anchors_px: side of the square boxes that are tried on each map of the pyramid, in px of the
            resized image, from the finest; None takes the library's, of 32 px and more.
        options: options of the library's own constructor or configuration.

    Raises:
        ConfigError: it is unknown, its library is not installed or refuses the options.
    """
    make = resolve(DETECTORS, arch, kind="detectors")
    if arch == "deformable_detr":
        for name, value in (("layers", layers), ("anchors_px", anchors_px)):
            if value is not None:
                raise ConfigError(f"network.{name}", f"is nothing for {arch}", "leave it out")
        make = partial(make, classes, image_px, backbone=backbone)
    else:
        make = partial(make, classes, image_px, backbone, layers, anchors_px)
    try:
        found: Detector = make(**options)
    except (TypeError, ValueError, AttributeError, ZeroDivisionError, RuntimeError) as error:
        if not options or isinstance(error, ConfigError):
            raise
        names = ", ".join(options)
        raise ConfigError(
            "network.options", f"{arch} cannot be made with {names} ({error})"[:300], "change them"
        ) from error
    return found


class _Torchvision(Detector):
    """Those of torchvision, which resize and normalise by themselves."""

    def __init__(self, net: nn.Module, *, background: bool) -> None:
        super().__init__()
        self.net, self.first = net, int(background)

    def losses(self, images: Sequence[Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        shifted = [
            {"boxes": t["boxes"].reshape(-1, 4), "labels": t["labels"] + self.first}
            for t in targets
        ]
        return dict(self.net(list(images), shifted))

    def detect(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        return [{**d, "labels": d["labels"] - self.first} for d in self.net(list(images))]


def faster_rcnn(
    classes: int,
    image_px: int,
    backbone: str,
    layers: Sequence[int] | None,
    anchors_px: Sequence[float] | None,
    **options: Any,
) -> Detector:
    """Faster R-CNN with a feature pyramid, every layer trained; class 0 is its background."""
    from torchvision.models.detection import FasterRCNN

    layers = layers or (1, 2, 3, 4)
    anchors = _anchors(anchors_px, len(layers) + 1)
    net = FasterRCNN(
        _pyramid(backbone, layers, None), classes + 1, min_size=image_px, max_size=2 * image_px,
        rpn_anchor_generator=anchors, **options,
    )  # fmt: skip
    return _Torchvision(net, background=True)


def retinanet(
    classes: int,
    image_px: int,
    backbone: str,
    layers: Sequence[int] | None,
    anchors_px: Sequence[float] | None,
    **options: Any,
) -> Detector:
    """RetinaNet with a feature pyramid, every layer trained."""
    from torchvision.models.detection import RetinaNet
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7

    layers = layers or (2, 3, 4)
    anchors = _anchors(anchors_px, len(layers) + 2)
    net = RetinaNet(
        _pyramid(backbone, layers, LastLevelP6P7(256, 256)), classes, min_size=image_px,
        max_size=2 * image_px, anchor_generator=anchors, **options,
    )  # fmt: skip
    return _Torchvision(net, background=False)


def _pyramid(backbone: str, layers: Sequence[int], coarser: Any) -> Any:
    """A ResNet that is trained whole, batch norms too, and the pyramid on it."""
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    return resnet_fpn_backbone(
        backbone_name=backbone, weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5,
        returned_layers=list(layers), extra_blocks=coarser,
    )  # fmt: skip


def _anchors(sides: Sequence[float] | None, maps: int) -> Any:
    """Boxes of one side a map, in three shapes; None leaves them to the library."""
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    if sides is None:
        return None
    if len(sides) != maps:
        raise ConfigError(
            "network.anchors_px", f"names {len(sides)} sides, the pyramid has {maps} maps",
            "give one for each",
        )  # fmt: skip
    shapes = ((0.5, 1.0, 2.0),) * maps
    return AnchorGenerator(tuple((float(s),) for s in sides), shapes)


class _DeformableDetr(Detector):
    """That of transformers."""

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, image_px: int) -> None:
        super().__init__()
        self.net, self.image_px = net, image_px
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def _batch(self, images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Resized, normalised and filled up: (B, 3, H, W), and int64 (B, H, W), 1 on the image."""
        sized = []
        for image in images:
            factor = self.image_px / min(image.shape[1:])
            size = [max(1, round(factor * s)) for s in image.shape[1:]]
            sized.append(
                nn.functional.interpolate(
                    image[None], size=size, mode="bilinear", align_corners=False, antialias=True
                )
            )
        height, width = (max(s.shape[d] for s in sized) for d in (2, 3))
        batch = sized[0].new_zeros(len(sized), 3, height, width)
        mask = torch.zeros(len(sized), height, width, dtype=torch.int64, device=batch.device)
        for place, one in enumerate(sized):
            batch[place, :, : one.shape[2], : one.shape[3]] = ((one - self.mean) / self.std)[0]
            mask[place, : one.shape[2], : one.shape[3]] = 1
        return batch, mask

    def losses(self, images: Sequence[Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        batch, mask = self._batch(images)
        labels = []
        for image, target in zip(images, targets, strict=True):
            height, width = image.shape[1:]
            scale = image.new_tensor([width, height, width, height])
            left, top, right, bottom = (target["boxes"].reshape(-1, 4) / scale).unbind(1)
            boxes = torch.stack(
                [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top], 1
            )
            labels.append({"class_labels": target["labels"], "boxes": boxes})
        found = self.net(pixel_values=batch, pixel_mask=mask, labels=labels)
        factors = {"loss_bbox": 5.0, "loss_giou": 2.0}  # the paper's; its focal term has 1
        terms = {k: v for k, v in found.loss_dict.items() if k in ("loss_ce", *factors)}
        weighted = {k: factors.get(k, 1.0) * v for k, v in terms.items()}
        return {**weighted, "loss_layers": found.loss - sum(weighted.values())}

    def detect(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        batch, mask = self._batch(images)
        found = self.net(pixel_values=batch, pixel_mask=mask)
        results = []
        for image, logits, boxes in zip(images, found.logits, found.pred_boxes, strict=True):
            height, width = image.shape[1:]
            scores = logits.sigmoid().flatten()
            best = scores.topk(min(100, len(scores)))
            x, y, w, h = boxes[best.indices // logits.shape[1]].unbind(1)
            corners = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1)
            scale = image.new_tensor([width, height, width, height])
            results.append({
                "boxes": corners * scale, "scores": best.values,
                "labels": best.indices % logits.shape[1],
            })  # fmt: skip
        return results


def deformable_detr(classes: int, image_px: int, **options: Any) -> Detector:
    """Deformable DETR, 6 + 6 layers and 300 queries unless ``options`` say otherwise."""
    try:
        from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection
    except ImportError as error:
        raise ConfigError(
            "deformable_detr", "needs the package transformers", "pip install 'wsikd[detect]'"
        ) from error
    settings: dict[str, Any] = {
        "num_labels": classes,
        "auxiliary_loss": True,
        "use_timm_backbone": True,
        "backbone": "resnet50",
        "use_pretrained_backbone": False,
        **options,
    }
    config = DeformableDetrConfig(**settings)
    return _DeformableDetr(DeformableDetrForObjectDetection(config), image_px)
