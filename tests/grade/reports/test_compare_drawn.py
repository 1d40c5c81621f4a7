"""Scores against sklearn, truth maps against hand-made ones."""

import numpy as np
import pytest
import shapely
from sklearn.metrics import balanced_accuracy_score, cohen_kappa_score, confusion_matrix

from tests.grade.maps import CLASSES, square_map
from wsikd.grade.reports.compare_drawn import score_labels, score_maps, truth_map
from wsikd.slides.annotations.base import Region


@pytest.mark.parametrize("seed", range(5))
def test_scores_equal_sklearn(seed):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 4, 300)
    found = np.where(rng.random(300) < 0.6, truth, rng.integers(0, 4, 300))
    score = score_labels(truth, found, CLASSES)
    labels = range(4)
    plain = cohen_kappa_score(truth, found, labels=labels)
    assert score.kappa_plain == pytest.approx(plain)
    assert score.kappa == pytest.approx(cohen_kappa_score(truth, found, weights="quadratic"))
    assert score.balanced_accuracy == pytest.approx(balanced_accuracy_score(truth, found))
    np.testing.assert_array_equal(score.confusion, confusion_matrix(truth, found))
    assert score.interval[0] < score.kappa < score.interval[1]


def test_an_absent_class_keeps_its_distance():
    truth, found = np.array([0, 0, 3, 3, 1]), np.array([0, 3, 3, 1, 1])  # no G4
    score = score_labels(truth, found, CLASSES, resamples=20)
    wanted = cohen_kappa_score(truth, found, weights="quadratic", labels=range(4))
    assert score.kappa == pytest.approx(wanted)


@pytest.mark.parametrize("count", [0, 5])
def test_nothing_to_tell_apart_has_no_kappa(count):
    score = score_labels(np.ones(count, int), np.ones(count, int), CLASSES, resamples=5)
    assert np.isnan([score.kappa, *score.interval]).all()
    assert score.fields == count


def test_classes_that_are_no_grades_get_plain_kappa():
    rng = np.random.default_rng(9)
    truth, found = rng.integers(0, 3, 200), rng.integers(0, 3, 200)
    score = score_labels(truth, found, ("fat", "muscle", "skin"))
    assert score.kappa == pytest.approx(cohen_kappa_score(truth, found))


def test_interval_covers_what_resampling_by_hand_gives():
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 4, 120)
    found = np.where(rng.random(120) < 0.7, truth, rng.integers(0, 4, 120))
    score = score_labels(truth, found, CLASSES)
    other = np.random.default_rng(77)
    kappas = [
        cohen_kappa_score(truth[d], found[d], weights="quadratic")
        for d in (other.integers(0, 120, 120) for _ in range(400))
    ]
    np.testing.assert_allclose(score.interval, np.quantile(kappas, [0.025, 0.975]), atol=0.04)


def test_truth_map_marks_the_cells_that_a_region_covers():
    made = square_map()
    x, y = made.origin_xy
    w, h = made.cell_px
    whole = shapely.box(x + w, y + h, x + 3 * w, y + 2 * h)  # two whole cells
    sliver = shapely.box(x, y, x + 0.4 * w, y + h)  # less than half of a cell
    truth = truth_map(made, [Region("G5", whole), Region("G3", sliver)])
    wanted = np.zeros_like(made.valid_hw)
    wanted[1, 1:3] = True
    np.testing.assert_array_equal(truth.valid_hw, wanted & made.valid_hw)
    assert (truth.grade_hw[truth.valid_hw] == CLASSES.index("G5")).all()


def test_a_map_agrees_fully_with_itself():
    made = square_map()
    score = score_maps([made], [made])
    assert score.accuracy == 1.0
    assert score.fields == made.valid_hw.sum()
