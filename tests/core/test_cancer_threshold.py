"""Thresholds of cancer against cohorts that are drawn, with a number of fields that varies."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from wsikd.core.cancer_threshold import PATTERN_MOST, Spread, spread, thresholds
from wsikd.learn.score.cancer_choice import cancer_record


def cohort(rng, slides, fields, *, false=0.02, ill=0.5):
    """Fields of slides: truth 0 to 3, probabilities, slide. A slide's error rates are its own."""
    truth, probability, names = [], [], []
    for number in range(slides):
        share = rng.beta(2, 2) if rng.random() < ill else 0.0
        wrong = rng.beta(1, 1 / false - 1)
        found = rng.beta(9, 1)
        has = rng.permutation([1, 2, 3])[:2]
        own = np.where(rng.random(fields) < share, rng.choice(has, fields), 0)
        cancer = np.where(own > 0, rng.random(fields) < found, rng.random(fields) < wrong)
        sure = np.where(cancer, rng.uniform(0.5, 1, fields), rng.uniform(0, 0.08, fields))
        right = (own > 0) & (rng.random(fields) < 0.97)
        kind = np.where(right, own, rng.integers(1, 4, fields))
        p = np.zeros((fields, 4))
        p[np.arange(fields), kind] = sure
        p[:, 0] = 1 - sure
        truth.append(own)
        probability.append(p)
        names += [f"s{number}"] * fields
    return np.concatenate(truth), np.concatenate(probability), names


def chosen(rng, slides, fields, **how):
    truth, probability, names = cohort(rng, slides, fields, **how)
    record = cancer_record(truth, probability, names, np.ones(len(truth)), [0])
    return thresholds(record)


@pytest.mark.parametrize("false", [0.005, 0.03])
def test_the_choice_does_not_depend_on_fields_per_slide(false):
    rng = np.random.default_rng(11)
    found = {
        fields: np.array([
            (t.cancer_share, t.expected_share, t.pattern_share)
            for t in (chosen(rng, 40, fields, false=false) for _ in range(30))
        ])
        for fields in (20, 80, 300)
    }  # fmt: skip
    for fields in (20, 300):
        noise = np.maximum(np.std(found[80], axis=0), np.std(found[fields], axis=0))
        apart = np.abs(np.mean(found[fields], 0) - np.mean(found[80], 0))
        # a fraction of what the choice of 40 slides varies by anyway
        assert (apart <= np.maximum(noise, 0.003)).all(), (fields, apart, noise)
    assert np.mean(found[300], 0)[0] == pytest.approx(
        stats.beta.ppf(0.975, 1, 1 / false - 1), rel=0.35
    )


@pytest.mark.parametrize("fields", [20, 80, 300])
def test_most_slides_with_cancer_are_kept_and_most_without_are_not(fields):
    rng = np.random.default_rng(2)
    kept, cleared = [], []
    for _ in range(10):
        found = chosen(rng, 40, fields)
        truth, probability, _ = cohort(rng, 200, 500)
        probability = probability.reshape(200, 500, 4)
        called = (probability.argmax(2) > 0).mean(1)
        likely = 1 - probability[..., 0].mean(1)
        present = (called >= found.cancer_share) | (likely >= found.expected_share)
        ill = truth.reshape(200, 500).any(1)
        kept.extend(present[ill])
        cleared.extend(present[~ill])
    assert np.mean(kept) >= 0.95
    assert 1 - np.mean(cleared) >= 0.85


def test_sensitivity_limits_the_threshold():
    part = {"mean": 0.2, "sd": 0.1, "slides": 30}
    faint = {"mean": 0.1, "sd": 0.05, "slides": 30}
    record = {"benign": {"called": part}, "with_cancer": {"called": faint}}
    shares = [thresholds(record, s).cancer_share for s in (0.8, 0.95, 0.99)]
    assert shares == sorted(shares, reverse=True)
    for share, sensitivity in zip(shares, (0.8, 0.95, 0.99), strict=True):
        above = 1 - np.searchsorted(drawn(0.1, 0.05), share) / 100_000
        assert above == pytest.approx(sensitivity, abs=0.005)


def drawn(mean, sd):
    whole = mean * (1 - mean) / sd**2 - 1
    rng = np.random.default_rng(0)
    return np.sort(rng.beta(mean * whole, (1 - mean) * whole, 100_000))


def test_little_to_choose_on_chooses_nothing():
    assert thresholds({}).cancer_share == 0
    assert thresholds({}).pattern_share == PATTERN_MOST
    few = {"called": {"mean": 0.2, "sd": 0.1, "slides": 2}}
    found = thresholds({"benign": few, "with_cancer": few})
    assert (found.cancer_share, found.expected_share) == (0, None)


def test_spread_of_slides_is_without_the_scatter_of_fields():
    rng = np.random.default_rng(4)
    rate = rng.beta(2, 18, 400)
    for fields in (6, 50):
        value = (rng.random((400, fields)) < rate[:, None]).astype(float)
        names = np.repeat([f"s{i}" for i in range(400)], fields).tolist()
        found = spread(value.ravel(), names, np.ones(value.size))
        assert found.mean == pytest.approx(0.1, abs=0.015)
        assert found.sd == pytest.approx(stats.beta(2, 18).std(), abs=0.015)
        assert found.slides == 400
    assert spread(value[:, :3].ravel(), ["x"] * 1200, np.zeros(1200)).slides == 0


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_quantiles_rise_and_stay_shares(mean, sd, one, other):
    low, high = sorted((one, other))
    spread_of = Spread(mean, sd, 5)
    assert 0 <= spread_of.quantile(low) <= spread_of.quantile(high) + 1e-9 <= 1 + 2e-9
