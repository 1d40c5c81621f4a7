"""Bounds of resampled figures; the draws and areas are tested with the metrics that use them."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, confusion_matrix, roc_auc_score

from wsikd.core.agreement import kappas
from wsikd.core.resampling import auc, interval, lower_bound, multiplicities


def test_the_bound_is_the_quantile_and_needs_defined_figures():
    values = np.arange(1001.0)
    assert lower_bound(values) == pytest.approx(50)
    assert interval(values) == pytest.approx((25, 975))
    values[:101] = np.nan
    assert lower_bound(values) is None
    assert interval(values) is None
    assert lower_bound(np.zeros(0)) is None


def test_weights_are_repetitions():
    rng = np.random.default_rng(3)
    positive, score = rng.random(40) < 0.4, rng.integers(0, 6, 40).astype(float)
    group = np.repeat(np.arange(8), 5)
    times = multiplicities(8, resamples=6, seed=1)
    assert (times.sum(1) == 8).all()
    for counts, found in zip(times, auc(positive, score, group, times), strict=True):
        own = np.repeat(np.arange(40), counts[group])
        assert found == pytest.approx(roc_auc_score(positive[own], score[own]))


@pytest.mark.parametrize("weights", [None, "quadratic"])
def test_many_kappas_equal_sklearn(weights):
    rng = np.random.default_rng(7)
    pairs = rng.integers(0, 4, (5, 2, 30))
    tables = np.stack([confusion_matrix(a, b, labels=range(4)) for a, b in pairs])
    expected = [cohen_kappa_score(a, b, weights=weights) for a, b in pairs]
    np.testing.assert_allclose(kappas(tables, quadratic=weights is not None), expected)
