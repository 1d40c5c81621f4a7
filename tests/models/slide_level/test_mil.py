"""Bag networks against slow readings of their equations, and against masks."""

import math

import numpy as np
import pytest
import torch

from tests.learn.engine.host_reads import HostReads
from wsikd.core.errors import ConfigError
from wsikd.models.slide_level.mil import AGGREGATORS, build_mil, counts_for, masked_softmax
from wsikd.models.slide_level.transmil import nystrom, pseudo_inverse

DIM, CLASSES = 12, 3
SMALL = {
    "hipt": {"hidden": 12},
    "transmil": {"hidden": 16, "heads": 2, "landmarks": 6},
}


def made(name, **options):
    torch.manual_seed(1)
    return build_mil(name, DIM, CLASSES, **(SMALL.get(name, {"hidden": 8}) | options)).eval()


def bags(*counts, dim=DIM, seed=0):
    """A batch filled up with huge numbers, which must not matter."""
    generator = torch.Generator().manual_seed(seed)
    longest = max(counts)
    bag = torch.randn(len(counts), longest, dim, generator=generator)
    mask = torch.arange(longest)[None] < torch.tensor(counts)[:, None]
    return bag.masked_fill(~mask[..., None], 1e4), mask


def numpy_of(net):
    return {k: v.detach().double().numpy() for k, v in net.named_parameters()}


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


@pytest.mark.parametrize("name", AGGREGATORS)
def test_what_fills_a_bag_up_never_matters(name):
    net = made(name)
    bag, mask = bags(5, 9, 1)
    together = net(bag, mask)
    for place, count in enumerate((5, 9, 1)):
        alone = net(bag[place : place + 1, :count], mask[place : place + 1, :count])
        torch.testing.assert_close(alone.logits[0], together.logits[place], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            alone.attention[0], together.attention[place, :count], rtol=1e-4, atol=1e-6
        )
    assert torch.isfinite(together.logits).all()


@pytest.mark.parametrize("name", AGGREGATORS)
def test_known_counts_change_no_bit_and_nothing_waits_for_a_gpu(name):
    counts, label = (5, 40, 1), torch.tensor([2, 0, 1])
    bag, mask = bags(*counts)
    found = []
    for known in (False, True):
        net, more = made(name), {}
        if known:
            more = counts_for(net, counts)
        with HostReads() as reads:
            out = net(bag, mask, **more)
            own = net.instance_loss(out, mask, label, **more)
            loss = torch.nn.functional.cross_entropy(out.logits, label)
            (loss if own is None else loss + own).backward()
        found.append([out.logits, out.attention, own, *(p.grad for p in net.parameters())])
        if known or not net.takes_counts:
            assert reads.seen == []
    for one, other in zip(*found, strict=True):
        assert one is other or torch.equal(one, other)


@pytest.mark.parametrize("name", AGGREGATORS)
def test_attention_is_a_share_of_a_bag(name):
    bag, mask = bags(7, 30)
    attention = made(name)(bag, mask).attention
    assert attention.shape == mask.shape
    assert (attention >= 0).all()
    assert (attention[~mask] == 0).all()
    torch.testing.assert_close(attention.sum(1), torch.ones(2))


@pytest.mark.parametrize("name", AGGREGATORS)
def test_gradients_reach_every_weight(name):
    net = made(name).train()
    bag, mask = bags(20, 18)
    label = torch.tensor([0, 2])
    found = net(bag.clamp(-5, 5), mask)
    loss = torch.nn.functional.cross_entropy(found.logits, label)
    extra = net.instance_loss(found, mask, label)
    (loss + (extra if extra is not None else 0)).backward()
    for key, parameter in net.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key


@pytest.mark.parametrize("name", ["mean", "max", "abmil", "gated", "clam_sb", "dsmil"])
def test_order_of_instances_does_not_matter(name):
    net = made(name)
    bag, mask = bags(11)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(3))
    one, other = net(bag, mask), net(bag[:, order], mask)
    torch.testing.assert_close(one.logits, other.logits)
    torch.testing.assert_close(one.attention[:, order], other.attention)


def test_abmil_against_a_slow_reading():
    net, (bag, mask) = made("abmil"), bags(6)
    w = numpy_of(net)
    h = np.maximum(bag[0].double().numpy() @ w["project.0.weight"].T + w["project.0.bias"], 0)
    scores = [
        (w["score.2.weight"] @ np.tanh(w["score.0.weight"] @ one + w["score.0.bias"]))[0]
        for one in h
    ]
    a = softmax(np.array(scores))
    z = sum(a[k] * h[k] for k in range(len(h)))
    found = net(bag, mask)
    np.testing.assert_allclose(found.attention[0].detach(), a, rtol=1e-5)
    expected = w["head.weight"] @ z + w["head.bias"]
    np.testing.assert_allclose(found.logits[0].detach(), expected, rtol=1e-4, atol=1e-6)


def test_gated_against_a_slow_reading():
    net, (bag, mask) = made("gated"), bags(6)
    w = numpy_of(net)
    h = np.maximum(bag[0].double().numpy() @ w["project.0.weight"].T + w["project.0.bias"], 0)
    scores = []
    for one in h:
        v = np.tanh(w["score.tanh.0.weight"] @ one + w["score.tanh.0.bias"])
        u = 1 / (1 + np.exp(-(w["score.gate.0.weight"] @ one + w["score.gate.0.bias"])))
        scores.append((w["score.out.weight"] @ (v * u) + w["score.out.bias"])[0])
    np.testing.assert_allclose(
        net(bag, mask).attention[0].detach(), softmax(np.array(scores)), rtol=1e-5
    )


