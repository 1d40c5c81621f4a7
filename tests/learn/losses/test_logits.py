"""Terms on logits against slow readings of their equations."""

import math

import numpy as np
import pytest
import torch

from wsikd.learn.losses.logits import decoupled_distillation, distillation, standardised


def logits(count=5, classes=4, seed=0, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(2, count, classes, generator=generator, dtype=torch.float64) * scale
    return draw[0], draw[1]


def softmax(row):
    weights = [math.exp(v) for v in row]
    return [w / sum(weights) for w in weights]


def divergence(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_hinton_s_form(temperature):
    own, target = logits()
    expected = np.mean([
        temperature**2 * divergence(softmax(t / temperature), softmax(s / temperature))
        for s, t in zip(own.numpy(), target.numpy(), strict=True)
    ])  # fmt: skip
    found = distillation(own, target, temperature=temperature)
    assert found.item() == pytest.approx(expected, rel=1e-10)


def test_hinton_s_gradient_keeps_its_scale_when_hot():
    """For T to infinity the gradient is that of half the squared distance of centred logits / C."""
    own, target = logits()
    own.requires_grad_()
    distillation(own, target, temperature=1e4).backward()
    centred = [z - z.mean(1, keepdim=True) for z in (own.detach(), target)]
    expected = (centred[0] - centred[1]) / (own.shape[1] * own.shape[0])
    assert torch.allclose(own.grad, expected, rtol=1e-2, atol=1e-4)


def test_the_released_form_heats_the_teacher_only():
    own, target = logits()
    expected = np.mean([
        -sum(p * math.log(q) for p, q in zip(softmax(t / 3), softmax(s), strict=True))
        for s, t in zip(own.numpy(), target.numpy(), strict=True)
    ])  # fmt: skip
    found = distillation(own, target, temperature=3, form="code")
    assert found.item() == pytest.approx(expected, rel=1e-10)


def test_standardised_logits_lose_shift_and_scale():
    own, target = logits()
    z = standardised(own).numpy()
    assert np.allclose(z, (own - own.mean(1, keepdim=True)) / own.std(1, False, keepdim=True))
    moved = distillation(5 * own + 2, target, temperature=2, standardise=True)
    assert moved.item() == pytest.approx(
        distillation(own, target, temperature=2, standardise=True).item(), rel=1e-9
    )
    direct = distillation(standardised(own), standardised(target), temperature=2)
    assert moved.item() == pytest.approx(direct.item(), rel=1e-9)
    assert distillation(own, 3 * own, standardise=True).item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("classes", [2, 4])
def test_decoupled_form(classes):
    own, target = logits(classes=classes)
    label = torch.tensor([0, 1, 1, 0, 1]) * (classes - 1)
    alpha, beta, hot, values = 1.5, 4.0, 2.0, []
    for s, t, y in zip(own.numpy(), target.numpy(), label.tolist(), strict=True):
        p, q = softmax(t / hot), softmax(s / hot)
        rest = [[v / (1 - x[y]) for i, v in enumerate(x) if i != y] for x in (p, q)]
        two = divergence([p[y], 1 - p[y]], [q[y], 1 - q[y]])
        values.append(hot**2 * (alpha * two + beta * divergence(*rest)))
    found = decoupled_distillation(own, target, label, temperature=hot, alpha=alpha, beta=beta)
    assert found.item() == pytest.approx(np.mean(values), rel=1e-9)


def test_decoupled_form_with_the_teacher_s_own_weight_is_hinton_s():
    """KL = TCKD + (1 - p_y) NCKD, equation 6 of the paper, for a single patch."""
    own, target = logits(count=1)
    rest = 1 - torch.softmax(target / 4, 1)[0, 2].item()
    whole = decoupled_distillation(own, target, torch.tensor([2]), alpha=1, beta=rest)
    assert whole.item() == pytest.approx(distillation(own, target).item(), rel=1e-9)


TERMS = {
    "hinton": distillation,
    "standardised": lambda s, t: distillation(s, t, standardise=True),
    "dkd": lambda s, t: decoupled_distillation(s, t, torch.arange(len(s)) % s.shape[1]),
}


@pytest.mark.parametrize("term", TERMS.values(), ids=TERMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 5])
def test_equal_logits_cost_nothing(term, dtype, count):
    own, target = (z.to(dtype) for z in logits(count))
    same = target.clone().requires_grad_()
    value = term(same, target)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-5)
    assert torch.isfinite(same.grad).all()
    assert same.grad.abs().max() < 1e-4
    assert term(own, target).item() > 0.01


@pytest.mark.parametrize("term", TERMS.values(), ids=TERMS)
def test_extreme_and_constant_logits_are_finite(term):
    extreme = torch.tensor([[100.0, -100, 0, 0], [0, 0, 0, 0]], requires_grad=True)
    value = term(extreme, torch.tensor([[-100.0, 100, 0, 0], [0, 0, 0, 0]]))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(extreme.grad).all()


def test_teacher_is_a_constant_and_forms_are_known():
    own, target = logits()
    own, target = own.requires_grad_(), target.requires_grad_()
    (
        distillation(own, target) + decoupled_distillation(own, target, torch.arange(5) % 4)
    ).backward()
    assert own.grad is not None
    assert target.grad is None
    with pytest.raises(ValueError, match="hinton"):
        distillation(own, target, form="hot")
