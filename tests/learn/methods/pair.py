"""Small networks in float64, and batches for them."""

import torch

from wsikd.learn.losses.maps import downsample
from wsikd.learn.methods.base import Batch, Progress
from wsikd.models.graders.pooled import build_grader

AT = Progress(0, 1)


def grader(seed, **options):
    torch.manual_seed(seed)
    return build_grader("vgg_small", 4, **{"width": 0.25} | options).double()


HYBRID = {"units": [2, 1, 1], "dim": 16, "heads": 2, "depth": 1, "positions": 2}


def hybrid(arch, seed, **options):
    """A small network of HDKD; for a batch, a teacher of stem_stride 4 has the student's grids."""
    torch.manual_seed(seed)
    return build_grader(arch, 4, width=0.125, options=HYBRID | options).double()


def batch(count=2, side=64, factor=2):
    generator = torch.Generator().manual_seed(count)
    high = torch.randint(0, 256, (count, 3, side, side), generator=generator).double()
    low = downsample(high, factor).double()
    label = torch.arange(count) % 4
    return Batch({"high": high, "low": low}, label, ("s",) * count, torch.arange(count))