def test_dsmil_against_a_slow_reading():
    net, (bag, mask) = made("dsmil", attention=4), bags(6)
    w = numpy_of(net)
    h = np.maximum(bag[0].double().numpy() @ w["project.0.weight"].T + w["project.0.bias"], 0)
    logits = h @ w["instance.weight"].T + w["instance.bias"]
    q = np.tanh(
        np.maximum(h @ w["query.0.weight"].T + w["query.0.bias"], 0) @ w["query.2.weight"].T
        + w["query.2.bias"]
    )
    v = np.maximum(h @ w["value.1.weight"].T + w["value.1.bias"], 0)
    bag_rep = []
    for c in range(CLASSES):
        critical = q[logits[:, c].argmax()]
        a = softmax(q @ critical / math.sqrt(4))
        bag_rep.append(a @ v)
    bag_rep = np.stack(bag_rep)
    expected = [(w["head.weight"][c] * bag_rep).sum() + w["head.bias"][c] for c in range(CLASSES)]
    np.testing.assert_allclose(net(bag, mask).logits[0].detach(), expected, rtol=1e-4, atol=1e-6)


def test_mean_and_max_of_instances():
    bag, mask = bags(4, 2)
    for name, pool in (("mean", np.mean), ("max", np.max)):
        net = made(name)
        single = [net(bag[:, k : k + 1], mask[:, k : k + 1]).logits for k in range(2)]
        expected = pool(torch.stack(single).detach().numpy()[:, 1], axis=0)
        np.testing.assert_allclose(net(bag, mask).logits[1].detach(), expected, rtol=1e-5)


def test_clam_takes_the_most_and_the_least_attended():
    net = made("clam_sb", sampled=2)
    bag, mask = bags(9, 3)
    found = net(bag, mask)
    label = torch.tensor([1, 0])
    expected = []
    for place, count in ((0, 2), (1, 1)):
        held = int(mask[place].sum())
        order = np.argsort(-found.attention[place, :held].detach().numpy(), kind="stable")
        odds = found.instances[place, :, label[place]].detach().double().numpy()
        terms = [np.log1p(np.exp(-odds[k])) for k in order[:count]]
        terms += [np.log1p(np.exp(odds[k])) for k in order[-count:]]
        expected.append(np.mean(terms))
    loss = net.instance_loss(found, mask, label)
    assert loss.item() == pytest.approx(np.mean(expected), rel=1e-5)
    one, its_mask = bags(1)
    assert net.instance_loss(net(one, its_mask), its_mask, torch.tensor([0])).item() == 0


def test_masked_softmax_of_nothing_is_nothing():
    assert (masked_softmax(torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.bool)) == 0).all()


def qkv(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 2, count, 4, generator=generator, dtype=torch.float64)


def test_nystrom_is_exact_with_few_tokens():
    query, key, value = qkv(9)
    out, row = nystrom(query, key, value, 9)
    exact = torch.softmax(query @ key.transpose(1, 2), -1)
    torch.testing.assert_close(out, exact @ value)
    torch.testing.assert_close(row(3), exact[:, 3])


def test_nystrom_comes_near_where_tokens_repeat():
    """Runs of equal tokens are their landmarks: the approximation is then exact too."""
    few = qkv(8)
    query, key, value = few.repeat_interleave(3, 2)
    out, row = nystrom(query, key, value, 8, iterations=30)
    exact = torch.softmax(query @ key.transpose(1, 2), -1)
    torch.testing.assert_close(out, exact @ value, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(row(5), exact[:, 5], rtol=1e-6, atol=1e-8)


def test_pseudo_inverse_against_numpy():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.softmax(3 * torch.randn(2, 5, 5, generator=generator, dtype=torch.float64), -1)
    found = pseudo_inverse(matrix, 40)
    np.testing.assert_allclose(found, np.linalg.pinv(matrix.numpy()), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("count", [1, 2, 7, 8, 50])
def test_transmil_takes_bags_of_any_length(count):
    bag, mask = bags(count)
    assert torch.isfinite(made("transmil")(bag, mask).logits).all()


def count(name, dim, classes=2):
    return sum(p.numel() for p in build_mil(name, dim, classes).parameters())


def test_sizes():
    """Weights and biases of the layers that the papers name."""
    assert count("mean", 768) == 768 * 192 + 192 + 192 * 2 + 2
    assert count("max", 768) == 768 * 512 + 512 + 512 * 2 + 2
    assert count("abmil", 1024) == (1024 * 512 + 512) + (512 * 128 + 128) + 128 + (512 * 2 + 2)
    gated = (1024 * 512 + 512) + 2 * (512 * 256 + 256) + (256 + 1) + (512 * 2 + 2)
    assert count("gated", 1024) == gated
    assert count("clam_sb", 1024) == gated + 512 * 4 + 4
    assert count("hipt", 192) == (192 * 192 + 192) * 3 + 2 * (
        4 * (192 * 192 + 192) + 2 * (192 * 192 + 192) + 4 * 192
    ) + (2 * (192 * 192 + 192) + 193) + (192 * 2 + 2) - (192 * 192 + 192)


def test_an_unknown_network():
    with pytest.raises(ConfigError, match="choose one of mean, max"):
        build_mil("abmill", 8, 2)
