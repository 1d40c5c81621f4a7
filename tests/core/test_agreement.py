"""Agreement against sklearn, with classes that do not occur."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics
from sklearn.metrics import cohen_kappa_score, confusion_matrix, roc_auc_score

from wsikd.core.agreement import auc, balanced_accuracy, confusion, kappa, kappas

PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60)


@settings(max_examples=80, deadline=None)
@given(PAIRS, st.integers(4, 6))
def test_equals_sklearn_over_all_classes(pairs, classes):
    truth, found = np.array(pairs).T
    matrix, labels = confusion(truth, found, classes), range(classes)
    np.testing.assert_array_equal(matrix, metrics.confusion_matrix(truth, found, labels=labels))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes in one of the two only
        balanced = metrics.balanced_accuracy_score(truth, found)
    assert balanced_accuracy(matrix) == pytest.approx(balanced)
    if len({*truth, *found}) == 1:
        assert math.isnan(kappa(matrix, quadratic=True))
        assert math.isnan(kappa(matrix, quadratic=False))
        return
    for quadratic, weights in ((False, None), (True, "quadratic")):
        wanted = metrics.cohen_kappa_score(truth, found, weights=weights, labels=labels)
        assert kappa(matrix, quadratic=quadratic) == pytest.approx(wanted, abs=1e-12)


def test_an_absent_class_keeps_its_distance():
    truth, found = np.array([0, 0, 3, 3, 1]), np.array([0, 3, 3, 1, 1])  # no 2
    labelled = metrics.cohen_kappa_score(truth, found, weights="quadratic", labels=range(4))
    collapsed = metrics.cohen_kappa_score(truth, found, weights="quadratic")
    assert kappa(confusion(truth, found, 4), quadratic=True) == pytest.approx(labelled)
    assert abs(labelled - collapsed) > 0.01


def test_nothing_at_all_is_undefined():
    matrix = confusion(np.zeros(0, int), np.zeros(0, int), 3)
    assert matrix.shape == (3, 3)
    assert math.isnan(kappa(matrix, quadratic=False))
    assert math.isnan(balanced_accuracy(matrix))


def test_weights_are_repetitions():
    rng = np.random.default_rng(3)
    positive, score = rng.random(40) < 0.4, rng.integers(0, 6, 40).astype(float)
    group = np.repeat(np.arange(8), 5)
    times = rng.multinomial(8, np.full(8, 1 / 8), 6)
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
