"""Gap closed, p-values and their correction."""

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from wsikd.core.intervals import difference_interval, leave_out
from wsikd.learn.reproduce.gains import holm, is_gain, is_gap, p_seeds, p_slides, share_interval


def means(values):
    """Means of groups with all of them and without each, as tables have figures."""
    rows = leave_out(len(values))
    return rows @ values / rows.sum(1)


def test_p_over_slides_is_where_the_interval_meets_zero():
    rng = np.random.default_rng(0)
    for shift in (0.0, 0.05, 0.2):
        one, other = (means(m + rng.normal(0, 0.1, 30)) for m in (0.5 + shift, 0.5))
        p = p_slides(one, other, "kappa")
        low, high = difference_interval(one, other, "kappa", level=1 - p)
        assert p < 1e-11 or min(abs(low), abs(high)) < 1e-3 * (high - low)
        low, high = difference_interval(one, other, "kappa")
        assert (p < 0.05) == (not low <= 0 <= high)
    assert p_slides(means(np.ones(5) / 2), means(np.ones(5) / 3), "kappa") is None


def test_p_over_seeds_is_students():
    each = np.array([0.1, 0.3, 0.2])
    assert p_seeds(each) == pytest.approx(ttest_1samp(each, 0).pvalue)
    assert p_seeds(np.array([0.2])) is None
    assert p_seeds(np.array([0.2, np.nan])) is None


def test_holm_by_hand():
    assert holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.04, None, 0.09, 0.09])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_gain_takes_both_intervals():
    assert is_gain((0.1, 0.2), (0.01, 0.3))
    assert not is_gain((0.1, 0.2), (-0.01, 0.3))
    assert not is_gain((-0.1, 0.2), (0.01, 0.3))
    assert not is_gain((-0.3, -0.2), (-0.3, -0.1))
    assert not is_gain(None, (0.01, 0.3))
    assert not is_gain((0.1, 0.2), None)


def test_no_share_of_a_gap_that_may_be_none():
    rng = np.random.default_rng(0)
    whole = rng.normal(0.0, 1, 30)
    assert not is_gap(means(whole))
    assert share_interval(means(whole / 2), means(whole)) is None
    assert share_interval(means(np.ones(5)), means(np.ones(5))) is None


def test_a_share_outside_its_range_has_no_interval():
    rng = np.random.default_rng(0)
    sure, noise = 1 + rng.normal(0, 0.1, 30), rng.normal(0, 0.05, 30)
    assert is_gap(means(sure))
    assert share_interval(means(sure / 2 + noise), means(sure)) is not None
    assert share_interval(means(sure * 1.2 + noise), means(sure)) is None
    assert share_interval(means(-sure / 2 + noise), means(sure)) is None


@pytest.mark.parametrize("groups", [12, 30])
def test_the_gap_closed_is_covered(groups):
    """Truth 0.5: the part and the whole vary by slide, and partly together."""
    rng = np.random.default_rng(groups)
    inside, shown, cohorts = 0, 0, 2000
    for _ in range(cohorts):
        common = rng.normal(0, 0.1, groups)
        whole = 0.3 + common + rng.normal(0, 0.1, groups)
        part = 0.15 + common + rng.normal(0, 0.1, groups)
        found = share_interval(means(part), means(whole))
        if found is None:
            continue
        shown += 1
        inside += found[0] <= 0.5 <= found[1]
    assert shown > 0.9 * cohorts
    assert 0.92 <= inside / shown <= 0.99
