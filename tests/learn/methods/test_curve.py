"""Twenty steps of training, recorded: what changes no equation must change no loss.

A change that is meant to alter numbers records them anew and says why in the changelog.
"""

import pytest
import torch

from tests.learn.methods.pair import AT, grader
from wsikd.learn.losses.maps import downsample
from wsikd.learn.methods.at_plus import AtPlus
from wsikd.learn.methods.base import Batch

WEIGHTS = {"ce": 1.0, "fm": 0.1, "at_plus": 10.0}
AT_PLUS = [
    8.094500339, 6.850617257, 4.923753772, 3.5003465, 3.656501991, 3.611552339, 3.020027618,
    4.066087814, 3.169872565, 2.931683615, 2.782939759, 2.582980144, 2.21402407, 1.790555685,
    1.411071597, 1.717723673, 1.838730242, 1.646719843, 1.474586255, 1.541769303,
]  # fmt: skip


def stripes(step, count=4, side=32):
    """Float64 stripes of period 4, 8, 16 or 32 px, the class, with noise."""
    generator = torch.Generator().manual_seed(step)
    label = torch.arange(count) % 4
    place = torch.arange(side)
    wave = (place[None] // (2 << label)[:, None]) % 2
    clean = 80 + 100 * wave[:, None, None, :].double().expand(count, 3, side, side)
    high = clean + 10 * torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    views = {"high": high, "low": downsample(high, 2).double()}
    return Batch(views, label, ("s",) * count, torch.arange(count))


def curve(weights):
    method = AtPlus(grader(0), grader(1), terms=weights).train()
    optimizer = torch.optim.SGD(method.param_groups(), lr=0.02, momentum=0.9)
    found = []
    for step in range(20):
        terms = method(stripes(step), AT)
        total = torch.stack([weights[k] * v for k, v in terms.items()]).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        found.append(total.item())
    return found


def test_at_plus_trains_as_recorded():
    assert curve(WEIGHTS) == pytest.approx(AT_PLUS, rel=1e-6)
