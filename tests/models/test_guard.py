"""The guard on simulated features: false alarms, slides of another kind, few slides."""

import numpy as np
import pytest

from wsikd.models.guard import (
    ENOUGH,
    WEAK_FACTOR,
    Reading,
    fit_guard,
    slide_means,
    threshold,
)

FIELDS, FEATURES = 12, 40


def cohort(rng, slides, shift=0.0, mixing=None):
    """Features of slides that vary between each other, and the slide of each field."""
    own = rng.normal(0, 0.7, (slides, 1, FEATURES)) + shift
    found = own + rng.normal(0, 1, (slides, FIELDS, FEATURES))
    flat = found.reshape(-1, FEATURES) * np.linspace(0.01, 5, FEATURES)
    names = [f"s{n}" for n in range(slides) for _ in range(FIELDS)]
    return (flat @ mixing if mixing is not None else flat).astype(np.float32), names


def distances(guard, features, names):
    return slide_means(guard.distances(features), names)


@pytest.mark.parametrize("val", [19, 40, 100])
def test_slides_like_the_training_are_rarely_withheld(val):
    rng = np.random.default_rng(val)
    alarms = []
    for _ in range(25):
        guard = fit_guard(*cohort(rng, 40), *cohort(rng, val))
        assert not guard.weak
        alarms.append(distances(guard, *cohort(rng, 40)) > guard.threshold)
    assert np.mean(alarms) <= 0.05 + 0.015  # 1,000 slides: two standard errors


def test_a_cohort_of_another_kind_is_caught():
    rng = np.random.default_rng(1)
    mixing = np.linalg.qr(rng.normal(size=(FEATURES, FEATURES)))[0]
    guard = fit_guard(*cohort(rng, 40, mixing=mixing), *cohort(rng, 30, mixing=mixing))
    shifted = distances(guard, *cohort(rng, 30, shift=3.0, mixing=mixing))
    assert (shifted > guard.threshold).mean() > 0.95


def test_few_validation_slides_make_a_weak_guard_with_a_wide_threshold():
    rng = np.random.default_rng(2)
    val = cohort(rng, ENOUGH - 1)
    guard = fit_guard(*cohort(rng, 30), *val)
    assert guard.weak
    assert guard.threshold == pytest.approx(WEAK_FACTOR * distances(guard, *val).max())
    assert not fit_guard(*cohort(rng, 30), *cohort(rng, ENOUGH)).weak


def test_every_slide_weighs_the_same():
    rng = np.random.default_rng(3)
    features, names = cohort(rng, 10)
    many = np.concatenate([features, np.repeat(features[:FIELDS], 20, 0)])
    one = fit_guard(features, names, features, names)
    two = fit_guard(many, names + ["s0"] * (20 * FIELDS), features, names)
    np.testing.assert_allclose(one.mean, two.mean, atol=1e-4)


def test_the_threshold_is_beyond_the_greatest_where_slides_are_few():
    found = np.random.default_rng(4).uniform(1, 2, ENOUGH)
    assert threshold(found) >= found.max()


def test_features_that_never_vary_do_no_harm():
    rng = np.random.default_rng(5)
    features, names = cohort(rng, 25)
    features[:, 3] = 7.0
    guard = fit_guard(features, names, features, names)
    assert np.isfinite(guard.distances(features)).all()
    one = fit_guard(features[:1], names[:1], features[:1], names[:1])
    assert np.isfinite(one.distances(features)).all()


def test_means_of_slides():
    assert slide_means(np.array([1.0, 3.0, 5.0]), ["b", "b", "a"]).tolist() == [5.0, 2.0]


def test_a_reading_is_the_mean_over_batches():
    rng = np.random.default_rng(6)
    features, names = cohort(rng, 20)
    guard = fit_guard(features, names, features, names)
    reading = Reading(guard)
    assert (reading.distance, reading.beyond) == (None, False)
    for start in range(0, len(features), 7):
        reading(features[start : start + 7])
    assert reading.distance == pytest.approx(guard.distances(features).mean())
    assert not reading.beyond
    far = Reading(guard)
    far(features + 100)
    assert far.beyond
