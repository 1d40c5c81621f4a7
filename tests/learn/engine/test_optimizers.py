"""The optimisers step, save and load bit for bit as torch's do."""

import copy

import pytest
import torch
from torch import nn
from torch.optim import Adam, AdamW

from wsikd.learn.engine.optimizers import OPTIMIZERS


def steps(make, count, state=None, network=None):
    torch.manual_seed(0)
    network = network or nn.Linear(5, 3)
    optimizer = make(network.parameters(), lr=0.1, weight_decay=0.2)
    if state:
        optimizer.load_state_dict(state)
    for number in range(count):
        optimizer.zero_grad(set_to_none=True)
        generator = torch.Generator().manual_seed(number)
        network(torch.randn(4, 5, generator=generator)).square().sum().backward()
        optimizer.step()
    return network, copy.deepcopy(optimizer.state_dict())


@pytest.mark.parametrize(("name", "theirs"), [("adam", Adam), ("adamw", AdamW)])
def test_steps_as_torch_s(name, theirs):
    ours, state = steps(OPTIMIZERS[name], 3)
    plain, expected = steps(theirs, 3)
    for found, right in ((ours, plain), (steps(OPTIMIZERS[name], 2, state, ours)[0],
                                         steps(theirs, 2, expected, plain)[0])):  # fmt: skip
        for own, other in zip(found.parameters(), right.parameters(), strict=True):
            assert torch.equal(own, other)
    assert state["param_groups"] == expected["param_groups"]
    for key, value in expected["state"].items():
        assert all(torch.equal(state["state"][key][k], value[k]) for k in value)


def test_can_be_copied():
    optimizer = OPTIMIZERS["adamw"](nn.Linear(2, 1).parameters(), lr=0.5)
    assert copy.deepcopy(optimizer).param_groups[0]["lr"] == 0.5
