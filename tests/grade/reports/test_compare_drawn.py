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
    score = score_labels(truth, found, CLASSES, np.arange(300) // 10)
    labels = range(4)
    plain = cohen_kappa_score(truth, found, labels=labels)
    assert score.kappa_plain == pytest.approx(plain)
    assert score.kappa == pytest.approx(cohen_kappa_score(truth, found, weights="quadratic"))
    assert score.balanced_accuracy == pytest.approx(balanced_accuracy_score(truth, found))
    np.testing.assert_array_equal(score.confusion, confusion_matrix(truth, found))
    assert score.interval[0] < score.kappa < score.interval[1]


def test_an_absent_class_keeps_its_distance():
    truth, found = np.array([0, 0, 3, 3, 1]), np.array([0, 3, 3, 1, 1])  # no G4
    score = score_labels(truth, found, CLASSES, np.zeros(5, int))
    wanted = cohen_kappa_score(truth, found, weights="quadratic", labels=range(4))
    assert score.kappa == pytest.approx(wanted)


@pytest.mark.parametrize("count", [0, 5])
def test_nothing_to_tell_apart_has_no_kappa(count):
    score = score_labels(np.ones(count, int), np.ones(count, int), CLASSES, np.zeros(count, int))
    assert np.isnan(score.kappa)
    assert score.interval is None
    assert score.fields == count


def test_classes_that_are_no_grades_get_plain_kappa():
    rng = np.random.default_rng(9)
    truth, found = rng.integers(0, 3, 200), rng.integers(0, 3, 200)
    score = score_labels(truth, found, ("fat", "muscle", "skin"), np.zeros(200, int))
    assert score.interval is None
    assert score.kappa == pytest.approx(cohen_kappa_score(truth, found))


def test_the_interval_is_over_slides():
    rng = np.random.default_rng(3)
    slide = np.repeat(np.arange(30), 20)
    truth = rng.integers(0, 4, 600)
    sure = rng.uniform(0.2, 1, 30)[slide]  # slides differ
    found = np.where(rng.random(600) < sure, truth, rng.integers(0, 4, 600))
    score = score_labels(truth, found, CLASSES, slide)
    kappas = []
    for _ in range(400):
        own = np.concatenate([np.flatnonzero(slide == s) for s in rng.integers(0, 30, 30)])
        kappas.append(cohen_kappa_score(truth[own], found[own], weights="quadratic"))
    np.testing.assert_allclose(score.interval, np.quantile(kappas, [0.025, 0.975]), atol=0.05)
    alone = score_labels(truth, found, CLASSES, np.arange(600)).interval
    assert alone[1] - alone[0] < 0.7 * (score.interval[1] - score.interval[0])


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
