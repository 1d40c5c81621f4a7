"""Terms on relations between patches against slow readings of their equations."""

import numpy as np
import pytest
import torch

from wsikd.learn.losses.relations import (
    relational_angle,
    relational_distance,
    similarity_preserving,
)

TERMS = [similarity_preserving, relational_distance, relational_angle]


def features(count=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = [torch.randn(count, k, generator=generator, dtype=torch.float64) for k in (6, 9)]
    return draw[0], draw[1]


def huber(a, b):
    d = abs(a - b)
    return d * d / 2 if d <= 1 else d - 0.5


def test_similarities():
    own, target = features()
    maps = []
    for x in (own.numpy(), target.numpy()):
        gram = np.array([[a @ b for b in x] for a in x])
        maps.append(gram / np.linalg.norm(gram, axis=1)[:, None])
    expected = np.linalg.norm(maps[0] - maps[1]) ** 2 / len(own) ** 2
    assert similarity_preserving(own, target).item() == pytest.approx(expected, rel=1e-9)
    shaped = similarity_preserving(own.view(4, 3, 2, 1), target.view(4, 1, 3, 3))
    assert shaped.item() == pytest.approx(expected, rel=1e-9)


def test_distances():
    own, target = features()
    values = []
    for x in (own.numpy(), target.numpy()):
        pairs = {(i, j): np.linalg.norm(x[i] - x[j]) for i in range(4) for j in range(4) if i != j}
        mean = np.mean(list(pairs.values()))
        values.append({k: d / mean for k, d in pairs.items()})
    expected = np.mean([huber(d, values[1][k]) for k, d in values[0].items()])
    assert relational_distance(own, target).item() == pytest.approx(expected, rel=1e-6)


def test_angles():
    own, target = features()
    values = []
    for x in (own.numpy(), target.numpy()):
        cosines = {}
        for i, j, k in np.ndindex(4, 4, 4):
            if len({i, j, k}) == 3:
                a, b = x[i] - x[j], x[k] - x[j]
                cosines[i, j, k] = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        values.append(cosines)
    expected = np.mean([huber(c, values[1][k]) for k, c in values[0].items()])
    assert relational_angle(own, target).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("term", TERMS)
def test_what_does_not_change_relations_costs_nothing(term):
    _, target = features()
    turn = torch.linalg.qr(features(9, seed=3)[1])[0]
    moved = 3 * target @ turn
    assert term(moved, target).item() == pytest.approx(0, abs=1e-12)
    if term is not similarity_preserving:
        assert term(moved + 5, target).item() == pytest.approx(0, abs=1e-12)
    assert term(features(seed=1)[1], target).item() > 1e-3


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_small_batches_and_equal_features_are_finite(term, count, dtype):
    _, target = features(count)
    same = target.to(dtype).requires_grad_()
    value = term(same, same.detach())
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert torch.isfinite(same.grad).all()


@pytest.mark.parametrize("term", TERMS)
def test_patches_that_coincide_are_finite(term):
    target = features()[1].float()
    own = torch.ones(4, 6, requires_grad=True)
    value = term(own, target)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(own.grad).all()


@pytest.mark.parametrize("term", TERMS)
def test_teacher_is_a_constant(term):
    own, target = (x.requires_grad_() for x in features())
    term(own, target).backward()
    assert own.grad.abs().sum() > 0
    assert target.grad is None
