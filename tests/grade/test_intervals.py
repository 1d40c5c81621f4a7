"""Intervals against truths that are drawn by other means, and against a slow reading."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage, stats

from tests.grade.maps import CLASSES, map_of
from wsikd.grade import intervals as made
from wsikd.grade.gleason import grade_slide
from wsikd.grade.gleason_rules import Rules
from wsikd.grade.intervals import BLOCK_MM, DRAWS, intervals, limits
from wsikd.grade.summary import class_areas, summarise

CELL_MM = 0.5


def smooth_noise(rng, shape, sigma):
    """Gaussian noise of unit variance, correlated over ``sigma`` cells."""
    noise = ndimage.gaussian_filter(rng.normal(size=shape), (0, sigma, sigma), mode="wrap")
    return noise / noise.std()


def random_map(rng, shape=(24, 24), sharp=2.0):
    """A map whose probabilities form regions, some sure and some not."""
    logit = smooth_noise(rng, (len(CLASSES), *shape), 3.0) * sharp
    probability = np.exp(logit) / np.exp(logit).sum(0)
    template = map_of(np.zeros(shape), mpp=CELL_MM * 1000)
    tissue = rng.uniform(0.3, 1, shape).astype(np.float32)
    return replace(
        template,
        probability_khw=probability.astype(np.float32),
        tissue_hw=tissue,
        temperature=1.0,
    )


def truth_of(grade_map, number_hw):
    """Area of each class where a field is the class at which its cumulative passes a number."""
    grade = (number_hw >= np.cumsum(grade_map.probability_khw, 0)[:-1]).sum(0)
    weight = grade_map.tissue_hw * grade_map.cell_mm2
    return np.array([weight[grade == k].sum() for k in range(len(CLASSES))])


def correlated(rng, shape, over_mm):
    """Numbers from 0 to 1, every one alike likely, smoothed over a distance (0: independent)."""
    if not over_mm:
        return rng.uniform(size=shape)
    return stats.norm.cdf(smooth_noise(rng, (1, *shape), over_mm / CELL_MM)[0])


@pytest.mark.parametrize("over_mm", [0, 0.5, 1.0])
def test_intervals_hold_the_truth_as_often_as_they_say(over_mm):
    rng = np.random.default_rng(8)
    held, groups, widths = [], [], []
    for _ in range(30):
        grade_map = random_map(rng)
        found = intervals(grade_map, Rules(min_area_mm2=3.0))
        low, high = limits(found.area_mm2)
        for _ in range(3):
            area = truth_of(grade_map, correlated(rng, grade_map.valid_hw.shape, over_mm))
            held.append((low <= area) & (area <= high))
            reading = grade_slide(area, CLASSES, Rules(min_area_mm2=3.0))
            group = reading.grade_group if reading else 0
            groups.append(found.grade_group_limits[0] <= group <= found.grade_group_limits[1])
        widths.append((high - low) / area.sum())
    assert np.mean(held) >= 0.95
    assert np.mean(groups) >= 0.95
    assert 0.02 < np.mean(widths) < 0.35  # not by telling nothing


def test_draws_are_those_of_a_slow_reading():
    rng = np.random.default_rng(3)
    grade_map = random_map(rng, (17, 19))
    found = intervals(grade_map, Rules(min_area_mm2=0))
    side = round(BLOCK_MM / CELL_MM)
    across = -(-19 // side)
    step = np.random.default_rng(0).integers(200, size=(DRAWS, across * -(-17 // side)))
    block = np.add.outer(np.arange(17) // side * across, np.arange(19) // side)
    for draw in (0, 1, 500, DRAWS - 1):
        area = truth_of(grade_map, (step[draw][block] + 0.5) / 200)
        np.testing.assert_allclose(found.area_mm2[draw], area, rtol=1e-6)
        area = found.area_mm2[draw]
        expected = grade_slide(area, CLASSES, Rules(min_area_mm2=0))
        assert found.readings[draw] == expected


def test_mean_and_variance_are_those_of_independent_fields():
    """Where a block is one field, the area of a class is a sum of Bernoulli variables."""
    rng = np.random.default_rng(4)
    grade_map = replace(random_map(rng), mpp=3000.0)
    found = intervals(grade_map, Rules(min_area_mm2=0)).area_mm2
    weight = grade_map.tissue_hw * grade_map.cell_mm2
    p = grade_map.probability_khw
    mean, variance = (weight * p).sum((1, 2)), (weight**2 * p * (1 - p)).sum((1, 2))
    assert np.abs(found.mean(0) - mean).max() < 5 * np.sqrt(variance.max() / DRAWS)
    np.testing.assert_allclose(found.var(0), variance, rtol=0.2)


def test_a_sure_map_has_no_width():
    grades = np.random.default_rng(1).integers(-1, 4, (12, 15))
    grade_map = map_of(grades)
    sure = np.where(grade_map.valid_hw, np.arange(4)[:, None, None] == grades, np.nan)
    grade_map = replace(grade_map, probability_khw=sure.astype(np.float32), temperature=1.0)
    found = intervals(grade_map, Rules("prostatectomy", 0.0))
    for end in limits(found.area_mm2):
        np.testing.assert_allclose(end, class_areas(grade_map), atol=1e-9)
    row = summarise(grade_map, Rules("prostatectomy", 0.0), drawn=found)
    assert row["isup_low"] == row["isup_high"] == row["isup_grade_group"]
    for name in CLASSES:
        assert row[f"{name}_share_low"] == pytest.approx(row[f"{name}_share"], abs=1e-6)
        assert row[f"{name}_share_high"] == pytest.approx(row[f"{name}_share"], abs=1e-6)


def test_shared_numbers_widen_the_intervals(monkeypatch):
    grade_map = random_map(np.random.default_rng(6))
    widths = []
    for block_mm in (CELL_MM, 2.0, 4.0):
        monkeypatch.setattr(made, "BLOCK_MM", block_mm)
        low, high = limits(intervals(grade_map, Rules(min_area_mm2=0)).share)
        widths.append(float((high - low).mean()))
    assert widths[0] * 2 < widths[1] < widths[2]


def test_the_same_map_gives_the_same_draws():
    grade_map = random_map(np.random.default_rng(7))
    first, second = (intervals(grade_map, Rules(min_area_mm2=0)) for _ in range(2))
    np.testing.assert_array_equal(first.area_mm2, second.area_mm2)
    assert first.readings == second.readings


def test_what_is_not_calibrated_or_empty_has_no_interval():
    assert intervals(map_of([[0, 1]]), Rules(min_area_mm2=0)) is None
    nothing = replace(map_of([[-1, -1]]), temperature=1.2)
    assert intervals(nothing, Rules(min_area_mm2=0)) is None


def test_other_classes_have_shares_and_no_grade_group():
    grade_map = replace(map_of([[0, 1, 2, 2]], ("A", "B", "C")), temperature=1.5)
    found = intervals(grade_map, Rules(min_area_mm2=0))
    record = json.loads(json.dumps(found.record(grade_map.classes)))
    assert "grade_group" not in record
    for low, mean, high in record["share"].values():
        assert 0 <= low <= mean <= high <= 1
    row = summarise(grade_map, Rules(min_area_mm2=0), drawn=found)
    assert "isup_low" not in row
    assert "C_share_high" in row


def test_the_record_tells_how_often_each_reading():
    grade_map = random_map(np.random.default_rng(9))
    found = intervals(grade_map, Rules(min_area_mm2=2.0))
    record = found.record(CLASSES)
    assert sum(record["grade_group"].values()) == pytest.approx(1)
    assert sum(record["gleason_score"].values()) == pytest.approx(1)
    assert (record["level"], record["draws"], record["block_mm"]) == (0.95, DRAWS, BLOCK_MM)


def test_fields_near_the_boundary_are_listed_by_margin(tmp_path):
    from wsikd.grade.exports.csv import NEAR, write_uncertain

    grade_map = random_map(np.random.default_rng(10), sharp=1.0)
    write_uncertain(grade_map, tmp_path / "u.csv")
    with (tmp_path / "u.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    expected = []
    for box, p in zip(grade_map.boxes(), grade_map.probability_khw.reshape(4, -1).T, strict=True):
        names = sorted(zip(p.tolist(), CLASSES, strict=True), reverse=True)
        if names[0][0] - names[1][0] < NEAR:
            margin = names[0][0] - names[1][0]
            expected.append((margin, names[0][1], names[1][1], *box[:2]))
    expected.sort()
    assert len(rows) == len(expected) > 20
    for row, (margin, first, second, x, y) in zip(rows, expected, strict=True):
        assert (row["first"], row["second"]) == (first, second)
        numbers = [float(row[k]) for k in ("margin", "minx", "miny")]
        assert numbers == pytest.approx([margin, x, y], abs=1e-3)
        difference = float(row["prob_first"]) - float(row["prob_second"])
        assert float(row["margin"]) == pytest.approx(difference, abs=2e-6)
