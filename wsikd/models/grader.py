"""A grader: normalise, up-sample if asked, backbone, global average pooling, one linear layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsikd.models.backbone import build_backbone

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from wsikd.models.backbone import Backbone

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Grader(nn.Module):
    """Patches in, class logits out.

    The pooled linear head is what gives class attention its closed form.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        *,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        upsample: int = 1,
    ) -> None:
        """Put a head on a backbone.

        Args:
            backbone: network with taps; the deepest is pooled.
            classes: number of logits.
            mean: per channel, in units of 0 to 1.
            std: per channel, in units of 0 to 1.
            upsample: bilinear factor on the input, half-pixel centred; 1 reads it as it is.
        """
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.taps[backbone.deepest].channels, classes)
        self.upsample = upsample
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1))

    def normalise(self, x: Tensor) -> Tensor:
        """uint8 or float (B, 3, H, W) of 0 to 255 -> what the backbone reads."""
        x = x.to(self.head.weight.dtype)
        x = (x - 255 * self.mean) / (255 * self.std)
        if self.upsample != 1:
            x = functional.interpolate(
                x, scale_factor=self.upsample, mode="bilinear", align_corners=False
            )
        return x

    def with_taps(self, x: Tensor, names: Iterable[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits and taps in one pass.

        Args:
            x: uint8 or float (B, 3, H, W), 0 to 255.
            names: taps of the backbone.

        Returns:
            Logits (B, classes), and name -> (B, channels, h, w).
        """
        deepest = self.backbone.deepest
        taps = self.backbone.forward_taps(self.normalise(x), {*names, deepest})
        return self.head(taps[deepest].mean((2, 3))), taps

    def forward(self, x: Tensor) -> Tensor:
        """Logits: uint8 or float (B, 3, H, W) of 0 to 255 -> (B, classes)."""
        return self.with_taps(x, ())[0]


def build_grader(
    arch: str,
    classes: int,
    *,
    width: float = 1.0,
    input_norm: str = "none",
    upsample: int = 1,
    weights: Mapping[str, Tensor] | None = None,
    drop_pools: int = 0,
) -> Grader:
    """Make a grader by name.

    Args:
        arch: an entry of ``BACKBONES``, or "timm:NAME".
        classes: number of logits.
        width: factor on the channels, where the network scales.
        input_norm: "none" (0 to 1) or "imagenet" (its mean and deviation).
        upsample: factor on the input.
        weights: ImageNet state dict of the backbone, None for random.
        drop_pools: halvings of the grid to leave out, see ``backbone.drop_strides``.

    Raises:
        ConfigError: the network is unknown, the weights do not fit it, or it has fewer halvings.
    """
    backbone = build_backbone(arch, width=width, weights=weights, drop_pools=drop_pools)
    if input_norm == "imagenet":
        return Grader(backbone, classes, mean=IMAGENET_MEAN, std=IMAGENET_STD, upsample=upsample)
    return Grader(backbone, classes, upsample=upsample)
