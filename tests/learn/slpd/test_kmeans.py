"""Clustering all slides at once is clustering each by itself."""

import numpy as np
import pytest
from sklearn.cluster import KMeans as Peer
from sklearn.metrics import adjusted_rand_score

from wsikd.learn.slpd import kmeans
from wsikd.learn.slpd.cluster_epoch import sizes
from wsikd.learn.slpd.kmeans import KMeans, cluster_slides
from wsikd.learn.slpd.method import Prototypes


def cohort(slides=7, kinds=3, dim=10, noise=0.3, seed=0):
    rng = np.random.default_rng(seed)
    counts = rng.integers(12, 40, slides)
    slide = np.repeat(np.arange(slides), counts)
    kind = np.concatenate([rng.permutation(np.arange(n) % kinds) for n in counts])
    centres = rng.normal(size=(slides, kinds, dim))
    x = centres[slide, kind] + noise * rng.normal(size=(len(slide), dim))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), slide, kind


@pytest.mark.parametrize("spherical", [False, True])
def test_separable_slides_are_recovered(spherical):
    x, slide, kind = cohort(noise=0.1)
    found = cluster_slides(x, slide, np.ones(7, bool), KMeans(3, spherical=spherical))
    for s in range(7):
        own = slide == s
        assert adjusted_rand_score(kind[own], found.assignment[own]) == 1
        for k in range(3):
            mean = x[own & (found.assignment == k)].mean(0)
            mean /= np.linalg.norm(mean)
            np.testing.assert_allclose(found.centroids[s, k], mean, atol=1e-5)
    np.testing.assert_allclose(
        found.closeness, (x * found.centroids[slide, found.assignment]).sum(1), atol=1e-5
    )


def test_the_best_start_is_kept_and_equals_lloyd():
    """Given the same starts, scikit-learn finds the same centroids and the same inertia."""
    x, slide, _ = cohort(noise=0.8)
    how = KMeans(3, iterations=40, restarts=4)
    found = cluster_slides(x, slide, np.ones(7, bool), how)
    counts = np.bincount(slide)
    starts, _ = kmeans._draw(np.arange(7), counts, int(counts.max()), how)
    for s in range(7):
        own = x[slide == s]
        peers = [
            Peer(3, init=own[start.numpy()], n_init=1, max_iter=40, tol=0).fit(own)
            for start in starts[:, s]
        ]
        best = min(peers, key=lambda p: p.inertia_)
        means = best.cluster_centers_ / np.linalg.norm(best.cluster_centers_, axis=1)[:, None]
        np.testing.assert_allclose(found.centroids[s], means, atol=1e-4)
        np.testing.assert_array_equal(found.assignment[slide == s], best.labels_)


def test_slides_are_clustered_alike_alone_and_together(monkeypatch):
    x, slide, _ = cohort()
    whole = cluster_slides(x, slide, np.ones(7, bool), KMeans(3))
    monkeypatch.setattr(kmeans, "_CHUNK_BYTES", 1)
    single = cluster_slides(x, slide, np.ones(7, bool), KMeans(3))
    np.testing.assert_array_equal(single.assignment, whole.assignment)
    np.testing.assert_allclose(single.centroids, whole.centroids, atol=1e-6)


def test_slides_left_out_have_nothing():
    x, slide, _ = cohort()
    valid = np.array([True, False] * 3 + [True])
    found = cluster_slides(x, slide, valid, KMeans(2))
    assert (found.assignment[~valid[slide]] == -1).all()
    assert (found.assignment[valid[slide]] >= 0).all()
    assert not found.centroids[~valid].any()
    assert np.isnan(found.closeness[~valid[slide]]).all()
    empty = cluster_slides(x, slide, np.zeros(7, bool), KMeans(2))
    assert (empty.assignment == -1).all()


def test_equal_regions_leave_a_cluster_empty_and_no_nan():
    x = np.tile(np.array([[0.6, 0.8]], np.float32), (5, 1))
    found = cluster_slides(x, np.zeros(5, np.int64), np.ones(1, bool), KMeans(2))
    np.testing.assert_allclose(found.centroids[0], [[0.6, 0.8]] * 2, atol=1e-6)
    assert len(set(found.assignment)) == 1


def test_centroids_come_from_some_of_many_regions():
    x = np.concatenate([np.eye(2, dtype=np.float32)[[0]], np.eye(2, dtype=np.float32)[[1] * 50]])
    how = KMeans(1, points_per_cluster=3)
    weight = kmeans._draw(np.array([0]), np.array([51]), 51, how)[1]
    assert weight.sum() == 3
    found = cluster_slides(x, np.zeros(51, np.int64), np.ones(1, bool), how)
    mean = (x * weight[0][:, None]).sum(0)
    np.testing.assert_allclose(found.centroids[0, 0], mean / np.linalg.norm(mean), atol=1e-6)
    assert (found.assignment == 0).all()


@pytest.mark.parametrize(
    ("counts", "expected"),
    [([51] * 9, (4, 32)), ([24] * 9, (2, 16)), ([500], (6, 48)), ([6, 12, 20], (2, 16))],
)
def test_sizes_that_are_not_set_follow_the_cohort(counts, expected):
    assert sizes(Prototypes(), np.array(counts)) == expected
