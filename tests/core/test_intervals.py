"""Intervals over groups, against slow readings, scipy and simulated truths."""

import numpy as np
import pytest
from scipy import stats

from wsikd.core.intervals import (
    MIN_GROUPS,
    difference_interval,
    interval,
    leave_out,
    limits,
    paired_bounds,
    rate_interval,
    rate_limits,
)


def means(values):
    """The mean with all, then without each."""
    weight = leave_out(len(values))
    return weight @ values / weight.sum(1)


def test_a_mean_has_the_interval_of_student():
    """The jackknife of a mean is its standard error; normal values lose few degrees."""
    values = np.random.default_rng(0).normal(0.5, 0.1, 4000)
    for scale in ("share", "slides", "kappa"):
        found = interval(means(values), scale)
        half = stats.sem(values) * 1.96
        assert (found[1] - found[0]) / 2 == pytest.approx(half, rel=0.1)


def test_the_pseudo_values_are_those_of_a_slow_reading():
    values = np.random.default_rng(1).uniform(0.6, 0.95, 14)
    logit = np.log(values.mean() / (1 - values.mean()))
    without = np.array([np.delete(values, i).mean() for i in range(14)])
    pseudo = 14 * logit - 13 * np.log(without / (1 - without))
    freedom = min(13, 2 * 14 / (stats.kurtosis(pseudo, fisher=False) - 1)) - 2
    half = stats.t.ppf(0.975, freedom) * stats.sem(pseudo)
    expected = 1 / (1 + np.exp([half - logit, -half - logit]))
    assert interval(means(values), "share") == pytest.approx(tuple(expected))
    slope = stats.sem(values) / (values.mean() * (1 - values.mean()))
    freedom = min(13, 2 * 14 / (stats.kurtosis(values, fisher=False) - 1))
    half = stats.t.ppf(0.975, freedom) * slope
    expected = 1 / (1 + np.exp([half - logit, -half - logit]))
    assert interval(means(values), "slides") == pytest.approx(tuple(expected))


def test_the_interval_of_a_difference_joins_two():
    rng = np.random.default_rng(5)
    one, other = rng.uniform(0.5, 0.9, 40), rng.uniform(0.4, 0.9, 40)
    a, b = means(one), means(other)
    low, high = difference_interval(a, b, "share")
    paired = stats.ttest_rel(one, other).confidence_interval(0.95)
    assert (low, high) == pytest.approx((paired.low, paired.high), abs=0.02)
    apart = one - other
    freedom = min(39, 2 * 40 / (stats.kurtosis(apart, fisher=False) - 1))
    expected = apart.mean() - stats.t.ppf(0.97, freedom) * stats.sem(apart)
    assert paired_bounds(a, b, level=0.97) == pytest.approx(expected)
    assert paired_bounds(a, a, level=0.97) == pytest.approx(0.03 ** (1 / 40) - 1)
    assert difference_interval(b, a, "share") == pytest.approx((-high, -low))
    low, high = difference_interval(a, a, "share")
    assert low == -high < -0.05  # others may differ
    assert difference_interval(a[:10], b[:10], "share") is None


def test_many_groups_are_left_out_in_blocks():
    without = leave_out(1001)
    assert without.shape == (401, 1001)
    assert (without[0] == 1).all()
    assert ((without[1:] == 0).sum(0) == 1).all()
    assert set((without[1:] == 0).sum(1)) == {2, 3}


@pytest.mark.parametrize("groups", [0, 1, 2, MIN_GROUPS - 1])
def test_few_groups_have_no_interval(groups):
    values = np.linspace(0.4, 0.6, 1 + groups)
    assert interval(values, "share") is None
    assert difference_interval(values, values, "kappa") is None
    assert rate_interval(np.ones(groups), np.ones(groups)) is None


def test_what_is_undefined_without_a_group_has_no_interval():
    values = means(np.linspace(0.4, 0.6, 12))
    values[3] = np.nan
    assert interval(values, "share") is None


@pytest.mark.parametrize("scale", ["share", "slides", "kappa"])
@pytest.mark.parametrize("value", [-1.0, 0.0, 0.4, 1.0])
def test_no_interval_has_no_width(scale, value):
    if scale != "kappa" and value < 0:
        return
    low, high = interval(np.full(21, value), scale)
    assert low <= value <= high
    assert high - low > 0.1
    few = interval(np.full(21, value), scale, support=4)
    assert few[1] - few[0] > high - low


def test_a_figure_at_the_end_of_its_scale_has_the_bound_of_clopper_and_pearson():
    low, high = interval(np.ones(31), "share")
    expected = stats.binomtest(30, 30).proportion_ci(method="exact")
    assert (low, high) == pytest.approx((expected.low, expected.high))


def test_one_decision_a_slide_has_the_interval_of_wilson():
    hits = np.repeat([1, 0], [26, 4])
    expected = stats.binomtest(26, 30).proportion_ci(method="wilson")
    found = rate_interval(hits, np.ones(30))
    assert found == pytest.approx((expected.low, expected.high))
    unasked = rate_interval(np.append(hits, 0), np.append(np.ones(30), 0))
    assert unasked == pytest.approx(found)


def test_slides_of_one_patient_that_err_together_count_less():
    hits, totals = np.repeat([4, 0], [13, 5]), np.full(18, 4)
    alone = rate_interval(np.repeat([1, 0], [52, 20]), np.ones(72))
    low, high = rate_interval(hits, totals)
    assert high - low > 1.5 * (alone[1] - alone[0])
    same = rate_interval(np.full(18, 4), totals)
    assert same == pytest.approx(rate_interval(np.ones(18), np.ones(18)))


@pytest.mark.parametrize("groups", [10, 20, 100])
def test_intervals_of_skewed_means_and_of_rates_cover(groups):
    """Quick; ``benchmarks/studies/coverage`` measures every kind of figure."""
    rng = np.random.default_rng(groups)
    values = rng.beta(4, 1, (1500, groups))
    weight = leave_out(groups)
    found = limits(values @ weight.T / weight.sum(1), "share")
    held = (found[:, 0] <= 0.8) & (found[:, 1] >= 0.8)
    assert 0.92 <= held.mean() <= 0.99
    hits = rng.random((1500, groups)) < 0.8
    found = rate_limits(hits, np.ones_like(hits))
    held = (found[:, 0] <= 0.8) & (found[:, 1] >= 0.8)
    assert 0.92 <= held.mean() <= 0.99
