"""Which fields are read again, and what that costs and brings."""

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.metrics import cohen_kappa_score

from benchmarks.studies.escalation.run import draw_pool, measure
from wsikd.core.escalation import (
    assured_place,
    best_place,
    bounds_of_agreement,
    doubt,
    most_doubtful,
    place_for,
    place_for_kappa,
    slides_needed,
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


def test_bounds_lie_below_the_values_and_take_ten_slides():
    logits, student, teacher = drawn(3, 600)
    doubts = 1 - softmax(logits, axis=1).max(1)
    truth = np.random.default_rng(2).integers(0, 4, len(student))
    slides = [f"s{k % 20}" for k in range(600)]
    curve = trade_off(doubts, student, teacher, truth, 4, slides)
    assert curve["agreement_low"][-1] == 1.0
    pairs = list(zip(curve["agreement"], curve["agreement_low"], strict=True))[:-1]
    assert all(low < value for value, low in pairs)
    assert all(
        low < value
        for value, low in zip(curve["truth_kappa"], curve["truth_kappa_low"], strict=True)
    )
    few = trade_off(doubts, student, teacher, truth, 4, [f"s{k % 9}" for k in range(600)])
    assert set(few["agreement_low"][:-1]) == set(few["truth_kappa_low"]) == {None}
    assert few["agreement"] == curve["agreement"]


def test_the_sequence_ends_with_the_first_bound_that_fails():
    assert assured_place([0.9, 0.96, 0.9, 0.97, 1.0], 0.95) == 3
    assert assured_place([0.96, 0.97, 1.0], 0.95) == 0
    assert assured_place([0.96, None, 1.0], 0.95) == 2
    assert assured_place([0.9, 0.9], 0.95) is None


def test_slides_that_it_takes():
    assert slides_needed(0.95) == 73
    assert slides_needed(0.5) == 10
    hits = np.full((1, 73), 5)
    assert bounds_of_agreement(hits, np.full(73, 5))[0] >= 0.95
    assert bounds_of_agreement(hits[:, :72], np.full(72, 5))[0] < 0.95


RESULTS = (
    Path(__file__).parents[2] / "benchmarks" / "results" / "escalation_cpu-2core_2026-11-30.csv"
)


def test_the_kept_table_keeps_the_promise():
    with RESULTS.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {int(r["slides"]) for r in rows} >= {5, 10, 30, 100}
    assert all(float(r["kept"]) + float(r["error"]) >= 0.95 for r in rows)
    assert all(float(r["refused"]) == 1 for r in rows if r["slides"] == "5")
    made = [r for r in rows if r["slides"] == "100" and r["promise"].startswith("agreement")]
    assert all(float(r["refused"]) < 0.01 for r in made)


@pytest.mark.slow
@pytest.mark.parametrize("reach_mm", [0.5, 1.0, 4.0])
def test_a_threshold_keeps_what_it_promises(reach_mm):
    pool = draw_pool(2, 800, reach_mm)
    for slides in (10, 30, 100):
        for row in measure(pool, slides, 300, slides):
            assert row["kept"] + row["error"] + 0.01 >= 0.95, row
