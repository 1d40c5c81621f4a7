"""The networks of HDKD: a CNN teacher, and a student of the same stages with a transformer behind.

O. S. EL-Assiouti et al., "HDKD: Hybrid data-efficient knowledge distillation network for medical
image classification", arXiv 2407.07516. Both have three stages, F1 to F3, of 64, 96 and 192
channels at strides 2, 4 and 8: a map of one is a target for the other's without an adapter.

Beyond the published form, each a setting of ``Hybrid`` that is off by default: a stem of another
stride, halving in the depthwise convolution, MBConv blocks instead of MBCSA, layer norm before the
feed-forward part, and another deviation of tokens and positions at the start. ``width`` scales the
channels of the stages. Positions are interpolated where a patch has another grid than the table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsikd.core.errors import ConfigError
from wsikd.models.backbones.base import Backbone, Tap
from wsikd.models.graders.pooled import Grader

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from wsikd.models.graders.hdkd_options import Hybrid

CHANNELS = (64, 96, 192)
TEACHER_UNITS = (6, 6, 9)
STUDENT_UNITS = (2, 2, 3)
EXPANSION = 4
REDUCTION = 16
NECK = 128
PATCH = 2


class ChannelSpatialAttention(nn.Module):
    """Channels, then places, are weighed by what pooling sees of them; the input is added again.

    As CBAM (S. Woo et al., ECCV 2018), but GELU in the perceptron and a residual around it all.
    """

    def __init__(self, channels: int) -> None:
        """For maps of so many channels."""
        super().__init__()
        inner = max(1, channels // REDUCTION)
        self.perceptron = nn.Sequential(
            nn.Conv2d(channels, inner, 1, bias=False),
            nn.GELU(),
            nn.Conv2d(inner, channels, 1, bias=False),
        )
        self.place = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        mean, peak = x.mean((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
        y = x * torch.sigmoid(self.perceptron(mean) + self.perceptron(peak))
        seen = torch.cat([y.mean(1, keepdim=True), y.amax(1, keepdim=True)], 1)
        return x + y * torch.sigmoid(self.place(seen))


class SqueezeExcite(nn.Module):
    """Channels are weighed by their means (J. Hu et al., CVPR 2018), with GELU, without biases."""

    def __init__(self, channels: int, inner: int) -> None:
        """For maps of ``channels``, through ``inner``."""
        super().__init__()
        self.squeeze = nn.Linear(channels, inner, bias=False)
        self.excite = nn.Linear(inner, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)."""
        weight: Tensor = self.excite(functional.gelu(self.squeeze(x.mean((2, 3))))).sigmoid()
        return x * weight[:, :, None, None]


