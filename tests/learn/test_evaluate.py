import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn import metrics

from wsikd.learn import evaluate
from wsikd.learn.data import load_patches
from wsikd.learn.settings import Data, Split


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


def slow_min_fields(truth, predicted, slide):
    scores = []
    for fields in range(evaluate.MAX_FIELDS + 1):
        per = []
        for name in set(slide):
            own = [i for i, s in enumerate(slide) if s == name]
            here = {truth[i] for i in own} - {0}
            found = [predicted[i] for i in own]
            said = {c for c in set(found) - {0} if found.count(c) >= fields}
            per.append(len(here & said) / len(here | said) if here | said else 1.0)
        scores.append(np.mean(per))
    best = max(scores)
    return next(i for i, s in enumerate(scores) if s > best - 1e-9), best


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5))
def test_min_fields_equals_a_slow_search(seed, slides):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 4, 60)
    predicted = np.where(rng.random(60) < 0.6, truth, rng.integers(0, 4, 60))
    slide = [f"s{i}" for i in np.sort(rng.integers(0, slides, 60))]
    fields, score = evaluate.choose_min_fields(truth, predicted, slide)
    assert (fields, score) == pytest.approx(slow_min_fields(truth, predicted, slide))


def test_stray_fields_are_thresholded_away():
    truth = np.array([0] * 20 + [1] * 10)
    predicted = truth.copy()
    predicted[:2] = 3  # two stray fields of the highest grade
    fields, score = evaluate.choose_min_fields(truth, predicted, ["a"] * 20 + ["b"] * 10)
    assert (fields, score) == (3, 1.0)
    assert evaluate.choose_min_fields(truth, truth, ["a"] * 20 + ["b"] * 10) == (0, 1.0)


def test_colour_baseline_sees_colour_and_only_colour(tmp_path, stripes, patches_on_disk):
    patches = load_patches(Data(paths=[str(stripes)]), Split())
    train, val = patches.indices("train"), patches.indices("val")
    assert evaluate.colour_baseline(patches, train, val) < 0.4  # stripes carry the class
    import cv2

    path = patches_on_disk.write(tmp_path / "set", split=lambda s: "val" if s >= 6 else "train")
    rng = np.random.default_rng(0)
    for row in patches_on_disk.rows(path):
        tint = rng.integers(0, 30, (32, 32, 3)) + 90 * int(row["label"])
        cv2.imwrite(str(path.parent / "images" / row["image"]), tint.astype(np.uint8))
    tinted = load_patches(Data(paths=[str(path)]), Split())
    assert evaluate.colour_baseline(tinted, train, val) == pytest.approx(1.0)
    benign = train[tinted.label[train] == 0]
    assert evaluate.colour_baseline(tinted, benign, val) is None
