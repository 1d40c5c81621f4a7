"""Losses against slow NumPy loops written from the equations."""

import numpy as np
import pytest
import torch
from torch import nn

from wsikd.learn.losses import maps as losses


def tensors(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]


def relu(x):
    return max(x, 0.0)


def slow_attention(feature, head, form):
    batch, channels, height, width = feature.shape
    out = np.zeros((batch, len(head), height, width))
    for b in range(batch):
        for c in range(len(head)):
            for i in range(height):
                for j in range(width):
                    total = 0.0
                    for k in range(channels):
                        alpha = head[c, k] / (height * width)
                        if form == "relu_product":
                            total += relu(alpha * feature[b, k, i, j])
                        elif form == "positive_grad":
                            total += relu(alpha) * feature[b, k, i, j]
                        else:
                            total += alpha * feature[b, k, i, j]
                    out[b, c, i, j] = relu(total) if form == "gradcam" else total
    return out


def slow_distance(student, teacher):
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        s, t = ((m - m.min()) / (m.max() - m.min() + 1e-8) for m in (s, t))
        total += np.sqrt(np.mean((s - t) ** 2))
    return total / len(student)


@pytest.mark.parametrize("form", losses.FORMS)
def test_attention_follows_its_equation(form):
    feature, head = tensors((2, 5, 3, 4), (4, 5))
    expected = slow_attention(feature.numpy(), head.numpy(), form)
    assert np.allclose(losses.class_attention(feature, head, form), expected, atol=1e-12)


@pytest.mark.parametrize("form", losses.FORMS)
@pytest.mark.parametrize("batch", [1, 3])
def test_closed_form_equals_autograd_with_gradients(form, batch):
    conv, head = nn.Conv2d(3, 6, 3).double(), nn.Linear(6, 4).double()
    (x, target) = tensors((batch, 3, 8, 8), (batch, 4, 6, 6), seed=batch)
    grads, maps = [], []
    for closed in (True, False):
        feature = conv(x)
        logits = head(feature.mean((2, 3)))
        attention = (
            losses.class_attention(feature, head.weight, form)
            if closed
            else losses.class_attention_autograd(logits, feature, form)
        )
        loss = losses.attention_distance(attention, target)
        maps.append(attention.detach())
        grads.append(torch.autograd.grad(loss, [conv.weight, conv.bias, head.weight]))
    assert torch.allclose(*maps, atol=1e-12)
    for closed, generic in zip(*grads, strict=True):
        assert torch.allclose(closed, generic, atol=1e-9)
        assert closed.abs().sum() > 0


def test_alpha_is_weight_over_area():
    head = nn.Linear(5, 3).double()
    (feature,) = tensors((2, 5, 4, 6))
    feature.requires_grad_()
    logits = head(feature.mean((2, 3)))
    (slope,) = torch.autograd.grad(logits[:, 1].sum(), feature)
    assert torch.allclose(slope.mean((2, 3)), (head.weight[1] / 24).expand(2, 5), atol=1e-14)


def test_unknown_form_is_refused():
    feature, head = tensors((1, 2, 2, 2), (2, 2))
    with pytest.raises(ValueError, match="relu_product"):
        losses.class_attention(feature, head, "softmax")


def test_distance_and_matching_follow_their_equations():
    student, teacher = tensors((3, 4, 2, 5), (3, 4, 2, 5), seed=4)
    expected = slow_distance(student.numpy(), teacher.numpy())
    assert losses.attention_distance(student, teacher).item() == pytest.approx(expected, abs=1e-7)
    rmse = np.sqrt(np.mean((student.numpy() - teacher.numpy()) ** 2))
    assert losses.feature_matching(student, teacher).item() == pytest.approx(rmse, abs=1e-7)


def test_feature_matching_is_over_the_batch_not_per_patch():
    student, teacher = torch.zeros(2, 1, 1, 1), torch.tensor([0.0, 2.0]).view(2, 1, 1, 1)
    assert losses.feature_matching(student, teacher).item() == pytest.approx(2**0.5, abs=1e-6)
    one = torch.tensor([[[[0.0, 1.0]]], [[[0.0, 1.0]]]])
    other = torch.tensor([[[[0.0, 1.0]]], [[[1.0, 0.0]]]])
    assert losses.attention_distance(one, other).item() == pytest.approx(0.5, abs=1e-6)


