"""The counter of multiply-accumulates against torch's own."""

import pytest
import torch
from torch import nn

from tests.learn.methods.pair import hybrid
from wsikd.models.backbones import base
from wsikd.models.backbones.open import build_backbone
from wsikd.models.backbones.operations import Products, UnknownOperationError
from wsikd.models.graders.pooled import build_grader

PLAIN = ("vgg_small", "strided_small", "resnet18", "mobilenet_v3_large")
NETWORKS = {name: lambda name=name: build_backbone(name) for name in PLAIN} | {
    "upsampled": lambda: build_grader("vgg_small", 4, width=0.25, upsample=4),
    "hdkd_teacher": lambda: hybrid("hdkd_teacher", 1, stem_stride=4),
    "grouped": lambda: nn.Conv2d(3, 6, (3, 5), stride=(2, 1), padding=1, dilation=2, groups=3),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_counts_as_torch_does(name):
    network, patch = NETWORKS[name]().eval(), torch.zeros(1, 3, 64, 64)
    with torch.no_grad(), Products() as counter:
        network(patch)
    assert counter.total == base._macs_by_torch(network, 64) > 0


def test_leaves_the_network_as_it_was():
    network = build_grader("vgg_small", 4, width=0.25)
    network.head.eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    base.macs(network, 64)
    assert network.training
    assert network.backbone.training
    assert not network.head.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


class Odd(nn.Module):
    """A product that the counter does not know."""

    weight = torch.zeros(3, 4, 2, 2)

    def forward(self, x):
        return nn.functional.conv_transpose2d(x, self.weight, stride=2)


def test_leaves_what_it_does_not_know_to_torch():
    patch = torch.zeros(1, 3, 8, 8)
    with pytest.raises(UnknownOperationError, match="convolution"), Products():
        Odd()(patch)
    assert base.macs(Odd(), 8) == 3 * 4 * 4 * 8 * 8
