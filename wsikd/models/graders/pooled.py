"""A grader: normalise, up-sample if asked, backbone, global average pooling, one linear layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsikd.core.errors import ConfigError
from wsikd.core.registry import resolve
from wsikd.models.backbones.open import build_backbone
from wsikd.models.graders.colour_input import without_colour
from wsikd.models.names import is_grader
from wsikd.models.tables import GRADERS as GRADERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from wsikd.models.backbones.base import Backbone
    from wsikd.models.files.card_origin import InitWeights

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
NORMS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "none": ((0.0,) * 3, (1.0,) * 3),
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
    "half": ((0.5,) * 3, (0.5,) * 3),
}
"""Mean and deviation of an input of 0 to 1, per channel."""


class Grader(nn.Module):
    """Patches in, class logits out.

    The pooled linear head is what gives class attention its closed form.

    Attributes:
        pooled: the head reads the means of the deepest map, and has the weight and bias of a
            linear layer.
        options: settings of a network of ``GRADERS``, kept in its card; none for others.
        colour: "rgb", or what takes colour away, see ``models.colour.without_colour``; mean and std
            are then of what it leaves.
        origin: pretrained weights that its training started from.
        corner_aligned: up-sampling puts corners on corners instead of half-pixel centres.
    """

    mean: Tensor
    std: Tensor
    head: Any
    pooled = True
    colour = "rgb"
    corner_aligned = False
    origin: InitWeights | None = None

    def __init__(
        self,
        backbone: Backbone,
        head: nn.Module | int,
        *,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        upsample: int = 1,
    ) -> None:
        """Put a head on a backbone.

        Args:
            backbone: network with taps; the deepest is pooled.
            head: number of logits of a linear layer, or the head itself.
            mean: per channel, in units of 0 to 1.
            std: per channel, in units of 0 to 1.
            upsample: bilinear factor on the input, half-pixel centred unless ``corner_aligned`` is
                set; 1 reads it as it is.
        """
        super().__init__()
        self.backbone = backbone
        if isinstance(head, int):
            head = nn.Linear(backbone.taps[backbone.deepest].channels, head)
        self.head = head
        self.upsample = upsample
        self.options: dict[str, Any] = {}
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1))

    def normalise(self, x: Tensor) -> Tensor:
        """uint8 or float (B, 3, H, W) of 0 to 255 -> the input of the backbone."""
        if self.backbone.entered:  # the map of its frozen stages
            return x
        x = x.to(self.mean.dtype)
        if self.colour == "rgb":
            x = (x - 255 * self.mean) / (255 * self.std)
        else:
            x = (without_colour(x, self.colour) - self.mean) / self.std
        if self.upsample != 1:
            x = functional.interpolate(
                x, scale_factor=self.upsample, mode="bilinear", align_corners=self.corner_aligned
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

    @property
    def embedding_dim(self) -> int:
        """Numbers in an embedding."""
        return self.backbone.taps[self.backbone.deepest].channels

    def embed(self, x: Tensor) -> Tensor:
        """The input of the head: uint8 or float (B, 3, H, W) of 0 to 255 -> (B, embedding_dim)."""
        return self.backbone(self.normalise(x)).mean((2, 3))  # type: ignore[no-any-return]

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
    options: Mapping[str, Any] | None = None,
    colour: str = "rgb",
) -> Grader:
    """Make a grader by name.

    Args:
        arch: an entry of ``BACKBONES`` or of ``GRADERS``, or "timm:NAME".
        classes: number of logits.
        width: factor on the channels, where the network scales.
        input_norm: of ``NORMS``: "none" (0 to 1), "imagenet" (its mean and deviation) or "half"
            (-1 to 1).
        upsample: factor on the input.
        weights: ImageNet state dict of the backbone, None for random.
        drop_pools: halvings of the grid to leave out, see ``backbone.drop_strides``.
        options: options of a network of ``GRADERS``, see ``hybrid_options.Hybrid``.
        colour: "rgb", "grey" or "haematoxylin"; without colour, patches are normalised one by one
            and ``input_norm`` does not count.

    Raises:
        ConfigError: the network is unknown, the weights do not fit it, or it has fewer halvings.
    """
    norm = NORMS[input_norm if colour == "rgb" else "none"]
    return assemble(
        arch, classes, mean=norm[0], std=norm[1], width=width, upsample=upsample, weights=weights,
        drop_pools=drop_pools, options=options, colour=colour,
    )  # fmt: skip


def assemble(
    arch: str,
    classes: int,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    width: float = 1.0,
    upsample: int = 1,
    weights: Mapping[str, Tensor] | None = None,
    drop_pools: int = 0,
    options: Mapping[str, Any] | None = None,
    colour: str = "rgb",
) -> Grader:
    """As :func:`build_grader`, with any mean and deviation of the input, in units of 0 to 1."""
    if not is_grader(arch):
        backbone = build_backbone(arch, width=width, weights=weights, drop_pools=drop_pools)
        plain = Grader(backbone, classes, mean=mean, std=std, upsample=upsample)
        plain.colour = colour
        return plain
    from wsikd.core.config import parse_config
    from wsikd.models.graders.hdkd_options import Hybrid

    if drop_pools:
        raise ConfigError(
            f"network.drop_pools {drop_pools}", f"{arch} has a stem_stride instead",
            "set network.hybrid.stem_stride",
        )  # fmt: skip
    if weights is not None:
        raise ConfigError(arch, "has no ImageNet weights", "use network.init: random")
    hybrid = parse_config(Hybrid, options or {}, name="network.hybrid")
    make = resolve(GRADERS, arch, kind="graders")
    grader: Grader = make(classes, width, hybrid, mean=mean, std=std, upsample=upsample)
    grader.options, grader.colour = hybrid.model_dump(mode="json"), colour
    return grader
