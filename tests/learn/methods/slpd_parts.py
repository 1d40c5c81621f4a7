"""A tiny ``slpd`` and what it learns from, for tests in one process and in two."""

import numpy as np
import torch

from wsikd.learn.methods.base import Batch
from wsikd.learn.slpd.method import Options, Slpd
from wsikd.models.slide_level.region_vit import RegionShape, RegionStudent

SHAPE = RegionShape(
    dim=5, table=4, width=8, depth=1, heads=2, hidden=12, bottleneck=6, outputs=20, drop_path=0.0
)


def draw(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape) * 0.2).float()


def held():
    """Three slides of two regions, K = 2; the last has no prototypes."""
    generator = np.random.default_rng(5)
    prototypes = generator.normal(size=(3, 2, 6)).astype(np.float32)
    prototypes /= np.linalg.norm(prototypes, axis=2, keepdims=True)
    return {
        "prototypes": torch.from_numpy(prototypes),
        "slide_index": torch.tensor([0, 0, 1, 1, 2, 2]),
        "assignment": torch.tensor([0, 1, 1, 0, -1, -1]),
        "neighbours": torch.tensor([[1], [0], [-1]]),
        "matched": torch.tensor([[[1, 0]], [[1, 0]], [[-1, -1]]]),
    }


def slpd_method(**options):
    """The same weights at every call."""
    torch.manual_seed(0)
    return Slpd(RegionStudent(SHAPE), RegionStudent(SHAPE), Options(**options)).train()


def region_batch(regions):
    """Two global and three local views of each."""
    views = {"global": draw(2, len(regions), 5, 4, 4), "local": draw(3, len(regions), 5, 2, 2)}
    none = torch.zeros(len(regions), dtype=torch.int64)
    return Batch(views, none, ("s",) * len(regions), torch.tensor(regions))
