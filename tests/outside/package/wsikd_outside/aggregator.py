"""A bag's logits as the mean over its few highest instances of each class."""

import torch
from torch import nn

from wsikd.models.slide_level.mil import BagNetwork, BagOutput


class TopMil(BagNetwork):
    """Mean of the ``top`` highest logits of each class."""

    def __init__(self, dim, classes, *, hidden=32, dropout=0.0, top=4):
        """``network.hidden`` and ``network.dropout`` of the configuration, where they are set."""
        super().__init__()
        self.top = top
        self.score = nn.Sequential(
            nn.Linear(dim, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, classes)
        )

    def forward(self, bag, mask):
        """Bag (B, N, dim), mask (B, N); attention is the share of the classes that chose one."""
        instances = self.score(bag)
        held = instances.masked_fill(~mask[..., None], -torch.inf)
        values, places = held.topk(min(self.top, bag.shape[1]), dim=1)
        real = torch.isfinite(values)
        counts = real.sum(1).clamp_min(1)
        logits = values.masked_fill(~real, 0).sum(1) / counts
        chosen = torch.zeros_like(instances).scatter(1, places, real.to(instances.dtype))
        attention = (chosen / counts[:, None]).mean(2)
        return BagOutput(logits, attention, instances)
