"""Frozen stages: which weights they hold, their mode, and entering a network behind them."""

import pytest
import torch

from wsikd.core.errors import ConfigError
from wsikd.models.backbones.freeze import enter_at_frozen, freeze, frozen_taps, leave_frozen
from wsikd.models.backbones.open import build_backbone

CHAINS = ["vgg_small", "strided_small", "resnet18", "mobilenet_v3_large"]
CHAINS += [f"timm:{n}" for n in ("test_efficientnet", "test_resnet", "test_convnext")]
NETS = [*CHAINS, "timm:test_vit"]


def images(side=64):
    return torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(0))


def train_a_step(net):
    chosen = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(chosen, lr=0.1)
    net(images()).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("arch", NETS)
@pytest.mark.parametrize("count", [1, 2])
def test_frozen_stages_do_not_change_and_all_others_do(arch, count):
    torch.manual_seed(0)
    net = build_backbone(arch)
    freeze(net, count)
    assert net.frozen == tuple(net.taps)[:count]
    net.train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with torch.no_grad():
        low = net.run_to(images(), net.frozen[-1])
    train_a_step(net)
    with torch.no_grad():
        assert torch.equal(net.run_to(images(), net.frozen[-1]), low)
        for name in net.frozen:
            assert torch.equal(net.forward_taps(images(), [name])[name], net.run_to(images(), name))
    # The reference: what the tap depends on, by the slope of a fresh network.
    torch.manual_seed(0)
    other = build_backbone(arch).eval()
    other.forward_taps(images(), [net.frozen[-1]])[net.frozen[-1]].sum().backward()
    used = {name for name, p in other.named_parameters() if p.grad is not None}
    assert used == {name for name, p in net.named_parameters() if not p.requires_grad}
    after = net.state_dict()
    still = {k for k, v in after.items() if torch.equal(v, before[k])}
    assert used <= still
    running = {k for k in after if k.endswith("running_mean")}
    own = {k for k in running if k.replace("running_mean", "weight") in used}
    assert still & running == own


def test_dropped_paths_are_off_in_frozen_stages():
    net = build_backbone("timm:test_convnext")
    freeze(net, 1)
    net.train()
    assert {m.training for m in net.frozen_modules} == {False}
    assert net.stages["net"].stages[-1].training


@pytest.mark.parametrize("arch", CHAINS)
@pytest.mark.parametrize("count", [2, 3])
def test_a_network_runs_from_the_map_of_its_frozen_stages(arch, count):
    torch.manual_seed(0)
    net = build_backbone(arch).eval()
    freeze(net, count)
    names = [n for n in net.taps if n not in net.frozen]
    with torch.no_grad():
        whole, middle = net.forward_taps(images(), names), net.run_to(images(), net.frozen[-1])
        keys = list(net.state_dict())
        assert enter_at_frozen(net)
        assert list(net.state_dict()) == keys
        found = net.forward_taps(middle, names)
        for name in names:
            torch.testing.assert_close(found[name], whole[name], rtol=1e-5, atol=1e-6)
        leave_frozen(net)
        again = net.forward_taps(images(), names)
    assert all(torch.equal(again[n], whole[n]) for n in names)


@pytest.mark.parametrize(("arch", "count"), [("timm:test_vit", 2), ("timm:test_resnet", 1)])
def test_a_network_that_is_no_chain_is_left_as_it_was(arch, count):
    """Positions are added behind the first layer; a pooling runs behind the first tap."""
    torch.manual_seed(0)
    net = build_backbone(arch).eval()
    freeze(net, count)
    with torch.no_grad():
        whole = net(images())
        assert not enter_at_frozen(net)
        assert torch.equal(net(images()), whole)


@pytest.mark.parametrize(
    ("wanted", "fault"),
    [
        (5, "has 4 stages"),
        (["F9"], "is not a stage of this network; choose among F1, F2"),
        (["F1", "F3"], "leaves out the lower stage F2"),
    ],
)
def test_faults(wanted, fault):
    net = build_backbone("vgg_small")
    with pytest.raises(ConfigError, match=fault):
        freeze(net, wanted)
    assert frozen_taps(net, 0) == ()
    assert frozen_taps(net, ["F2", "F1"]) == ("F1", "F2")
