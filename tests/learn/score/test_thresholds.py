"""Operating points against scikit-learn and by hand."""

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score, roc_curve

from wsikd.learn.score.thresholds import at_threshold, choose_threshold, with_intervals


def draw(seed, count=80):
    rng = np.random.default_rng(seed)
    positive = rng.random(count) < 0.4
    return positive, np.round(rng.normal(positive * 1.2, 1), 1)


@pytest.mark.parametrize("seed", range(5))
def test_youden_is_the_best_point_of_the_roc(seed):
    positive, score = draw(seed)
    fpr, tpr, _ = roc_curve(positive, score, drop_intermediate=False)
    found = at_threshold(positive, score, choose_threshold(positive, score))
    assert found["sensitivity"] + found["specificity"] - 1 == pytest.approx((tpr - fpr).max())


@pytest.mark.parametrize("wanted", [0.5, 0.9, 0.95, 1.0])
def test_sensitivity_is_just_reached(wanted):
    positive, score = draw(1)
    found = choose_threshold(positive, score, rule="sensitivity", sensitivity=wanted)
    assert at_threshold(positive, score, found)["sensitivity"] >= wanted
    higher = score[score > found]
    if len(higher):
        assert at_threshold(positive, score, higher.min())["sensitivity"] < wanted


@pytest.mark.parametrize("seed", range(3))
def test_figures_are_sklearns(seed):
    positive, score = draw(seed)
    found, called = at_threshold(positive, score, 0.5), score >= 0.5
    assert found["sensitivity"] == pytest.approx(recall_score(positive, called))
    assert found["specificity"] == pytest.approx(recall_score(~positive, ~called))
    assert found["precision"] == pytest.approx(precision_score(positive, called))
    assert found["f1"] == pytest.approx(f1_score(positive, called))


def test_weights_are_repeats():
    positive, score = draw(4, 12)
    weight = np.random.default_rng(0).integers(0, 4, 12)
    assert at_threshold(positive, score, 0.3, weight) == at_threshold(
        np.repeat(positive, weight), np.repeat(score, weight), 0.3
    )


def test_one_outcome_has_no_threshold():
    score = np.arange(3.0)
    assert np.isnan(choose_threshold(np.ones(3, bool), score))
    assert np.isnan(choose_threshold(np.zeros(3, bool), score))
    found = with_intervals(np.ones(3, bool), score, 1.0, list("abc"))
    assert found["specificity"] == {"value": None, "interval": None}


def test_intervals_are_over_groups():
    """Twenty equal slides of one patient say no more than one slide does."""
    positive, score = np.repeat([True, False], 20), np.repeat([1.0, 0.0], 20)
    score[5:10] = -1
    apart = with_intervals(positive, score, 0.5, [str(i) for i in range(40)])
    low, high = apart["sensitivity"]["interval"]
    assert low < 0.75 < high < 1
    together = with_intervals(positive, score, 0.5, ["p"] * 40)
    assert together["sensitivity"]["interval"] is None
