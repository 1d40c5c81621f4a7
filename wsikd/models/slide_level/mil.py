"""Multiple-instance networks: a bag of patch embeddings becomes class logits.

=========  ==========================================================================
mean       mean of instance logits
max        per class the highest instance logit
abmil      attention pooling (M. Ilse et al., ICML 2018, equation 8)
gated      gated attention pooling (the same, equation 9)
clam_sb    gated, with an instance classifier (M. Lu et al., Nat. Biomed. Eng. 2021)
dsmil      attention by distance from the critical instance (B. Li et al., CVPR 2021)
transmil   Nystrom self-attention (Z. Shao et al., NeurIPS 2021)
hipt       transformer and gated pooling over regions (R. Chen et al., CVPR 2022)
=========  ==========================================================================

Shapes: ``bag`` float (B, N, D), filled up to the longest; ``mask`` bool (B, N), true where there is
an instance. What is masked never changes a result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from wsikd.core.registry import resolve
from wsikd.models.tables import AGGREGATORS as AGGREGATORS

if TYPE_CHECKING:
    from collections.abc import Sequence


class BagOutput(NamedTuple):
    """The output of a network for bags.

    ``logits`` (B, C); ``attention`` (B, N), not negative, of sum 1 over a bag, 0 where masked;
    ``instances`` (B, N, C) logits of single instances, None where the network has none.
    """

    logits: Tensor
    attention: Tensor
    instances: Tensor | None = None


class BagNetwork(nn.Module):
    """Bag in, :class:`BagOutput` out; made as ``Network(dim, classes, **options)``."""

    takes_counts: ClassVar[bool] = False
    """Whether its methods take ``counts``, the instances of each bag, which come first in it: what
    the host must know to look at a bag by itself, and would else wait for a GPU to learn."""

    def forward(self, bag: Tensor, mask: Tensor) -> BagOutput:
        """See the module for shapes."""
        raise NotImplementedError

    def instance_loss(
        self,
        found: BagOutput,
        mask: Tensor,
        label: Tensor,
        *,
        counts: Sequence[int] | None = None,
    ) -> Tensor | None:
        """Loss on instances, given what ``forward`` found; None where the network has none."""
        return None


def counts_for(network: BagNetwork, counts: Sequence[int]) -> dict[str, Any]:
    """Keyword arguments of a network's methods that say how many instances each bag has."""
    return {"counts": counts} if network.takes_counts else {}


def build_mil(name: str, dim: int, classes: int, **options: float) -> BagNetwork:
    """Make a network of ``AGGREGATORS``.

    Args:
        name: its entry.
        dim: width of an embedding.
        classes: number of logits.
        options: keyword arguments of its own, e.g. ``hidden``, ``dropout``.

    Raises:
        ConfigError: the name is unknown.
    """
    made: BagNetwork = resolve(AGGREGATORS, name, kind="aggregators")(dim, classes, **options)
    return made


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last axis within ``mask``; 0 outside, all 0 where nothing is inside."""
    filled = scores.masked_fill(~mask, -torch.inf)
    highest = filled.amax(-1, keepdim=True)
    highest = torch.where(torch.isfinite(highest), highest, 0)
    exps = torch.exp(filled - highest)
    return exps / exps.sum(-1, keepdim=True).clamp_min(torch.finfo(exps.dtype).tiny)


def _project(dim: int, hidden: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Dropout(dropout))


def _uniform(mask: Tensor, like: Tensor) -> Tensor:
    held = mask.to(like.dtype)
    return held / held.sum(1, keepdim=True).clamp_min(1)


class MeanMil(BagNetwork):
    """Mean over instances of the output of a small network for each."""

    def __init__(self, dim: int, classes: int, *, hidden: int = 192, dropout: float = 0.25) -> None:
        """Instances go through ``dim -> hidden -> classes``."""
        super().__init__()
        self.project = _project(dim, hidden, dropout)
        self.head = nn.Linear(hidden, classes)

    def forward(self, bag: Tensor, mask: Tensor) -> BagOutput:
        """Mean of the instances' logits; attention is even."""
        instances = self.head(self.project(bag))
        share = _uniform(mask, instances)
        return BagOutput((share[..., None] * instances).sum(1), share, instances)