def test_cross_entropy_follows_its_equation():
    (logits,) = tensors((5, 4), seed=2)
    label = torch.tensor([0, 3, 1, 1, 2])
    z = logits.numpy()
    expected = np.mean(
        [np.log(np.exp(row).sum()) - row[y] for row, y in zip(z, label, strict=True)]
    )
    assert losses.cross_entropy(logits, label).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("loss", [losses.feature_matching, losses.attention_distance])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_distance_has_a_finite_gradient(loss, dtype):
    (teacher,) = tensors((2, 3, 4, 4))
    teacher = teacher.to(dtype)
    student = teacher.clone().requires_grad_()
    value = loss(student, teacher)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-7)
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("constant", ["student", "teacher", "both"])
def test_constant_maps_are_finite(constant):
    student, teacher = (t.float() for t in tensors((2, 3, 4, 4), (2, 3, 4, 4)))
    if constant in ("student", "both"):
        student = torch.full_like(student, 0.3)
    if constant in ("teacher", "both"):
        teacher = torch.full_like(teacher, 0.7)
    student.requires_grad_()
    value = losses.attention_distance(student, teacher)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(student.grad).all()


def test_teacher_is_a_constant():
    student, teacher = tensors((2, 3, 4, 4), (2, 3, 4, 4))
    for loss in (losses.feature_matching, losses.attention_distance):
        a, b = student.clone().requires_grad_(), teacher.clone().requires_grad_()
        loss(a, b).backward()
        assert a.grad is not None
        assert b.grad is None


def slow_area(image, size):
    """Area average by cutting every pixel into 1/L, L the common multiple of both grids."""
    fine = np.kron(image, np.ones((size[0], size[1])))
    rows, columns = fine.shape[0] // size[0], fine.shape[1] // size[1]
    return fine.reshape(size[0], rows, size[1], columns).mean((1, 3))


@pytest.mark.parametrize("size", [(4, 4), (3, 5), (2, 8), (8, 8), (1, 1)])
def test_grid_alignment_averages_areas(size):
    (feature,) = tensors((1, 2, 8, 8))
    moved = losses.to_grid(feature, size)
    for k in range(2):
        assert np.allclose(moved[0, k], slow_area(feature[0, k].numpy(), size), atol=1e-12)


def test_grid_alignment_upwards_keeps_a_ramp():
    ramp = torch.arange(8, dtype=torch.float64).expand(1, 1, 8, 8)
    up = losses.to_grid(ramp, (16, 16))
    centres = (torch.arange(16, dtype=torch.float64) + 0.5) / 2 - 0.5
    assert torch.allclose(up[0, 0, :, 1:-1], centres[1:-1].expand(16, 14), atol=1e-12)


def test_downsample_is_an_area_average_of_bytes():
    generator = torch.Generator().manual_seed(3)
    patches = torch.randint(0, 256, (2, 3, 8, 12), dtype=torch.uint8, generator=generator)
    low = losses.downsample(patches, 4)
    expected = patches.numpy().astype(float).reshape(2, 3, 2, 4, 3, 4).mean((3, 5))
    assert low.shape == (2, 3, 2, 3)
    assert np.allclose(low, expected, atol=1e-4)
    assert torch.equal(losses.downsample(patches, 1), patches.float())


def slow_softmax(maps):
    hot = np.exp((maps - maps.max((2, 3), keepdims=True)) / 0.01)
    return hot / hot.sum((2, 3), keepdims=True)


def slow_minmax(maps):
    return np.stack([(m - m.min()) / (m.max() - m.min() + 1e-8) for m in maps])


def slow_general_distance(own, taught, distance):
    total = 0.0
    for s, t in zip(own, taught, strict=True):
        if distance == "l2":
            total += np.sqrt(np.mean((s - t) ** 2))
        elif distance == "kl":
            p, q = ((m + 1e-4) / (m + 1e-4).sum() for m in (t, s))
            total += sum(a * np.log(a / b) for a, b in zip(p.flat, q.flat, strict=True))
        else:
            t, s = (1e-4 + (1 - 2e-4) * m for m in (t, s))
            cross, entropy = (-np.mean(t * np.log(m) + (1 - t) * np.log(1 - m)) for m in (s, t))
            total += cross - entropy
    return total / len(own)


@pytest.mark.parametrize("normalise", losses.NORMALISATIONS)
@pytest.mark.parametrize("distance", losses.DISTANCES)
def test_every_distance_follows_its_equation(normalise, distance):
    student, teacher = (t.abs() / 20 for t in tensors((3, 4, 2, 5), (3, 4, 2, 5), seed=7))
    scale = slow_minmax if normalise == "minmax" else slow_softmax
    expected = slow_general_distance(scale(student.numpy()), scale(teacher.numpy()), distance)
    found = losses.attention_distance(student, teacher, normalise=normalise, distance=distance)
    assert found.item() == pytest.approx(expected, rel=1e-6)
    assert found.item() > 1e-3


