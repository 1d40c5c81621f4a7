"""The network beside colour histograms: figures of scikit-learn, an interval over slides."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, cohen_kappa_score

from wsikd.learn.score.over_colour import over_colour


def drawn(slides, right, seed=0, classes=3, each=30):
    """Truth, and probabilities of graders that are right so often; slides differ."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(classes, size=slides * each)
    found = [truth]
    for share in right:
        own = np.clip(share + rng.normal(scale=0.03, size=slides), 0, 1).repeat(each)
        guess = np.where(
            rng.random(len(truth)) < own, truth, rng.integers(classes, size=len(truth))
        )
        found.append(np.eye(classes)[guess])
    return (*found, [f"s{i}" for i in range(slides) for _ in range(each)])


@pytest.mark.parametrize("ordered", [True, False])
def test_figures_are_those_of_scikit_learn(ordered):
    truth, own, colour, groups = drawn(12, (0.8, 0.5))
    found = over_colour(truth, own, colour, groups, ordered=ordered)

    def score(probability):
        if ordered:
            return cohen_kappa_score(truth, probability.argmax(1), weights="quadratic")
        return balanced_accuracy_score(truth, probability.argmax(1))

    assert found.metric == ("kappa" if ordered else "balanced_accuracy")
    assert found.network == pytest.approx(score(own))
    assert found.colour == pytest.approx(score(colour))
    assert found.difference == pytest.approx(score(own) - score(colour))
    low, high = found.interval
    assert 0 < low < found.difference < high
    assert found.warning is None
    assert f"difference {found.difference:+.3f} [{low:+.3f}, " in found.summary


def test_a_gain_within_its_interval_is_no_gain():
    truth, own, colour, groups = drawn(12, (0.53, 0.5), seed=1)
    found = over_colour(truth, own, colour, groups, ordered=True)
    assert found.interval[0] <= 0 < found.interval[1]
    assert "not shown to be better than colour" in found.warning


def test_few_slides_have_no_interval():
    truth, own, colour, groups = drawn(4, (0.9, 0.3))
    found = over_colour(truth, own, colour, groups, ordered=True)
    assert (found.interval, found.groups, found.warning) == (None, 4, None)
    assert "not enough slides for an interval" in found.summary
    assert over_colour(truth, colour, own, groups, ordered=True).warning


def test_one_class_has_no_kappa():
    truth = np.zeros(30, np.int64)
    found = over_colour(truth, np.eye(3)[truth], np.eye(3)[truth], ["a"] * 30, ordered=True)
    assert (found.difference, found.warning) == (None, None)
    assert "undefined" in found.summary