class MaxMil(MeanMil):
    """Per class the highest logit of any instance."""

    def __init__(self, dim: int, classes: int, *, hidden: int = 512, dropout: float = 0.25) -> None:
        """As :class:`MeanMil`, but wider."""
        super().__init__(dim, classes, hidden=hidden, dropout=dropout)

    def forward(self, bag: Tensor, mask: Tensor) -> BagOutput:
        """Attention of an instance: the share of the classes that it decides."""
        instances = self.head(self.project(bag))
        held = instances.masked_fill(~mask[..., None], -torch.inf)
        logits, first = held.max(1)
        attention = torch.zeros_like(instances[..., 0])
        attention = attention.scatter_add(1, first, torch.full_like(logits, 1 / logits.shape[1]))
        return BagOutput(logits, attention, instances)


class AttentionMil(BagNetwork):
    """Attention pooling of projected instances, then one linear layer."""

    def __init__(
        self,
        dim: int,
        classes: int,
        *,
        hidden: int = 512,
        attention: int = 128,
        dropout: float = 0.25,
    ) -> None:
        """Instances are projected to ``hidden``, scored through ``attention`` units."""
        super().__init__()
        self.project = _project(dim, hidden, dropout)
        self.score = nn.Sequential(
            nn.Linear(hidden, attention), nn.Tanh(), nn.Linear(attention, 1, bias=False)
        )
        self.head = nn.Linear(hidden, classes)

    def forward(self, bag: Tensor, mask: Tensor) -> BagOutput:
        """Weighted mean of the projections."""
        projected = self.project(bag)
        weight = masked_softmax(self.score(projected)[..., 0], mask)
        return BagOutput(self.head((weight[..., None] * projected).sum(1)), weight)


class GatedScore(nn.Module):
    """Scores (B, N, 1) of instances (B, N, width): w (tanh(V h) * sigmoid(U h))."""

    def __init__(self, width: int, attention: int, dropout: float) -> None:
        """``attention`` hidden units."""
        super().__init__()
        self.tanh = nn.Sequential(nn.Linear(width, attention), nn.Tanh(), nn.Dropout(dropout))
        self.gate = nn.Sequential(nn.Linear(width, attention), nn.Sigmoid(), nn.Dropout(dropout))
        self.out = nn.Linear(attention, 1)

    def forward(self, instances: Tensor) -> Tensor:
        """Unnormalised scores."""
        return self.out(self.tanh(instances) * self.gate(instances))  # type: ignore[no-any-return]


