"""The guard of version 1, of students of an early wsikd: read, with the same verdict as before."""

import numpy as np
import pytest

from wsikd.models.feature_guard import FeatureGuard


def guard(threshold=1.0):
    rng = np.random.default_rng(0)
    mixing = np.linalg.qr(rng.normal(size=(8, 3)))[0].astype(np.float32)
    return FeatureGuard(
        rng.normal(size=8).astype(np.float32), np.full(8, 2, np.float32), mixing, 0.5, threshold,
        5, 1,
    )  # fmt: skip


def test_the_distance_is_that_of_mahalanobis():
    own = guard()
    x = np.random.default_rng(1).normal(size=(6, 8)).astype(np.float32)
    away = (x - own.mean) / own.scale
    inside = away @ own.axes
    rest = away - inside @ own.axes.T
    expected = np.sqrt(((inside**2).sum(1) + (rest**2).sum(1) / own.rest) / 8)
    np.testing.assert_allclose(own.distances(x), expected, rtol=1e-5)


def test_a_reading_is_the_mean_over_batches_in_multiples_of_the_threshold():
    own = guard(threshold=0.5)
    x = np.random.default_rng(2).normal(size=(20, 8)).astype(np.float32)
    reading = own.reading()
    assert reading.distance is None
    for start in range(0, 20, 7):
        reading.look(x[start : start + 7])
    reading.watch(np.arange(3), 3, np.zeros((3, 8, 8, 3), np.uint8))
    assert reading.distance == pytest.approx(own.distances(x).mean() / 0.5)
    assert own.weak
