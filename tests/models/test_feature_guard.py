"""The guard of version 1, of students of an early wsikd: read, with the same verdict as before."""

import numpy as np
import pytest
import torch

from wsikd.models.feature_guard import FeatureGuard
from wsikd.models.graders.pooled import build_grader


def network():
    torch.manual_seed(3)
    return build_grader("vgg_small", 4, width=0.25)


def guard(threshold=1.0, features=8):
    rng = np.random.default_rng(0)
    mixing = np.linalg.qr(rng.normal(size=(features, 3)))[0].astype(np.float32)
    return FeatureGuard(
        rng.normal(size=features).astype(np.float32), np.full(features, 2, np.float32), mixing, 0.5,
        threshold, 5, 1, network,
    )  # fmt: skip


def test_the_distance_is_that_of_mahalanobis():
    own = guard()
    x = np.random.default_rng(1).normal(size=(6, 8)).astype(np.float32)
    away = (x - own.mean) / own.scale
    inside = away @ own.axes
    rest = away - inside @ own.axes.T
    expected = np.sqrt(((inside**2).sum(1) + (rest**2).sum(1) / own.rest) / 8)
    np.testing.assert_allclose(own.distances(x), expected, rtol=1e-5)


def test_features_are_mean_and_deviation_of_every_channel():
    patches = np.random.default_rng(4).integers(0, 255, (3, 32, 32, 3)).astype(np.uint8)
    grader = network().eval()
    with torch.inference_mode():
        taps = grader.with_taps(torch.tensor(patches).permute(0, 3, 1, 2), grader.backbone.taps)[1]
    flat = [taps[name].flatten(2).numpy() for name in grader.backbone.taps]
    expected = [one.mean(2) for one in flat] + [one.std(2) for one in flat]
    found = guard().features(patches)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.concatenate(expected, 1), rtol=1e-3, atol=1e-4)


def test_a_reading_is_the_mean_over_batches_in_multiples_of_the_threshold():
    patches = np.random.default_rng(2).integers(0, 255, (20, 32, 32, 3)).astype(np.uint8)
    own = guard(threshold=0.5, features=guard().features(patches).shape[1])
    reading = own.reading()
    assert reading.distance is None
    for start in range(0, 20, 7):
        batch = patches[start : start + 7]
        reading.watch(np.arange(start, start + len(batch)), 20, batch)
    assert reading.distance == pytest.approx(own.distances(own.features(patches)).mean() / 0.5)
    assert own.weak
