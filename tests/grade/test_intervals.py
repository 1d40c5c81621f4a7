"""Intervals of a slide's numbers from errors of validation slides."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.studies.coverage.cohort import Errors, draw
from benchmarks.studies.coverage.shares import fit
from tests.grade.maps import CLASSES, map_of
from wsikd.core.shares import MIN_SLIDES, too_few
from wsikd.grade.gleason_rules import Rules
from wsikd.grade.intervals import basis, fault_of, intervals
from wsikd.grade.summary import class_areas, summarise

RULES = Rules()


def smooth_noise(rng, shape, sigma):
    """Gaussian noise of unit variance, correlated over ``sigma`` cells."""
    from scipy import ndimage

    noise = ndimage.gaussian_filter(rng.normal(size=shape), (0, sigma, sigma), mode="wrap")
    return noise / noise.std()


def random_map(rng, shape=(24, 24), sharp=2.0):
    """A map whose probabilities form regions, some sure and some not."""
    logit = smooth_noise(rng, (len(CLASSES), *shape), 3.0) * sharp
    probability = np.exp(logit) / np.exp(logit).sum(0)
    template = map_of(np.zeros(shape), mpp=500.0)
    tissue = rng.uniform(0.3, 1, shape).astype(np.float32)
    return replace(
        template,
        probability_khw=probability.astype(np.float32),
        tissue_hw=tissue,
        temperature=1.0,
    )


@pytest.fixture(scope="module")
def errors():
    return fit(draw(1, 40, Errors(), side=8), fields=None)[0]


def test_what_is_printed_hangs_together(errors):
    grade_map = random_map(np.random.default_rng(2))
    errors = replace(errors, ratio=replace(errors.ratio, slides=MIN_SLIDES))
    found = intervals(grade_map, errors, RULES)
    row = summarise(grade_map, RULES, drawn=found)
    for k, name in enumerate(CLASSES):
        low, high = row[f"{name}_share_low"], row[f"{name}_share_high"]
        assert 0 <= low < high <= 1
        assert low - 1e-6 <= found.share[k] <= high + 1e-6
    assert found.share.sum() == pytest.approx(1)
    assert 0 <= row["isup_low"] <= row["isup_high"] <= 5
    assert set(found.of_cancer) == {4}
    assert 0 <= found.of_cancer[4][0] < found.of_cancer[4][1] <= 1
    assert row["cancer_expected_low"] < row["cancer_expected_high"]
    record = json.loads(json.dumps(found.record(CLASSES), allow_nan=False))
    total = class_areas(grade_map).sum()
    np.testing.assert_allclose(found.area_mm2.sum(1), total)
    low, middle, high = record["area_mm2"]["G4"]
    assert [v / total for v in (low, middle, high)] == pytest.approx(
        record["share"]["G4"], abs=1e-5
    )
    assert record["cancer_mm2"][1] == pytest.approx((1 - found.share[0]) * total, abs=1e-5)
    assert record["grade_group"] == [row["isup_low"], row["isup_high"]]
    assert found.readings[0].sum_text in record["gleason_scores"]
    assert (record["level"], record["validation_slides"]) == (0.95, 40)
    assert basis(grade_map, errors) == "95% from 40 validation slides"


def test_the_same_map_gives_the_same_intervals(errors):
    grade_map = random_map(np.random.default_rng(7))
    first, second = (intervals(grade_map, errors, RULES) for _ in range(2))
    np.testing.assert_array_equal(first.area_mm2, second.area_mm2)
    assert first.readings == second.readings


def test_a_sure_map_has_a_width_all_the_same(errors):
    grades = np.random.default_rng(1).integers(-1, 4, (12, 15))
    grade_map = map_of(grades)
    sure = np.where(grade_map.valid_hw, np.arange(4)[:, None, None] == grades, np.nan)
    grade_map = replace(grade_map, probability_khw=sure.astype(np.float32), temperature=1.0)
    for low, high in zip(*intervals(grade_map, errors, RULES).share_limits, strict=True):
        assert high - low > 0.01


def test_why_there_is_no_interval(errors):
    grade_map = random_map(np.random.default_rng(3))
    asked = replace(grade_map, escalated_hw=grade_map.valid_hw)
    wide = replace(errors, quantile=50.0)
    for found, known, told in (
        (replace(grade_map, temperature=None), errors, "not calibrated"),
        (grade_map, None, "the student's card holds no errors of shares"),
        (
            grade_map,
            too_few(7),
            f"not enough validation slides for an interval (7 of {MIN_SLIDES})",
        ),
        (grade_map, wide, "too wide for an interval"),
        (asked, errors, "a teacher read some fields"),
        (replace(map_of([[-1, -1]]), temperature=1.2), errors, "no tissue"),
    ):
        assert intervals(found, known, RULES) is None
        assert told in fault_of(found, known)
        assert basis(found, known) == f"none: {fault_of(found, known)}"
        row = summarise(found, RULES, drawn=None)
        assert not {k for k in row if k.endswith(("_low", "_high"))}


def test_other_classes_have_shares_and_no_grade_group(errors):
    grade_map = replace(random_map(np.random.default_rng(4)), classes=("A", "B", "C", "D"))
    found = intervals(grade_map, errors, RULES)
    assert not {"grade_group", "cancer_mm2"} & set(found.record(grade_map.classes))
    row = summarise(grade_map, RULES, drawn=found)
    assert "isup_low" not in row
    assert "C_share_high" in row


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
