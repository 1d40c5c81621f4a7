"""Which fields are read again, and what that costs and brings."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.metrics import cohen_kappa_score

from wsikd.core.escalation import (
    best_place,
    doubt,
    most_doubtful,
    place_for,
    place_for_kappa,
    trade_off,
)


def drawn(seed, count=200, classes=4):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (count, classes))
    teacher = np.where(rng.random(count) < 0.7, logits.argmax(1), rng.integers(0, classes, count))
    return logits, logits.argmax(1), teacher


def test_doubt_divides_the_logits():
    logits = drawn(0)[0]
    expected = 1 - softmax(logits / 1.7, axis=1).max(1)
    np.testing.assert_allclose(doubt(softmax(logits, axis=1), 1.7), expected, atol=1e-12)
    np.testing.assert_allclose(doubt(softmax(logits / 1.7, axis=1)), expected, atol=1e-12)


def test_certainty_in_float32_is_no_doubt_and_no_nan():
    found = doubt(np.array([[1, 0, 0], [0.5, 0.5, 0]], np.float32), 2.0)
    assert found[0] == pytest.approx(0, abs=1e-9)
    assert found[1] == pytest.approx(0.5)


@given(st.integers(0, 99), st.floats(0, 1), st.one_of(st.none(), st.floats(0, 0.75)))
def test_the_budget_holds_and_none_left_is_in_more_doubt(seed, budget, threshold):
    doubts = np.round(np.random.default_rng(seed).uniform(0, 0.75, 37), 2)
    chosen = most_doubtful(doubts, budget, threshold)
    assert chosen.sum() <= budget * 37 + 1e-6
    if chosen.any() and not chosen.all():
        assert doubts[chosen].min() >= doubts[~chosen].max() - 1e-12 or threshold is not None
    if threshold is None:
        assert chosen.sum() == np.floor(budget * 37 + 1e-9)
    elif budget < 1:
        assert (doubts[chosen] >= threshold).all()
        room = chosen.sum() < np.floor(budget * 37 + 1e-9)
        assert not room or chosen.sum() == (doubts >= threshold).sum()


def test_the_ends_of_the_budget():
    doubts = np.linspace(0, 0.5, 10)
    assert not most_doubtful(doubts, 0).any()
    assert most_doubtful(doubts, 1, threshold=0.9).all()
    assert most_doubtful(doubts, 0.3).sum() == 3  # 0.3 * 10 is 2.9999999999999996
    assert len(most_doubtful(np.zeros(0), 0.5)) == 0


def test_equal_doubt_goes_by_place():
    assert most_doubtful(np.full(10, 0.2), 0.2).tolist() == [True, True] + [False] * 8


def test_the_curve_equals_a_slow_reading():
    logits, student, teacher = drawn(1)
    doubts = 1 - softmax(logits, axis=1).max(1)
    truth = np.random.default_rng(2).integers(0, 4, len(student))
    curve = trade_off(doubts, student, teacher, truth, 4)
    assert curve["share"][0] == 0
    assert curve["share"][-1] == curve["agreement"][-1] == 1
    keys = ("threshold", "share", "agreement", "kappa", "truth_kappa")
    rows = zip(*(curve[k] for k in keys), strict=True)
    for threshold, share, agreement, *kappas in rows:
        merged = [
            t if d >= threshold else s for d, s, t in zip(doubts, student, teacher, strict=True)
        ]
        assert share == np.mean([d >= threshold for d in doubts])
        assert agreement == np.mean([m == t for m, t in zip(merged, teacher, strict=True)])
        assert kappas == pytest.approx(
            [cohen_kappa_score(merged, other, weights="quadratic", labels=range(4))
             for other in (teacher, truth)]
        )  # fmt: skip
    assert np.all(np.diff(curve["agreement"]) >= 0)


def test_the_cheapest_place_is_chosen():
    curve = {"agreement": [0.8, 0.9, 0.96, 1.0]}
    assert [place_for(curve, a) for a in (0.5, 0.9, 0.95, 1.0)] == [0, 1, 2, 3]


def test_one_class_has_no_kappa():
    one = np.array([1, 1])
    curve = trade_off(np.array([0.1, 0.2]), one, one, one, 3)
    assert set(curve["kappa"]) == set(curve["truth_kappa"]) == {None}
    assert best_place(curve) is None
    assert place_for_kappa(curve, -1) is None


def test_the_place_of_a_kappa_with_the_truth():
    curve = {"truth_kappa": [None, 0.5, 0.8, 0.6, 0.8], "share": [0, 0.1, 0.2, 0.5, 1]}
    assert [place_for_kappa(curve, k) for k in (0.5, 0.6, 0.8, 0.81)] == [1, 2, 2, None]
    assert [best_place(curve, b) for b in (0, 0.1, 0.2, 1)] == [None, 1, 2, 2]
