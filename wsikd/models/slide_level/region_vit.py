"""The region encoder of HIPT and SLPD: a small vision transformer over a grid of tile embeddings.

Z. Yu, T. Lin, Y. Xu, "SLPD: Slide-level Prototypical Distillation for WSIs", MICCAI 2023; the
network is ``vit4k_xs`` of R. J. Chen et al., "Scaling Vision Transformers to Gigapixel Images via
Hierarchical Self-Supervised Learning", CVPR 2022, the head that of M. Caron et al., "Emerging
Properties in Self-Supervised Vision Transformers", ICCV 2021 (DINO).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_EPS = 1e-6
_OFFSET = 0.1


@dataclass(frozen=True)
class RegionShape:
    """Sizes of a region encoder and its head; the defaults are the paper's.

    Attributes:
        dim: D, numbers in a tile embedding.
        table: side of the grid that positions are learnt for: that of a global view.
        width: width of tokens and of the region vector.
        depth: transformer blocks.
        heads: number of attention heads; it divides ``width``.
        mlp_ratio: width of a block's inner layer over ``width``.
        drop_path: chance to skip the last block's branches, rising from 0; of a student only.
        hidden: width of the head's inner layers.
        bottleneck: width of the unit vectors in which regions are clustered.
        outputs: number of outputs of the last layer, which is dropped after training.
        init_std: deviation of fresh weights. The paper's 0.02 suits its widths; in networks some
            tens wide it lets regions differ so little that self-distillation starts by making
            all outputs alike, and stays there.
    """

    dim: int = 384
    table: int = 14
    width: int = 192
    depth: int = 6
    heads: int = 6
    mlp_ratio: float = 4.0
    drop_path: float = 0.1
    hidden: int = 2048
    bottleneck: int = 256
    outputs: int = 65_536
    init_std: float = 0.02

    def record(self) -> dict[str, Any]:
        """The entries of a card."""
        return asdict(self)


def positions(learnt: Tensor, table: int, height: int, width: int) -> Tensor:
    """Positions of the class token and of a grid: (1, 1 + height * width, C).

    What was learnt on its own grid, else bicubic, scaled as DINO does: by the grid's side plus 0.1
    over the table's.

    Args:
        learnt: (1, 1 + table**2, C).
        table: side of the grid that positions were learnt for.
        height: height of the grid.
        width: width of the grid.
    """
    if (height, width) == (table, table):
        return learnt
    grid = learnt[:, 1:].reshape(1, table, table, -1).permute(0, 3, 1, 2)
    scale = ((height + _OFFSET) / table, (width + _OFFSET) / table)
    grid = functional.interpolate(
        grid, scale_factor=scale, mode="bicubic", align_corners=False,
        recompute_scale_factor=False,
    )  # fmt: skip
    return torch.cat([learnt[:, :1], grid.flatten(2).transpose(1, 2)], 1)


class DropPath(nn.Module):
    """Leaves out a branch of whole samples while training; what stays is scaled up."""

    def __init__(self, chance: float) -> None:
        """With this chance, 0 to below 1."""
        super().__init__()
        self.chance = chance

    def forward(self, x: Tensor) -> Tensor:
        """(B, n, C) -> the same."""
        if not self.training or self.chance == 0:
            return x
        kept = torch.rand(x.shape[0], 1, 1, device=x.device) >= self.chance
        return x * (kept.to(x.dtype) / (1 - self.chance))


class Attention(nn.Module):
    """Self-attention of tokens (B, n, C)."""

    def __init__(self, width: int, heads: int) -> None:
        """``heads`` divides ``width``."""
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Self-attention; the shape stays the same."""
        b, n, c = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        out = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).reshape(b, n, c))  # type: ignore[no-any-return]


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, drop: float) -> None:
        """See :class:`RegionShape`."""
        super().__init__()
        inner = round(width * mlp_ratio)
        self.norm1 = nn.LayerNorm(width, eps=_EPS)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=_EPS)
        self.mlp = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))
        self.drop = DropPath(drop)

    def forward(self, x: Tensor) -> Tensor:
        """(B, n, C) -> the same."""
        x = x + self.drop(self.attn(self.norm1(x)))
        return x + self.drop(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]


