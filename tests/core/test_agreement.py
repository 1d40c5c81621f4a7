"""Agreement against sklearn, with classes that do not occur."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from wsikd.core.agreement import balanced_accuracy, confusion, kappa

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
