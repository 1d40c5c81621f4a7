"""Operating points against scikit-learn and by hand."""

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score, roc_curve

from wsikd.learn.score.thresholds import (
    assured_sensitivity,
    at_threshold,
    choose_threshold,
    positives_needed,
    with_intervals,
)


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


@pytest.mark.parametrize(("positives", "wanted"), [(20, 0.5), (60, 0.9), (59, 0.95), (200, 0.95)])
def test_a_sensitivity_is_kept_on_other_slides(positives, wanted):
    """Of 4,000 cohorts at least 95 % have the stated sensitivity, and not many more."""
    rng = np.random.default_rng(positives)
    score = np.sort(rng.random((4000, positives)), 1)
    truth = np.append(np.ones(positives, bool), False)
    found = [
        choose_threshold(truth, np.append(s, -1), rule="sensitivity", sensitivity=wanted)
        for s in score
    ]
    kept = float((1 - np.array(found) >= wanted).mean())  # the true sensitivity at t is 1 - t
    assert 0.94 <= kept <= 0.99


def test_few_positives_take_the_least_score():
    for count in (1, 5, 58):
        truth = np.append(np.ones(count, bool), False)
        score = np.append(np.linspace(0.2, 0.9, count), 0.1)
        assert choose_threshold(truth, score, rule="sensitivity", sensitivity=0.95) == 0.2
    rng = np.random.default_rng(1)
    least = rng.random((20000, 5)).min(1)
    assert (1 - least >= assured_sensitivity(5)).mean() == pytest.approx(0.95, abs=0.005)
    assert (positives_needed(0.95), positives_needed(0.9), positives_needed(1.0)) == (59, 29, None)
    assert assured_sensitivity(59) >= 0.95 > assured_sensitivity(58)


def test_a_patient_counts_once_by_the_least_score():
    truth, score = np.ones(121, bool), np.linspace(0.1, 0.9, 121)
    truth[0] = False
    apart = [f"p{k}" for k in range(121)]
    pairs = [f"p{k // 2}" for k in range(121)]
    assert choose_threshold(truth, score, rule="sensitivity", groups=apart) > score[1]
    assert choose_threshold(truth, score, rule="sensitivity", groups=pairs) == score[1]


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