class RegionViT(nn.Module):
    """Tile embeddings on a grid, float (B, D, g, g), to region vectors (B, width)."""

    def __init__(self, shape: RegionShape) -> None:
        """With truncated normal weights."""
        super().__init__()
        self.table, width = shape.table, shape.width
        self.phi = nn.Sequential(nn.Linear(shape.dim, width), nn.GELU())
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.pos = nn.Parameter(torch.zeros(1, shape.table**2 + 1, width))
        drops = torch.linspace(0, shape.drop_path, shape.depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(
            Block(width, shape.heads, shape.mlp_ratio, drop) for drop in drops
        )
        self.norm = nn.LayerNorm(width, eps=_EPS)
        nn.init.trunc_normal_(self.cls, std=shape.init_std)
        nn.init.trunc_normal_(self.pos, std=shape.init_std)
        _init(self, shape.init_std)

    def positions(self, height: int, width: int) -> Tensor:
        """See :func:`positions`."""
        return positions(self.pos, self.table, height, width)

    def forward(self, x: Tensor) -> Tensor:
        """The class token behind the last norm."""
        tokens = self.phi(x.flatten(2).transpose(1, 2))
        tokens = torch.cat([self.cls.expand(len(x), -1, -1), tokens], 1)
        tokens = tokens + self.positions(x.shape[2], x.shape[3])
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens[:, 0])  # type: ignore[no-any-return]


class RegionEncoder(nn.Module):
    """A region transformer with the part of its head that clustering needs."""

    def __init__(self, shape: RegionShape) -> None:
        """Freshly initialised."""
        super().__init__()
        self.shape = shape
        self.vit = RegionViT(shape)
        self.head = nn.Sequential(
            nn.Linear(shape.width, shape.hidden), nn.GELU(),
            nn.Linear(shape.hidden, shape.hidden), nn.GELU(),
            nn.Linear(shape.hidden, shape.bottleneck),
        )  # fmt: skip
        _init(self.head, shape.init_std)

    def forward(self, x: Tensor) -> Tensor:
        """Region vectors: float (B, D, g, g) -> (B, width)."""
        return self.vit(x)  # type: ignore[no-any-return]

    def bottleneck(self, x: Tensor) -> Tensor:
        """Unit vectors for clustering: float (B, D, g, g) -> (B, bottleneck)."""
        return self.project(self.vit(x))

    def project(self, vectors: Tensor) -> Tensor:
        """Region vectors (B, width) -> unit vectors (B, bottleneck), never in half precision."""
        found: Tensor = self.head(vectors)
        return functional.normalize(
            found.to(torch.promote_types(found.dtype, torch.float32)), dim=1
        )


class LastLayer(nn.Module):
    """Unit vectors to scores; each output's weights have length 1 and nothing is added."""

    def __init__(self, width: int, outputs: int) -> None:
        """Freshly initialised."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, width))
        nn.init.uniform_(self.weight, -(width**-0.5), width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width) -> (B, outputs)."""
        return functional.linear(x, functional.normalize(self.weight, dim=1))


class RegionStudent(RegionEncoder):
    """A region encoder with the last layer that only training needs; the teacher is one too."""

    def __init__(self, shape: RegionShape) -> None:
        """Freshly initialised."""
        super().__init__(shape)
        self.last = LastLayer(shape.bottleneck, shape.outputs)

    def scores(self, x: Tensor) -> Tensor:
        """float (B, D, g, g) -> (B, outputs)."""
        return self.last(self.bottleneck(x))  # type: ignore[no-any-return]


def _init(network: nn.Module, std: float) -> None:
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=std)
            nn.init.zeros_(module.bias)
