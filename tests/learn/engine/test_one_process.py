"""Processes without Lightning compute, bit for bit, what Lightning's Fabric does."""

import copy

import pytest
import torch
from torch import nn

from tests.learn.engine.torchrun import torchrun
from wsikd.learn.engine.one_process import OneProcess


class Terms(nn.Module):
    """A small network that returns terms, as a method does."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)
        )

    def forward(self, x, y):
        logits = self.net(x)
        return {"ce": nn.functional.cross_entropy(logits, y), "size": logits.square().mean()}


def trained(fabric, network, seed=0):
    """Terms and weights of three steps on batches of that seed."""
    rng = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    fabric.launch()
    wrapped, optimizer = fabric.setup(network, optimizer)
    found = []
    for _ in range(3):
        x = torch.randn(5, 3, 8, 8, generator=rng)
        y = torch.randint(4, (5,), generator=rng)
        optimizer.zero_grad(set_to_none=True)
        for part in (slice(0, 2), slice(2, 5)):
            with fabric.no_backward_sync(wrapped, enabled=part.start == 0):
                terms = wrapped(x[part], y[part])
                fabric.backward(sum(terms.values()) / 2)
            found.append({k: v.detach().clone() for k, v in terms.items()})
        optimizer.step()
    with torch.inference_mode(), fabric.autocast():
        found.append({"logits": network.net(x)})
    return found, network.state_dict()


@pytest.mark.slow  # imports Lightning, for 10 s
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_it_is_fabric_to_the_bit(precision):
    from lightning.fabric import Fabric

    torch.manual_seed(0)
    network = Terms()
    theirs = trained(
        Fabric(accelerator="cpu", devices=1, precision=precision), copy.deepcopy(network)
    )
    check(network, trained(OneProcess(precision), copy.deepcopy(network)), theirs)


def check(network, ours, theirs):
    (own, weights), (other, their_weights) = ours, theirs
    for a, b in zip([*own, weights], [*other, their_weights], strict=True):
        assert a.keys() == b.keys()
        for key in a:
            assert a[key].dtype == b[key].dtype
            assert torch.equal(a[key], b[key]), key
    assert not torch.equal(weights["net.4.weight"], network.state_dict()["net.4.weight"])


def test_half_precision_leaves_out_what_overflows_and_its_scale_is_kept():
    torch.manual_seed(0)
    process, network = OneProcess("16-mixed"), nn.Linear(4, 2)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, fused=True)
    process.setup(network, optimizer)
    before = copy.deepcopy(network.state_dict())
    scale = process.scaling.scaler.get_scale()
    for factor, changes in ((float("inf"), False), (1e-3, True)):
        optimizer.zero_grad()
        process.backward((network(torch.ones(1, 4)) * factor).sum())
        process.scaling.unscale_gradients(optimizer)
        process.step(optimizer)
        assert torch.equal(before["weight"], network.weight) != changes
    kept = process.scaling.state_dict()
    assert kept["scale"] == scale / 2
    other = OneProcess("16-mixed")
    other.scaling.load_state_dict(kept)
    assert other.scaling.state_dict() == kept


TWO = """
import copy, os, sys
sys.path.insert(0, os.getcwd())
import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies.ddp import DDPStrategy
from tests.learn.engine.test_one_process import Terms, check, trained
from wsikd.learn.engine.one_process import CpuProcesses

precision, seed = sys.argv[1], int(os.environ["RANK"])
torch.manual_seed(0)
network = Terms()
ours = trained(CpuProcesses(precision, idle=False), copy.deepcopy(network), seed)
ddp = DDPStrategy(find_unused_parameters=False)
fabric = Fabric(accelerator="cpu", devices=2, strategy=ddp, precision=precision)
check(network, ours, trained(fabric, copy.deepcopy(network), seed))
torch.distributed.destroy_process_group()
print("equal")
"""


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_two_are_fabric_to_the_bit(precision, tmp_path):
    (tmp_path / "two.py").write_text(TWO)
    done = torchrun(precision, program=(tmp_path / "two.py",))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["equal", "equal"]
