"""Shares of classes on slides: estimates by hand, and intervals against simulated slides.

``benchmarks/studies/coverage`` draws the slides, by rules that are not those of the product.
"""

import json
from itertools import permutations

import numpy as np
import pytest

from benchmarks.studies.coverage.cohort import Errors, draw
from benchmarks.studies.coverage.shares import fit, measure_once, measure_shares
from wsikd.core import shares
from wsikd.core.shares import MIN_SLIDES, ShareErrors, corners, estimates, fit_share_errors


def test_estimates_by_hand():
    probability = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7]])
    weight = np.array([1.0, 2.0, 1.0])
    prior = np.array([0.8, 0.2])
    counted, mean, again = estimates(probability, weight, prior)
    assert counted == pytest.approx([0.75, 0.25])
    assert mean == pytest.approx(weight @ probability / 4)
    share = prior
    for _ in range(40):  # Saerens et al., equations 11 and 12
        joint = probability * share / prior
        share = weight @ (joint / joint.sum(1, keepdims=True)) / 4
    assert again == pytest.approx(share)
    assert again[1] > mean[1] > prior[1]
    assert np.isnan(estimates(probability, 0 * weight, prior)).all()


def test_a_mix_that_differs_is_found_again():
    """Probabilities calibrated for one mix, fields of another: the mean is drawn to the first."""
    rng = np.random.default_rng(0)
    truth = (rng.random(20_000) < 0.7).astype(int)
    signal = rng.normal(2.0 * truth, 1)
    odds = np.exp(2 * signal - 2) * 0.1 / 0.9
    probability = np.stack([1 / (1 + odds), odds / (1 + odds)], 1)
    counted, mean, again = estimates(probability, np.ones(20_000), np.array([0.9, 0.1]))
    assert again[1] == pytest.approx(0.7, abs=0.02)
    assert max(counted[1], mean[1]) < 0.65


def test_extremes_are_those_of_a_grid():
    low, high = np.array([0.1, 0.0, 0.2, 0.0]), np.array([0.6, 0.3, 0.5, 0.1])
    found = corners(np.array([0.4, 0.2, 0.35, 0.05]), low, high)
    np.testing.assert_allclose(found.sum(1), 1)
    assert (found >= low - 1e-9).all()
    assert (found <= high + 1e-9).all()
    for order in permutations(range(4)):
        left, expected = 1 - low.sum(), low.copy()
        for c in order:
            taken = min(left, high[c] - low[c])
            expected[c], left = expected[c] + taken, left - taken
        assert (np.abs(found - expected).max(1) < 1e-9).any()


def test_too_few_slides_keep_their_number_alone():
    made = draw(0, MIN_SLIDES - 1, Errors(), side=4)
    found, _ = fit(made, fields=None)
    assert found.record() == {"format": 1, "slides": MIN_SLIDES - 1}
    assert f"({MIN_SLIDES - 1} of {MIN_SLIDES})" in found.fault
    few = draw(0, 30, Errors(), side=2)  # four fields a slide
    assert fit(few, fields=None)[0].slides == 0


def test_the_card_gives_the_same_intervals():
    from wsikd.models.files.card_shares import Shares

    found, _ = fit(draw(1, 40, Errors(), side=6), fields=None)
    record = json.loads(json.dumps(found.record(), allow_nan=False))
    kept = Shares.model_validate(record).errors(4)
    share = np.array([0.5, 0.2, 0.2, 0.1])
    for one, other in zip(found.limits(share), kept.limits(share), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert Shares.model_validate(record).errors(3) is None
    assert Shares.model_validate({"slides": 30}).errors(4) is None
    assert Shares.model_validate({"slides": 3}).errors(4).fault
    with pytest.raises(ValueError, match="scale"):
        Shares.model_validate(record | {"scale": [1.0]})


def test_no_interval_has_no_width_and_wide_errors_are_refused():
    rng = np.random.default_rng(2)
    names = np.repeat([f"s{i}" for i in range(30)], 10).tolist()
    truth = rng.integers(0, 3, 300)
    found = fit_share_errors(np.eye(3)[truth], truth, names)  # never wrong
    low, high = found.limits(np.array([1.0, 0.0, 0.0]))
    assert (high - low > 1e-6).all()
    none = fit_share_errors(np.eye(3)[np.repeat(rng.integers(0, 3, 30), 10)], truth * 0, names)
    assert none.quantile > 1
    assert ShareErrors(30, *[np.ones(3)] * 2, np.array([0.1, 1.0]), 3.0).fault == shares.TOO_WIDE


@pytest.mark.parametrize("reach_mm", [0.5, 4.0])
def test_intervals_hold_all_classes_of_a_slide(reach_mm):
    """Quick: few slides of 6 x 6 fields. The measured table has them at full size."""
    errors = Errors(reach_mm=reach_mm)
    rows = measure_shares(errors, 40, fields=None, rounds=6, tested=80, side=6)
    (held,) = [row for row in rows if row["figure"] == "shares, all classes at once"]
    assert 0.90 <= held["coverage"] <= 0.995
    assert held["of_oracle"] < 1.5


def test_an_interval_is_not_everything():
    made, temperature = fit(draw(3, 60, Errors(), side=8), fields=None)
    found = measure_once(made, temperature, draw(4, 60, Errors(), side=8))
    assert np.median(found["high"] - found["low"]) < 0.4


@pytest.mark.slow
@pytest.mark.parametrize("reach_mm", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("slides", [20, 30, 100])
def test_the_table_of_shares_holds(reach_mm, slides):
    rows = measure_shares(Errors(reach_mm=reach_mm), slides, fields=None, rounds=60)
    held = {row["figure"]: row for row in rows}["shares, all classes at once"]
    assert held["coverage"] + held["error"] >= 0.92
    assert held["coverage"] - held["error"] <= 0.99
    if slides == 100:
        assert held["defined"] == 1
        assert held["of_oracle"] <= 1.5
