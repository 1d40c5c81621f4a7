"""Statistics of fields against scikit-learn-free NumPy, and the distance against its definition."""

import numpy as np
import pytest
from scipy import ndimage

from wsikd.slides.appearance import (
    FAR,
    STATISTICS,
    Appearance,
    Watcher,
    field_statistics,
)


def fields(count, seed, *, tint=(150, 60, 130), noise=25.0, blur=0.0, side=64):
    """Purple fields with grain, of darkness that varies; uint8 (count, side, side, 3)."""
    rng = np.random.default_rng(seed)
    base = np.asarray(tint) + rng.normal(0, 8, (count, 1, 1, 1))
    grain = rng.normal(0, noise, (count, side, side, 1))
    if blur:
        grain = ndimage.gaussian_filter(grain, (0, blur, blur, 0))
    return np.clip(base + grain, 0, 255).astype(np.uint8)


def table(pixels):
    return np.array([field_statistics(patch) for patch in pixels])


@pytest.fixture(scope="module")
def training():
    rows = table(fields(60, 1))
    return Appearance.of(rows, [f"s{i % 5}" for i in range(60)])


def test_statistics_are_those_of_their_definition():
    patch = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    found = dict(zip(STATISTICS, field_statistics(patch), strict=True))
    density = -np.log10((patch.astype(float) + 1) / 256)
    for channel, name in enumerate(("red", "green", "blue")):
        assert found[f"od_mean_{name}"] == pytest.approx(density[..., channel].mean())
        assert found[f"od_sd_{name}"] == pytest.approx(density[..., channel].std())
        share = density[..., channel].sum() / density.sum()
        assert found[f"od_share_{name}"] == pytest.approx(share)
    high, low = patch.max(-1).astype(float), patch.min(-1).astype(float)
    saturation = np.where(high > 0, (high - low) / np.maximum(high, 1), 0).mean()
    assert found["saturation"] == pytest.approx(saturation, abs=2e-3)
    grey = np.round(patch @ np.array([0.299, 0.587, 0.114]))
    kernel = [[0, 1, 0], [1, -4, 1], [0, 1, 0]]
    laplacian = ndimage.convolve(grey, kernel, mode="mirror")
    assert found["focus"] == pytest.approx(np.log10(1 + laplacian.var()), abs=0.01)


def test_a_white_field_has_finite_statistics():
    assert np.isfinite(field_statistics(np.full((16, 16, 3), 255, np.uint8))).all()
    assert np.isfinite(field_statistics(np.zeros((16, 16, 3), np.uint8))).all()


def test_quantiles_let_every_slide_weigh_the_same():
    rows = np.repeat(np.array([[0.0], [1.0]]), len(STATISTICS), 1)
    rows = np.concatenate([np.repeat(rows[:1], 90, 0), np.repeat(rows[1:], 10, 0)])
    names = ["big"] * 90 + ["small"] * 10
    found = Appearance.of(rows, names)
    assert (found.slides, found.fields) == (2, 100)
    assert set(found.quantiles.values()) == {(0.0, 0.0, 1.0)}
    alone = Appearance.of(rows[:, :], [f"{i}" for i in range(100)])
    expected = tuple(np.quantile(rows[:, 0], (0.05, 0.5, 0.95), method="inverted_cdf"))
    assert alone.quantiles["focus"] == expected


def test_quantiles_equal_numpy_s_where_slides_are_of_one_size():
    rows = np.random.default_rng(4).normal(size=(57, len(STATISTICS)))
    found = Appearance.of(rows, ["s"] * 57)
    for column, name in enumerate(STATISTICS):
        expected = np.quantile(rows[:, column], (0.05, 0.5, 0.95), method="inverted_cdf")
        assert found.quantiles[name] == pytest.approx(tuple(expected))


def test_a_slide_like_the_training_is_near(training):
    for seed in range(2, 8):
        found = training.distance(table(fields(20, seed)))
        assert not found.far, found


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"blur": 1.5}, {"focus"}),
        ({"tint": (80, 120, 140)}, {"od_share_red", "od_mean_red", "od_share_green"}),
        ({"tint": (235, 215, 230)}, {"od_mean_green", "saturation", "od_mean_red"}),
    ],
)
def test_other_stain_or_focus_is_far_and_named(training, changed, named):
    found = training.distance(table(fields(20, 3, **changed)))
    assert found.far
    assert found.value > 1.5 * FAR
    assert found.statistic in named


def test_distance_is_in_half_ranges_of_that_side():
    quantiles = dict.fromkeys(STATISTICS, (0.0, 1.0, 3.0))
    training = Appearance(quantiles, 3, 9)
    row = np.ones((5, len(STATISTICS)))
    row[:, list(STATISTICS).index("focus")] = 6.0
    assert training.distance(row).value == pytest.approx(2.5)
    row[:, list(STATISTICS).index("saturation")] = -2.0
    found = training.distance(row)
    assert (found.value, found.statistic) == (pytest.approx(3.0), "saturation")
    assert training.distance(row[:0]) is None


def test_what_never_varied_is_measured_by_the_least_half_range():
    training = Appearance(dict.fromkeys(STATISTICS, (1.0, 1.0, 1.0)), 1, 1)
    row = np.ones((1, len(STATISTICS)))
    row[0, list(STATISTICS).index("focus")] = 1.3
    assert training.distance(row).value == pytest.approx(0.3 / STATISTICS["focus"])


def test_the_card_brings_it_back(training):
    back = Appearance.from_card(training.as_card())
    for name, values in training.quantiles.items():
        assert back.quantiles[name] == pytest.approx(values, abs=1e-5)
    assert (back.slides, back.fields) == (5, 60)
    assert Appearance.from_card(None) is None


@pytest.mark.parametrize("spoilt", [{}, {"slides": 1}, [], "x"])
def test_a_malformed_card_is_an_error(training, spoilt):
    with pytest.raises((KeyError, TypeError, ValueError)):
        Appearance.from_card(spoilt)
    entry = training.as_card()
    entry["quantiles"]["focus"] = [3, 2, 1]
    with pytest.raises(ValueError, match="focus"):
        Appearance.from_card(entry)


@pytest.mark.parametrize("count", [1, 47, 48, 49, 500])
def test_the_watcher_takes_an_even_sample(count):
    pixels = fields(count, 5, side=16)
    watcher = Watcher()
    for start in range(0, count, 7):
        index = np.arange(start, min(start + 7, count))
        watcher(index, count, pixels[index])
    every = -(-count // 48)
    np.testing.assert_array_equal(watcher.statistics, table(pixels[::every]))
    assert 1 <= len(watcher.statistics) <= 48
    assert Watcher().statistics.shape == (0, len(STATISTICS))
