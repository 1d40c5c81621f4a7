import numpy as np
import pytest
import scipy.special

from wsikd.core.softmax import softmax

LOGITS = np.random.default_rng(0).normal(0, 30, (50, 4))


@pytest.mark.parametrize("temperature", [1.0, 0.05, 7.3])
def test_probabilities_are_those_of_scipy(temperature):
    found = softmax(LOGITS, temperature)
    assert found == pytest.approx(scipy.special.softmax(LOGITS / temperature, axis=1))
    assert found.dtype == np.float64


def test_single_precision_stays():
    logits = LOGITS.astype(np.float32)
    found = softmax(logits, dtype=np.float32)
    powers = np.exp(logits - logits.max(1, keepdims=True))
    assert found.dtype == np.float32
    assert np.array_equal(found, powers / powers.sum(1, keepdims=True))


def test_a_temperature_for_each_cell_of_a_map():
    maps = LOGITS.T.reshape(4, 5, 10)
    each = np.random.default_rng(1).uniform(0.5, 2, (5, 10))
    found = softmax(maps, each, axis=0)
    assert np.array_equal(found[:, 2, 3], softmax(maps[:, 2, 3], each[2, 3]))


def test_large_logits_do_not_overflow():
    assert softmax(np.array([[1e4, -1e4]])).tolist() == [[1.0, 0.0]]