class Block(nn.Module):
    """An inverted residual block, MBCSA or MBConv by its gate."""

    def __init__(self, inside: int, outside: int, options: Hybrid, *, down: bool) -> None:
        """From ``inside`` channels to ``outside``; ``down`` halves the grid."""
        super().__init__()
        hidden = EXPANSION * inside
        at_first = options.halve_in == "pointwise"
        strides = (1 + (down and at_first), 1 + (down and not at_first))
        gate: nn.Module = (
            ChannelSpatialAttention(hidden)
            if options.gate == "csa"
            else SqueezeExcite(hidden, max(1, inside // 4))
        )
        self.main = nn.Sequential(
            nn.BatchNorm2d(inside),
            nn.Conv2d(inside, hidden, 1, strides[0], bias=False),
            nn.BatchNorm2d(hidden),
            nn.GELU(),
            nn.Conv2d(hidden, hidden, 3, strides[1], padding=1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.GELU(),
            gate,
            nn.Conv2d(hidden, outside, 1, bias=False),
            nn.BatchNorm2d(outside),
        )
        self.skip: nn.Module = nn.Identity()
        if down:
            self.skip = nn.Sequential(
                nn.MaxPool2d(3, 2, padding=1), nn.Conv2d(inside, outside, 1, bias=False)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inside, h, w) -> (B, outside, h, w), halved if ``down``."""
        return self.skip(x) + self.main(x)  # type: ignore[no-any-return]


def stages(units: Sequence[int], width: float, options: Hybrid) -> Backbone:
    """The three stages F1 to F3.

    Args:
        units: how many in each.
        width: factor on the channels.
        options: stem and blocks.

    Raises:
        ConfigError: the stem has fewer units than halvings.
    """
    channels = [max(4, round(c * width)) for c in CHANNELS]
    halvings = options.stem_stride.bit_length() - 1
    if halvings > units[0]:
        raise ConfigError(
            f"network.hybrid.stem_stride {options.stem_stride}",
            f"takes {halvings} units in the stem, which has {units[0]}",
            f"set network.hybrid.units, e.g. [{halvings}, {units[1]}, {units[2]}]",
        )
    stem: list[nn.Module] = []
    for i in range(units[0]):
        inside, stride = channels[0] if i else 3, 2 if i < halvings else 1
        stem += [
            nn.Conv2d(inside, channels[0], 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(channels[0]),
            nn.GELU(),
        ]
    stride = options.stem_stride
    chain: list[tuple[str, nn.Module, Tap]] = [
        ("F1", nn.Sequential(*stem), Tap(channels[0], stride))
    ]
    for number in (1, 2):
        inside, outside = channels[number - 1], channels[number]
        blocks = [Block(inside, outside, options, down=True)]
        blocks += [Block(outside, outside, options, down=False) for _ in range(units[number] - 1)]
        stride *= 2
        chain.append((f"F{number + 1}", nn.Sequential(*blocks), Tap(outside, stride)))
    return Backbone(chain)


class FactoredHead(nn.Module):
    """Two linear layers with nothing between them: one of rank 128 at most."""

    def __init__(self, inside: int, classes: int) -> None:
        """From pooled features to logits."""
        super().__init__()
        self.first = nn.Linear(inside, NECK)
        self.second = nn.Linear(NECK, classes)
        self.in_features, self.out_features = inside, classes

    @property
    def weight(self) -> Tensor:
        """Weight of the equivalent single layer: (classes, inside)."""
        return self.second.weight @ self.first.weight

    @property
    def bias(self) -> Tensor:
        """Bias of the equivalent single layer: (classes,)."""
        return self.second.weight @ self.first.bias + self.second.bias

    def forward(self, x: Tensor) -> Tensor:
        """(B, inside) -> (B, classes)."""
        return self.second(self.first(x))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Multi-head self-attention; queries, keys and values have no bias."""

    def __init__(self, dim: int, heads: int) -> None:
        """For tokens of ``dim`` channels."""
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, dim) -> (B, N, dim)."""
        count, tokens, dim = x.shape
        split = self.qkv(x).reshape(count, tokens, 3, self.heads, dim // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        y = functional.scaled_dot_product_attention(query, key, value)
        return self.out(y.transpose(1, 2).reshape(count, tokens, dim))  # type: ignore[no-any-return]


class TransformerBlock(nn.Module):
    """x + Attention(LN(x)), then x + FF(x), without a norm before FF unless it is asked for."""

    def __init__(self, options: Hybrid) -> None:
        """For tokens of ``options.dim`` channels."""
        super().__init__()
        dim = options.dim
        self.norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, options.heads)
        self.ff_norm: nn.Module = nn.LayerNorm(dim) if options.ff_prenorm else nn.Identity()
        self.ff = nn.Sequential(
            nn.Linear(dim, EXPANSION * dim), nn.GELU(), nn.Linear(EXPANSION * dim, dim)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, dim) -> (B, N, dim)."""
        x = x + self.attention(self.norm(x))
        return x + self.ff(self.ff_norm(x))  # type: ignore[no-any-return]


class TokenHead(nn.Module):
    """The DFLT: a map in patches of 2 x 2 through a transformer, to one or two sets of logits."""

    def __init__(self, channels: int, classes: int, options: Hybrid) -> None:
        """For maps of ``channels``; see ``Hybrid`` for the rest."""
        super().__init__()
        dim, side = options.dim, options.positions
        self.side, self.special = side, 1 + options.distillation
        self.embed = nn.Sequential(
            nn.LayerNorm(PATCH**2 * channels),
            nn.Linear(PATCH**2 * channels, dim),
            nn.LayerNorm(dim),
        )
        spread = options.init_std
        self.tokens = nn.Parameter(spread * torch.randn(1, self.special, dim))
        self.position = nn.Parameter(spread * torch.randn(self.special + side**2, dim))
        self.blocks = nn.Sequential(*(TransformerBlock(options) for _ in range(options.depth)))
        self.norm = nn.LayerNorm(dim)
        self.class_head = nn.Linear(dim, classes)
        self.distillation_head = nn.Linear(dim, classes) if options.distillation else None

    def positions(self, height: int, width: int) -> Tensor:
        """The table for a grid of tokens, bicubic where it is not the table's own: (N, dim)."""
        if (height, width) == (self.side, self.side):
            return self.position
        special, table = self.position[: self.special], self.position[self.special :]
        grid = table.T.reshape(1, -1, self.side, self.side)
        grid = functional.interpolate(
            grid, size=(height, width), mode="bicubic", align_corners=False
        )
        return torch.cat([special, grid.flatten(2)[0].T])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits of the class and of the distillation token.

        Args:
            x: (B, C, h, w), h and w even.

        Returns:
            (B, classes) each; None for the second without a distillation token.

        Raises:
            ConfigError: a side of the map is odd.
        """
        y = self.read(x)
        second = None if self.distillation_head is None else self.distillation_head(y[:, 1])
        return self.class_head(y[:, 0]), second

    def read(self, x: Tensor) -> Tensor:
        """The input of the linear layers: class token, and distillation token if there is one.

        Args:
            x: (B, C, h, w), h and w even.

        Returns:
            (B, 1 or 2, dim).

        Raises:
            ConfigError: a side of the map is odd.
        """
        count, channels, height, width = x.shape
        if height % PATCH or width % PATCH:
            raise ConfigError(
                "network.arch hdkd_student",
                f"its last map is {width} x {height} cells, an odd number on a side",
                "set data.patch_px so that the student's patch divides by 8 times stem_stride",
            )
        rows, columns = height // PATCH, width // PATCH
        cells = x.reshape(count, channels, rows, PATCH, columns, PATCH)
        cells = cells.permute(0, 2, 4, 3, 5, 1).reshape(count, rows * columns, -1)
        y = torch.cat([self.tokens.expand(count, -1, -1), self.embed(cells)], 1)
        y = self.norm(self.blocks(y + self.positions(rows, columns)))
        return y[:, : self.special]  # type: ignore[no-any-return]


class TokenGrader(Grader):
    """A grader whose logits come from tokens: (1 - w) of the class, w of the distillation token."""

    pooled = False

    def __init__(
        self,
        backbone: Backbone,
        head: TokenHead,
        *,
        token_weight: float = 0.5,
        **reading: Any,
    ) -> None:
        """Put a transformer behind a backbone; see ``Grader`` for the rest."""
        super().__init__(backbone, head, **reading)
        self.token_weight = token_weight

    def with_tokens(
        self, x: Tensor, names: Iterable[str]
    ) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        """Logits of both tokens, and taps, in one pass.

        Args:
            x: uint8 or float (B, 3, H, W), 0 to 255.
            names: taps of the backbone.

        Returns:
            (B, classes) of the class token, the same of the distillation token or None, and
            name -> (B, channels, h, w).
        """
        deepest = self.backbone.deepest
        taps = self.backbone.forward_taps(self.normalise(x), {*names, deepest})
        own, distilled = self.head(taps[deepest])
        return own, distilled, taps

    @property
    def embedding_dim(self) -> int:
        """Numbers in an embedding: of the class token, then of the distillation token."""
        return int(self.head.special * self.head.class_head.in_features)

    def embed(self, x: Tensor) -> Tensor:
        """The tokens that the logits are made of: (B, embedding_dim)."""
        return self.head.read(self.backbone(self.normalise(x))).flatten(1)  # type: ignore[no-any-return]

    def mix(self, own: Tensor, distilled: Tensor | None) -> Tensor:
        """The prediction from the logits of both tokens: (B, classes)."""
        return own if distilled is None else own.lerp(distilled, self.token_weight)

    def with_taps(self, x: Tensor, names: Iterable[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted logits and taps in one pass, as ``Grader.with_taps``."""
        own, distilled, taps = self.with_tokens(x, names)
        return self.mix(own, distilled), taps


def hdkd_teacher(classes: int, width: float, options: Hybrid, **reading: Any) -> Grader:
    """The CNN teacher: pooling and two linear layers behind the stages; see ``build_grader``."""
    backbone = stages(options.units or TEACHER_UNITS, width, options)
    head = FactoredHead(backbone.taps[backbone.deepest].channels, classes)
    return Grader(backbone, head, **reading)


def hdkd_student(classes: int, width: float, options: Hybrid, **reading: Any) -> Grader:
    """The student: fewer units a stage, then the transformer; see ``build_grader``."""
    backbone = stages(options.units or STUDENT_UNITS, width, options)
    head = TokenHead(backbone.taps[backbone.deepest].channels, classes, options)
    return TokenGrader(backbone, head, token_weight=options.token_weight, **reading)
