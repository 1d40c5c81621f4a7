"""Shares of classes on slides: estimates by hand, and intervals against simulated slides.

``benchmarks/studies/coverage`` draws the slides, by rules that are not those of the product.
"""

import json
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest

from benchmarks.studies.coverage.cohort import Errors, draw
from benchmarks.studies.coverage.shares import fit, measure_once, measure_shares
from wsikd.core import shares
from wsikd.core.shares import MIN_SLIDES, Ratio, ShareErrors, corners, estimates, fit_share_errors


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
    assert found.record() == {"format": 2, "slides": MIN_SLIDES - 1}
    assert f"({MIN_SLIDES - 1} of {MIN_SLIDES})" in found.fault
    few = draw(0, 30, Errors(), side=2)  # four fields a slide
    assert fit(few, fields=None)[0].slides == 0


def test_the_card_gives_the_same_intervals():
    from wsikd.models.files.card_shares import Shares

    found, _ = fit(draw(1, 40, Errors(), side=6), fields=None)
    record = json.loads(json.dumps(found.record(), allow_nan=False))
    kept = Shares.model_validate(record).errors(4)
    share = np.array([0.5, 0.2, 0.2, 0.1])
    assert found.fields == 36
    assert kept.ratio_limits(share, 50) == pytest.approx(found.ratio_limits(share, 50))
    for one, other in zip(found.limits(share, 50), kept.limits(share, 50), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert Shares.model_validate(record).errors(3) is None
    assert Shares.model_validate({"slides": 30}).errors(4) is None
    assert Shares.model_validate({"slides": 3}).errors(4).fault
    old = {k: v for k, v in record.items() if k not in ("fields", "ratio")}
    older = Shares.model_validate(old | {"format": 1, "scale": record["scale"][:2]}).errors(4)
    assert older.scale[2] == 0
    assert older.ratio_limits(share, 50) is None
    with pytest.raises(ValueError, match="scale"):
        Shares.model_validate(record | {"scale": [1.0]})


def test_no_interval_has_no_width_and_wide_errors_are_refused():
    rng = np.random.default_rng(2)
    names = np.repeat([f"s{i}" for i in range(30)], 10).tolist()
    truth = rng.integers(0, 3, 300)
    found = fit_share_errors(np.eye(3)[truth], truth, names)  # never wrong
    low, high = found.limits(np.array([1.0, 0.0, 0.0]), 10)
    assert (high - low > 1e-6).all()
    none = fit_share_errors(np.eye(3)[np.repeat(rng.integers(0, 3, 30), 10)], truth * 0, names)
    assert none.quantile > 1
    assert (
        ShareErrors(30, *[np.ones(3)] * 2, np.array([0.1, 1.0, 0.0]), 3.0).fault == shares.TOO_WIDE
    )


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


def test_the_part_of_one_class_by_hand():
    """The ends are those of a grid over shares that the deviations allow."""
    found = ShareErrors(
        30, np.ones(4) / 4, np.ones(3) / 3, np.array([0.01, 0.0, 0.0]), 2.0, 9,
        Ratio(2, (1, 2, 3), 25, 0.5),
    )  # fmt: skip
    share = np.array([0.3, 0.4, 0.28, 0.02])
    low, high = found.ratio_limits(share, 9)  # each share may move by 0.05
    assert low == pytest.approx(0.23 / (0.23 + 0.45 + 0.07))
    assert high == pytest.approx(0.33 / (0.33 + 0.35 + 0.0))
    few = replace(found, ratio=Ratio(2, (1, 2, 3), 19, 0.5))
    assert few.ratio_limits(share, 9) is None


def test_few_fields_widen_an_interval_and_many_do_not_narrow_it_beyond_the_validation():
    found = ShareErrors(30, np.ones(2) / 2, np.ones(3) / 3, np.array([0.001, 0.0, 0.4]), 2.0, 40)
    half = [float(found.deviation(np.array(0.5), n)) for n in (5, 20, 40, 500)]
    assert half[0] == pytest.approx((0.001 + 0.4 / 5 / 4) ** 0.5)
    assert half[0] > half[1] > half[2] == half[3]


@pytest.mark.slow
@pytest.mark.parametrize("reach_mm", [0.5, 1.0, 4.0])
@pytest.mark.parametrize(("slides", "fields"), [(20, None), (30, None), (100, None), (100, 40)])
def test_the_table_of_shares_holds(reach_mm, slides, fields):
    """Every interval of a slide. Few fields whose errors reach 4 mm may say nothing."""
    given = 0.95 if fields and reach_mm == 4.0 else 0.995
    for row in measure_shares(Errors(reach_mm=reach_mm), slides, fields=fields, rounds=60):
        if row["shown"] != "yes":
            continue
        assert row["coverage"] + row["error"] >= 0.92, row
        assert row["coverage"] - row["error"] <= 0.99, row
        if slides == 100:
            assert row["defined"] >= given, row
            assert row["of_oracle"] <= 1.5, row
