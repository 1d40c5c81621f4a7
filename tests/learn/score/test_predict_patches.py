import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn import metrics

from wsikd.learn.score import predict_patches as evaluate


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=60))
def test_metrics_equal_sklearn_s(pairs):
    truth, predicted = np.array(pairs).T
    assume(len(np.unique(truth)) > 1)
    assume(set(predicted) <= set(truth))  # else sklearn warns of balanced accuracy
    matrix = evaluate.confusion(truth, predicted, 4)
    labels = range(4)
    assert (matrix == metrics.confusion_matrix(truth, predicted, labels=labels)).all()
    expected = metrics.cohen_kappa_score(truth, predicted, weights="quadratic", labels=labels)
    assert evaluate.quadratic_kappa(matrix) == pytest.approx(expected, abs=1e-12)
    balanced = metrics.balanced_accuracy_score(truth, predicted)
    assert evaluate.balanced_accuracy(matrix) == pytest.approx(balanced)
    f1 = metrics.f1_score(truth, predicted, labels=labels, average=None, zero_division=0)
    assert evaluate.f1_per_class(matrix) == pytest.approx(f1)


def test_what_is_undefined_is_none():
    matrix = evaluate.confusion(np.array([1, 1]), np.array([1, 1]), 3)
    assert math.isnan(evaluate.quadratic_kappa(matrix))
    summary = evaluate.summarise(matrix, "abc")
    assert summary["kappa"] is None
    assert (summary["accuracy"], summary["patches"]) == (1.0, 2)
    assert evaluate.summarise(np.zeros((2, 2), int), "ab")["balanced_accuracy"] is None