class GatedMil(BagNetwork):
    """Gated attention pooling of projected instances, then one linear layer."""

    def __init__(
        self,
        dim: int,
        classes: int,
        *,
        hidden: int = 512,
        attention: int = 256,
        dropout: float = 0.25,
    ) -> None:
        """Instances are projected to ``hidden``, scored through ``attention`` gated units."""
        super().__init__()
        self.project = _project(dim, hidden, dropout)
        self.score = GatedScore(hidden, attention, dropout)
        self.head = nn.Linear(hidden, classes)

    def pooled(self, bag: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Projections (B, N, hidden), attention (B, N), and logits (B, C)."""
        projected = self.project(bag)
        weight = masked_softmax(self.score(projected)[..., 0], mask)
        return projected, weight, self.head((weight[..., None] * projected).sum(1))

    def forward(self, bag: Tensor, mask: Tensor) -> BagOutput:
        """Weighted mean of the projections."""
        _, weight, logits = self.pooled(bag, mask)
        return BagOutput(logits, weight)


class ClamSb(GatedMil):
    """Gated attention whose most and least attended instances are also trained to be separable.

    Departure: cross-entropy on them, where the paper has a smooth SVM loss.
    """

    takes_counts = True

    def __init__(
        self,
        dim: int,
        classes: int,
        *,
        hidden: int = 512,
        attention: int = 256,
        dropout: float = 0.25,
        sampled: int = 8,
    ) -> None:
        """``sampled`` instances at either end of the attention, fewer in a bag of fewer than two
        times that."""
        super().__init__(dim, classes, hidden=hidden, attention=attention, dropout=dropout)
        self.sampled = sampled
        self.evidence = nn.Linear(hidden, 2 * classes)

    def forward(
        self, bag: Tensor, mask: Tensor, *, counts: Sequence[int] | None = None
    ) -> BagOutput:
        """``instances`` are the log-odds of each class's evidence."""
        projected, weight, logits = self.pooled(bag, mask)
        against, evidence = self.evidence(projected).chunk(2, -1)
        return BagOutput(logits, weight, evidence - against)

    def instance_loss(
        self,
        found: BagOutput,
        mask: Tensor,
        label: Tensor,
        *,
        counts: Sequence[int] | None = None,
    ) -> Tensor | None:
        """Binary cross-entropy of the label's evidence: high at the top, low at the bottom."""
        assert found.instances is not None
        losses = []
        every = zip(found.instances, found.attention.detach(), mask, label, strict=True)
        for place, (odds, weight, held, own) in enumerate(every):
            order = _by_weight(weight, held, None if counts is None else counts[place])
            count = min(self.sampled, len(order) // 2)
            if count:
                ends = torch.cat([order[:count], order[-count:]])
                chosen = odds.index_select(0, ends).gather(1, own.expand(len(ends), 1))[:, 0]
                wanted = torch.zeros_like(chosen)
                wanted[:count] = 1
                losses.append(nn.functional.binary_cross_entropy_with_logits(chosen, wanted))
        return torch.stack(losses).mean() if losses else found.logits.sum() * 0


def _by_weight(weight: Tensor, held: Tensor, count: int | None) -> Tensor:
    """Places of a bag's instances, the heaviest first: int64 (n,)."""
    if count is not None:
        return weight[:count].argsort(descending=True, stable=True)
    places = torch.nonzero(held)[:, 0]
    return places[weight[places].argsort(descending=True, stable=True)]


class DsMil(BagNetwork):
    """Instances weighed by their likeness to the critical one of each class."""

    def __init__(
        self,
        dim: int,
        classes: int,
        *,
        hidden: int = 512,
        attention: int = 128,
        dropout: float = 0.25,
    ) -> None:
        """Instances are projected to ``hidden``; queries have ``attention`` numbers."""
        super().__init__()
        self.project = _project(dim, hidden, dropout)
        self.instance = nn.Linear(hidden, classes)
        self.query = nn.Sequential(
            nn.Linear(hidden, attention), nn.ReLU(), nn.Linear(attention, attention), nn.Tanh()
        )
        self.value = nn.Sequential(nn.Dropout(dropout), nn.Linear(hidden, hidden), nn.ReLU())
        self.head = nn.Conv1d(classes, classes, hidden)

    def forward(self, bag: Tensor, mask: Tensor) -> BagOutput:
        """Attention is the mean over classes."""
        projected = self.project(bag)
        instances = self.instance(projected)
        held = instances.masked_fill(~mask[..., None], -torch.inf)
        first = held.argmax(1)
        query = self.query(projected)
        critical = query.gather(1, first[..., None].expand(-1, -1, query.shape[-1]))
        scores = torch.einsum("bcq,bnq->bcn", critical, query) / query.shape[-1] ** 0.5
        weight = masked_softmax(scores, mask[:, None])
        pooled = torch.einsum("bcn,bnh->bch", weight, self.value(projected))
        return BagOutput(self.head(pooled)[..., 0], weight.mean(1), instances)

    def instance_loss(
        self,
        found: BagOutput,
        mask: Tensor,
        label: Tensor,
        *,
        counts: Sequence[int] | None = None,
    ) -> Tensor | None:
        """Cross-entropy of the critical instances' logits."""
        assert found.instances is not None
        best = found.instances.masked_fill(~mask[..., None], -torch.inf).amax(1)
        return nn.functional.cross_entropy(best, label)
