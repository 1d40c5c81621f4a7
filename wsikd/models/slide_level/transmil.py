"""Bag networks in which instances attend to one another: TransMIL and the slide head of HIPT.

What fills a batch up is never attended to.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsikd.models.slide_level.mil import BagNetwork, BagOutput, GatedScore, masked_softmax

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def nystrom(
    query: Tensor, key: Tensor, value: Tensor, landmarks: int, *, iterations: int = 6
) -> tuple[Tensor, Callable[[int], Tensor]]:
    """Self-attention through landmarks (Y. Xiong et al., AAAI 2021, equation 13).

    Landmarks are means of runs of tokens, filled up with zeros in front to a whole number of runs.
    With no more tokens than landmarks it is exact softmax attention, to which the approximation
    then reduces.

    Args:
        query: float (heads, N, d), scaled already.
        key: float (heads, N, d).
        value: float (heads, N, d).
        landmarks: how many.
        iterations: number of iterations of the pseudo-inverse.

    Returns:
        What is attended to, (heads, N, d), and a function that gives the attention of one token,
        (heads, N); the approximation's may be slightly negative.
    """
    count = query.shape[1]
    if count <= landmarks:
        exact = torch.softmax(query @ key.transpose(1, 2), -1)
        return exact @ value, lambda token: exact[:, token]
    run = math.ceil(count / landmarks)
    front = (-count) % run
    query, key, value = (functional.pad(t, (0, 0, front, 0)) for t in (query, key, value))
    few_q, few_k = (t.reshape(len(t), -1, run, t.shape[-1]).mean(2) for t in (query, key))
    left = torch.softmax(query @ few_k.transpose(1, 2), -1)
    middle = pseudo_inverse(torch.softmax(few_q @ few_k.transpose(1, 2), -1), iterations)
    right = torch.softmax(few_q @ key.transpose(1, 2), -1)
    out = left @ (middle @ (right @ value))

    def row(token: int) -> Tensor:
        attention = left[:, front + token, None] @ middle @ right
        return attention[:, 0, front:]

    return out[:, front:], row


def pseudo_inverse(matrix: Tensor, iterations: int) -> Tensor:
    """Moore-Penrose inverse of (heads, m, m) by iteration (Xiong et al. 2021, equation 11)."""
    norm = matrix.abs().sum(-1).amax() * matrix.abs().sum(-2).amax()
    found = matrix.transpose(1, 2) / norm
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    for _ in range(iterations):
        both = matrix @ found
        found = 0.25 * found @ (13 * eye - both @ (15 * eye - both @ (7 * eye - both)))
    return found


class _NystromBlock(nn.Module):
    """Pre-norm self-attention with a residual depthwise convolution over the tokens' order."""

    def __init__(self, width: int, heads: int, landmarks: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.landmarks = heads, landmarks
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Sequential(nn.Linear(width, width), nn.Dropout(dropout))
        self.local = nn.Conv2d(heads, heads, (33, 1), padding=(16, 0), groups=heads, bias=False)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (N, width) -> tokens, and the attention of the first, (N,)."""
        parts = self.qkv(self.norm(tokens)).chunk(3, -1)
        query, key, value = (t.reshape(len(t), self.heads, -1).transpose(0, 1) for t in parts)
        attended, row = nystrom(query * query.shape[-1] ** -0.5, key, value, self.landmarks)
        attended = attended + self.local(value[None])[0]
        joined = attended.transpose(0, 1).flatten(1)
        return tokens + self.out(joined), row(0).clamp_min(0).mean(0)


class _PositionBlock(nn.Module):
    """Position by depthwise convolutions of 7, 5 and 3 on the square grid of instances."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(width, width, side, padding=side // 2, groups=width) for side in (7, 5, 3)
        )

    def forward(self, tokens: Tensor, side: int) -> Tensor:
        """Tokens (1 + side * side, width), the class token first, which stays as it is."""
        first, rest = tokens[:1], tokens[1:]
        grid = rest.transpose(0, 1).reshape(1, -1, side, side)
        total = grid
        for convolution in self.convolutions:
            total = total + convolution(grid)
        return torch.cat([first, total[0].flatten(1).transpose(0, 1)])


class TransMil(BagNetwork):
    """Two blocks of Nystrom attention with a position block between them.

    Instances are laid on the smallest square that holds them, in their order; its rest is filled
    with the first ones again, as in the paper. ``attention`` is the class token's in the last
    block, the copies' added to their originals'.
    """

    takes_counts = True

    def __init__(
        self,
        dim: int,
        classes: int,
        *,
        hidden: int = 512,
        heads: int = 8,
        landmarks: int = 256,
        dropout: float = 0.1,
    ) -> None:
        """Instances are projected to ``hidden``."""
        super().__init__()
        self.project = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU())
        self.token = nn.Parameter(torch.randn(1, hidden) * 0.02)
        self.first = _NystromBlock(hidden, heads, landmarks, dropout)
        self.position = _PositionBlock(hidden)
        self.second = _NystromBlock(hidden, heads, landmarks, dropout)
        self.norm = nn.LayerNorm(hidden)
        self.head = nn.Linear(hidden, classes)

    def forward(
        self, bag: Tensor, mask: Tensor, *, counts: Sequence[int] | None = None
    ) -> BagOutput:
        """Bag by bag."""
        projected = self.project(bag)
        logits, attention = [], torch.zeros_like(projected[..., 0])
        for place, (one, held) in enumerate(zip(projected, mask, strict=True)):
            found, weight = self._one(one[held] if counts is None else one[: counts[place]])
            logits.append(found)
            if counts is None:
                attention[place] = attention[place].masked_scatter(held, weight)
            else:
                attention[place, : counts[place]] = weight
        return BagOutput(torch.stack(logits), attention)

    def _one(self, instances: Tensor) -> tuple[Tensor, Tensor]:
        count = len(instances)
        side = math.ceil(math.sqrt(count))
        again = torch.arange(side * side, device=instances.device) % count
        tokens = torch.cat([self.token, instances[again]])
        tokens, _ = self.first(tokens)
        tokens, weight = self.second(self.position(tokens, side))
        own = torch.zeros(count, dtype=weight.dtype, device=weight.device)
        own = own.index_add(0, again, weight[1:])
        return self.head(self.norm(tokens[0])), own / own.sum().clamp_min(1e-12)


class HiptHead(BagNetwork):
    """The slide level of HIPT: projection, two transformer layers, gated pooling, two layers."""

    def __init__(
        self,
        dim: int,
        classes: int,
        *,
        hidden: int = 192,
        heads: int = 3,
        layers: int = 2,
        dropout: float = 0.25,
    ) -> None:
        """Region vectors of ``dim`` numbers are projected to ``hidden``."""
        super().__init__()
        self.project = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Dropout(dropout))
        layer = nn.TransformerEncoderLayer(
            hidden, heads, hidden, dropout=dropout, activation="relu", batch_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.score = GatedScore(hidden, hidden, dropout)
        self.rho = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(dropout))
        self.head = nn.Linear(hidden, classes)

    def forward(self, bag: Tensor, mask: Tensor) -> BagOutput:
        """Masked regions are not attended to."""
        tokens = self.encoder(self.project(bag), src_key_padding_mask=~mask)
        tokens = tokens.masked_fill(~mask[..., None], 0)
        weight = masked_softmax(self.score(tokens)[..., 0], mask)
        pooled = (weight[..., None] * tokens).sum(1)
        return BagOutput(self.head(self.rho(pooled)), weight)
