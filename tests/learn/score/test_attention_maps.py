import math

import numpy as np
import pytest
import torch

from wsikd.core.softmax import softmax
from wsikd.learn.data.patches import load_patches
from wsikd.learn.data.settings import Data, Split
from wsikd.learn.score.attention_maps import compare_attention
from wsikd.learn.score.plots import plot_attention, plot_confusion, plot_curves, plot_reliability
from wsikd.models.graders.pooled import build_grader

MAX_BYTES = 300_000


@pytest.fixture(scope="module")
def patches(stripes):
    return load_patches(Data(paths=[str(stripes)]), Split())


def grader(seed, upsample=1):
    torch.manual_seed(seed)
    return build_grader("vgg_small", 3, width=0.25, upsample=upsample).eval()


def slow(teacher, student, image, label, factor):
    """Grad-CAM by autograd, blocks averaged in loops, numpy's own correlation."""
    maps = []
    low = image.reshape(3, 32 // factor, factor, 32 // factor, factor).mean((2, 4))
    for net, x in ((teacher, image), (student, low)):
        x = torch.from_numpy(x[None]).float()
        feature = net.backbone(net.normalise(x)).detach().requires_grad_()
        net.head(feature.mean((2, 3)))[0, label].backward()
        alpha = feature.grad.mean((2, 3), keepdim=True)
        maps.append((alpha * feature).sum(1)[0].relu().detach().numpy())
    far, own = maps
    step = len(far) // len(own)
    near = [
        [far[r * step : (r + 1) * step, c * step : (c + 1) * step].mean() for c in range(len(own))]
        for r in range(len(own))
    ]
    return np.corrcoef(np.ravel(near), own.ravel())[0, 1]


def test_agreement_equals_a_slow_reading(patches):
    teacher, student = grader(0, upsample=4), grader(1, upsample=2)  # grids of 8 and 4
    chosen = patches.indices("train")[:6]
    with np.errstate(invalid="ignore"):
        each = [
            slow(teacher, student, patches.read(int(i)).numpy().astype(float), patches.label[i], 1)
            for i in chosen
        ]
    known = [v for v in each if math.isfinite(v)]
    assert len(known) > 3
    agreement, _ = compare_attention(
        teacher, student, patches, chosen, factor=1, form="gradcam", examples=2
    )
    assert agreement == pytest.approx(np.mean(known), abs=1e-4)


def test_a_network_agrees_with_itself_and_examples_show_all_classes(patches, tmp_path):
    net, val = grader(0), patches.indices("val")
    agreement, pairs = compare_attention(net, net, patches, val, factor=1, examples=3)
    assert agreement == pytest.approx(1, abs=1e-9)
    assert [pair.label for pair in pairs] == [0, 1, 2]
    for pair in pairs:
        assert pair.image.shape == (32, 32, 3)
        assert (pair.teacher == pair.student).all()
        assert (pair.teacher.min(), pair.teacher.max()) == (0, 1)
    plot_attention(pairs, patches.classes, tmp_path / "a.png")
    assert 0 < (tmp_path / "a.png").stat().st_size < MAX_BYTES


def test_maps_that_are_constant_do_not_count(patches):
    net = grader(0)
    agreement, pairs = compare_attention(net, grader(1), patches, patches.indices("val"), factor=2)
    assert agreement is None  # one cell each
    assert all(math.isnan(pair.correlation) for pair in pairs)


def test_pictures_of_little_are_drawn_too(tmp_path):
    rng = np.random.default_rng(0)
    truth, p = rng.integers(0, 3, 30), softmax(rng.normal(size=(30, 3)))
    plot_reliability({"a": p, "b": p**2 / (p**2).sum(1, keepdims=True)}, truth, tmp_path / "r.png")
    plot_confusion(np.zeros((3, 3), int).tolist(), ["x", "y", "z"], tmp_path / "c.png")
    row = {"epoch": 1, "raw": {"ce": 1.0}, "weighted": {"ce": 1.0}, "loss": 1.0}
    row["val"] = {"kappa": None, "balanced_accuracy": 0.5, "loss": 1.1}
    plot_curves([row, {"event": "final"}], tmp_path / "e.png")
    for name in "rce":
        assert 0 < (tmp_path / f"{name}.png").stat().st_size < MAX_BYTES
    assert len(list(tmp_path.iterdir())) == 3
