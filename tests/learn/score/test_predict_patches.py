import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn import metrics

from wsikd.grade.gleason import grade_slide
from wsikd.learn.data.patches import PatchSet
from wsikd.learn.patch.export import choose_least_area
from wsikd.learn.score import predict_patches as evaluate


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=60))
def test_metrics_equal_sklearn_s(pairs):
    truth, predicted = np.array(pairs).T
    assume(len(np.unique(truth)) > 1)
    assume(set(predicted) <= set(truth))  # else sklearn warns of balanced accuracy
    matrix = evaluate.confusion(truth, predicted, 4)
    labels = range(4)
    assert (matrix == metrics.confusion_matrix(truth, predicted, labels=labels)).all()
    expected = metrics.cohen_kappa_score(truth, predicted, weights="quadratic", labels=labels)
    assert evaluate.quadratic_kappa(matrix) == pytest.approx(expected, abs=1e-12)
    balanced = metrics.balanced_accuracy_score(truth, predicted)
    assert evaluate.balanced_accuracy(matrix) == pytest.approx(balanced)
    f1 = metrics.f1_score(truth, predicted, labels=labels, average=None, zero_division=0)
    assert evaluate.f1_per_class(matrix) == pytest.approx(f1)


def test_what_is_undefined_is_none():
    matrix = evaluate.confusion(np.array([1, 1]), np.array([1, 1]), 3)
    assert math.isnan(evaluate.quadratic_kappa(matrix))
    summary = evaluate.summarise(matrix, "abc")
    assert summary["kappa"] is None
    assert (summary["accuracy"], summary["patches"]) == (1.0, 2)
    assert evaluate.summarise(np.zeros((2, 2), int), "ab")["balanced_accuracy"] is None


def slow_min_fields(truth, predicted, slide, tissue):
    scores = []
    for fields in range(1, evaluate.MAX_FIELDS + 1):
        per = []
        for name in set(slide):
            own = [i for i, s in enumerate(slide) if s == name]
            here = {truth[i] for i in own} - {0}
            area = {c: sum(tissue[i] for i in own if predicted[i] == c) for c in range(1, 4)}
            said = {c for c in area if area[c] >= fields + evaluate.ABOVE}
            per.append(len(here & said) / len(here | said) if here | said else 1.0)
        scores.append(np.mean(per))
    best = max(scores)
    at = next(i for i, s in enumerate(scores, 1) if s > best - 1e-9)
    return at + evaluate.ABOVE, best


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5), st.booleans())
def test_min_fields_equals_a_slow_search(seed, slides, full):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 4, 60)
    predicted = np.where(rng.random(60) < 0.6, truth, rng.integers(0, 4, 60))
    slide = [f"s{i}" for i in np.sort(rng.integers(0, slides, 60))]
    tissue = np.ones(60) if full else rng.random(60)
    found = evaluate.choose_min_fields(truth, predicted, slide, None if full else tissue)
    assert found == pytest.approx(slow_min_fields(truth, predicted, slide, tissue))


def test_stray_fields_are_thresholded_away():
    truth = np.array([0] * 20 + [1] * 10)
    predicted = truth.copy()
    predicted[:2] = 3  # two stray fields of the highest grade
    slides = ["a"] * 20 + ["b"] * 10
    assert evaluate.choose_min_fields(truth, predicted, slides) == (2 + evaluate.ABOVE, 1.0)
    edge = np.ones(30)
    edge[:2] = 0.4  # with less tissue than one whole field
    fields, score = evaluate.choose_min_fields(truth, predicted, slides, edge)
    assert (fields, score) == (1 + evaluate.ABOVE, 1.0)


def test_a_single_field_never_counts():
    truth = np.array([0] * 10 + [1] * 10)
    fields, _ = evaluate.choose_min_fields(truth, truth, ["a"] * 10 + ["b"] * 10)
    assert fields == 1 + evaluate.ABOVE
    side_mm = 0.064
    areas, classes = [1.0, 0.0, side_mm**2, 0.0], ("NC", "G3", "G4", "G5")
    least = {"specimen": "biopsy", "min_area_mm2": fields * side_mm**2}
    assert grade_slide(areas, classes, **least) is None
    areas[2] *= 2
    assert grade_slide(areas, classes, **least).sum_text == "4+4=8"


def patches_of(truth, slides, field_mm2):
    count = len(truth)
    return PatchSet(
        np.asarray(truth), slides, np.full(count, "val"), ("NC", "G3", "G4"), 1.0, 64, field_mm2,
        np.full(count, 0.5), [], [],
    )  # fmt: skip


def test_a_choice_on_little_is_warned_of(caplog):
    everything = np.arange(12)
    truth = np.repeat([0, 1, 2], 4)
    plenty = patches_of(truth, list("abcabcabcabc"), 0.01)
    least = choose_least_area(plenty, everything, truth)
    assert least.slides == 3
    assert least.mm2 == pytest.approx(0.01 * (1 + evaluate.ABOVE))
    assert not caplog.records
    few = patches_of(np.repeat([0, 1], 6), list("ababababababab")[:12], 0.01)
    choose_least_area(few, everything, truth)
    told = [r.getMessage() for r in caplog.records]
    assert told[0] == "min_area_mm2 rests on 2 validation slide(s) only"
    assert told[1] == "min_area_mm2 is chosen without class G4: no validation patch of it"
    caplog.clear()
    assert choose_least_area(patches_of(truth, ["a"] * 12, None), everything, truth).mm2 == 0
    assert not caplog.records