@pytest.mark.parametrize("normalise", losses.NORMALISATIONS)
@pytest.mark.parametrize("distance", losses.DISTANCES)
@pytest.mark.parametrize("case", ["equal", "constant", "zero"])
def test_every_distance_is_finite_where_it_might_not_be(normalise, distance, case):
    student, teacher = (t.float() for t in tensors((2, 3, 4, 4), (2, 3, 4, 4)))
    student = {"equal": teacher.clone(), "constant": torch.full_like(teacher, 0.3)}.get(
        case, torch.zeros_like(student)
    )
    student.requires_grad_()
    value = losses.attention_distance(student, teacher, normalise=normalise, distance=distance)
    value.backward()
    assert torch.isfinite(student.grad).all()
    assert value.item() == pytest.approx(0, abs=1e-6) if case == "equal" else value.item() > 0


def test_softmax_keeps_its_class_axis():
    (maps,) = tensors((2, 3, 4, 5))
    shares = losses.normalise_softmax(maps)
    assert shares.shape == maps.shape
    assert torch.allclose(shares.sum((2, 3)), torch.ones(2, 3, dtype=torch.float64))


def test_unknown_distances_are_refused():
    maps = torch.zeros(1, 1, 2, 2)
    with pytest.raises(ValueError, match="minmax"):
        losses.attention_distance(maps, maps, normalise="max")
    with pytest.raises(ValueError, match="bce"):
        losses.attention_distance(maps, maps, distance="l1")
    with pytest.raises(ValueError, match="mean_square"):
        losses.activation_distance(maps, maps, form="l1")


@pytest.mark.parametrize("power", [2.0, 1.0, 4.0])
def test_activation_attention_follows_its_equation(power):
    student, teacher = tensors((3, 4, 2, 5), (3, 6, 2, 5), seed=5)
    rows = []
    for feature in (student.numpy(), teacher.numpy()):
        energy = np.stack([sum(abs(f) ** power for f in m).ravel() for m in feature])
        rows.append(np.stack([q / np.sqrt((q * q).sum()) for q in energy]))
    found = losses.activation_attention(student, power)
    assert np.allclose(found, rows[0], atol=1e-7)
    difference = rows[0] - rows[1]
    square = losses.activation_distance(student, teacher, power=power)
    assert square.item() == pytest.approx(np.mean(difference**2), rel=1e-6)
    length = losses.activation_distance(student, teacher, form="l2", power=power)
    expected = np.mean([np.linalg.norm(d) for d in difference]) / 2
    assert length.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("form", ["mean_square", "l2"])
@pytest.mark.parametrize("power", [1.0, 2.0])
@pytest.mark.parametrize("case", ["equal", "zero", "both zero"])
def test_activation_distance_is_finite_at_zero(form, power, case):
    (teacher,) = (t.float() for t in tensors((2, 3, 4, 4)))
    teacher = torch.zeros_like(teacher) if case == "both zero" else teacher
    student = (teacher.clone() if case == "equal" else torch.zeros_like(teacher)).requires_grad_()
    value = losses.activation_distance(student, teacher, form=form, power=power)
    value.backward()
    assert torch.isfinite(student.grad).all()
    assert (value.item() > 1e-3) == (case == "zero")


def test_softmax_regression_follows_its_equation():
    feature, weight, bias, target = tensors((3, 5, 2, 4), (4, 5), (4,), (3, 4, 2, 4), seed=6)
    scores = np.zeros(target.shape)
    for b, c, i, j in np.ndindex(*target.shape):
        scores[b, c, i, j] = float(weight[c] @ feature[b, :, i, j] + bias[c])
    found = losses.classify(feature, weight, bias)
    assert np.allclose(found, scores)
    pooled = losses.classify(feature.mean((2, 3)), weight, bias)
    assert np.allclose(pooled, scores.mean((2, 3)))
    loss = losses.softmax_regression(found, target)
    assert loss.item() == pytest.approx(np.sqrt(np.mean((scores - target.numpy()) ** 2)))


def test_one_process_changes_nothing():
    value = torch.tensor(2.0, requires_grad=True)
    assert losses.over_processes(value) is value
