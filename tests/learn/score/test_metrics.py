import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax as scipy_softmax
from sklearn import metrics as oracle

from wsikd.core.softmax import softmax
from wsikd.learn.data.patches import load_patches
from wsikd.learn.data.settings import Data, Split
from wsikd.learn.score import calibrate, metrics
from wsikd.learn.score import colour_baseline as colour
from wsikd.learn.score.colour_baseline import colour_histograms, histogram_baseline, histogram_kappa


def drawn(seed, count=80, classes=4, ties=False):
    rng = np.random.default_rng(seed)
    truth = np.concatenate([np.arange(classes), rng.integers(0, classes, count - classes)])
    logits = rng.normal(size=(count, classes)) + 1.5 * np.eye(classes)[truth]
    if ties:
        logits = logits.round()
    return truth, logits, rng.integers(0, 7, count)


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.booleans())
def test_figures_equal_sklearn_s(seed, ties):
    truth, logits, _ = drawn(seed, ties=ties)
    p = softmax(logits)
    np.testing.assert_allclose(p, scipy_softmax(logits, axis=1), rtol=1e-12)
    found, said = metrics.measure(truth, p), p.argmax(1)
    labels = range(4)
    expected = {
        "balanced_accuracy": oracle.balanced_accuracy_score(truth, said),
        "accuracy": oracle.accuracy_score(truth, said),
        "kappa": oracle.cohen_kappa_score(truth, said, weights="quadratic", labels=labels),
        "kappa_unweighted": oracle.cohen_kappa_score(truth, said, labels=labels),
        # Rounded: the sums of a softmax differ in their last digit where logits change places.
        "auc_macro": np.mean([oracle.roc_auc_score(truth == c, p[:, c].round(9)) for c in labels]),
        "auc_cancer": oracle.roc_auc_score(truth > 0, 1 - p[:, 0].round(9)),
    }
    f1 = oracle.f1_score(truth, said, labels=labels, average=None, zero_division=0)
    expected |= {f"f1_{c}": f1[c] for c in labels}
    assert found == pytest.approx(expected, abs=1e-12)


@given(st.integers(0, 10_000))
@settings(max_examples=15)
def test_an_area_compares_scores_of_one_network_only(seed):
    """Each fold's network has its own offset; the mean of sklearn's areas by fold."""
    truth, logits, fold = drawn(seed, count=300)
    logits[:, 0] += 8.0 * fold  # a network that calls everything benign
    p = softmax(logits)
    found = metrics.measure(truth, p, fold=fold)
    score = -(logits[:, 0] - np.logaddexp.reduce(logits[:, 1:], axis=1))
    own = [oracle.roc_auc_score(truth[fold == f] > 0, score[fold == f]) for f in range(7)]
    assert found["auc_cancer"] == pytest.approx(np.mean(own), abs=1e-9)
    pooled = oracle.roc_auc_score(truth > 0, score)
    assert metrics.measure(truth, p)["auc_cancer"] == pytest.approx(pooled, abs=1e-9)
    plain = metrics.measure(truth, p)
    assert found["kappa"] == plain["kappa"]


def test_benign_need_not_be_the_first_class_nor_one():
    truth, logits, _ = drawn(2, count=200)
    p = softmax(logits)
    for benign in ((2,), (0, 3), (3, 1, 0)):
        found = metrics.measure(truth, p, benign=benign)["auc_cancer"]
        score = 1 - p[:, list(benign)].sum(1)
        expected = oracle.roc_auc_score(~np.isin(truth, benign), score)
        assert found == pytest.approx(expected, abs=1e-9)
    for none in ((), (0, 1, 2, 3)):
        assert np.isnan(metrics.measure(truth, p, benign=none)["auc_cancer"])


def test_counting_a_group_twice_is_repeating_its_patches():
    truth, logits, group = drawn(3, ties=True)
    p = softmax(logits)
    times = np.random.default_rng(4).multinomial(7, np.full(7, 1 / 7), 12)
    found = metrics.weighted(truth, p, group, times)
    for r, counts in enumerate(times):
        rows = np.concatenate(
            [np.flatnonzero(group == g) for g in range(7) for _ in range(counts[g])]
        )
        repeated = metrics.measure(truth[rows], p[rows])
        assert {k: v[r] for k, v in found.items()} == pytest.approx(repeated, nan_ok=True)


def test_intervals_are_over_groups_and_not_patches():
    rng = np.random.default_rng(0)
    slide = np.repeat(np.arange(40), 50)
    right = np.repeat(rng.random(40) < 0.6, 50)  # a slide is all right or all wrong
    truth = np.tile([0, 1], 1000)
    said = np.where(right, truth, 1 - truth)
    p = np.eye(2)[said] * 0.8 + 0.1
    by_slide = metrics.intervals(truth, p, [f"s{i}" for i in slide])["accuracy"]
    by_patch = metrics.intervals(truth, p, [f"p{i}" for i in range(2000)])["accuracy"]
    share = right.mean()
    wide = 2 * 1.96 * np.sqrt(share * (1 - share) / 40)
    assert by_slide[1] - by_slide[0] == pytest.approx(wide, rel=0.25)
    narrow = 2 * 1.96 * np.sqrt(share * (1 - share) / 2000)
    assert by_patch[1] - by_patch[0] == pytest.approx(narrow, rel=0.25)
    alone = metrics.intervals(truth, p, ["one"] * 2000)
    assert set(alone.values()) == {None}


def test_what_is_undefined_is_nan_and_has_no_interval():
    truth, p = np.array([1, 1, 1]), np.array([[0.2, 0.8], [0.4, 0.6], [0.1, 0.9]])
    found = metrics.measure(truth, p)
    assert np.isnan([found["auc_cancer"], found["auc_macro"], found["kappa"]]).all()
    assert found["accuracy"] == 1
    assert metrics.intervals(truth, p, list("abc"))["auc_cancer"] is None


def test_calibration_against_a_slow_reading():
    truth, logits, _ = drawn(5, count=200)
    p = softmax(2 * logits)
    total = 0.0
    for b in range(15):
        low, high = b / 15, (b + 1) / 15
        inside = [i for i in range(200) if low < p[i].max() <= high]
        if inside:
            accuracy = np.mean([p[i].argmax() == truth[i] for i in inside])
            total += len(inside) * abs(accuracy - np.mean([p[i].max() for i in inside]))
    assert calibrate.expected_calibration_error(p, truth) == pytest.approx(total / 200)
    assert calibrate.negative_log_likelihood(logits, truth) == pytest.approx(
        oracle.log_loss(truth, softmax(logits))
    )


def test_temperature_is_found_again_and_changes_no_decision():
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, (20_000, 3))
    p = softmax(logits)
    truth = (rng.random(20_000)[:, None] > p.cumsum(1)).sum(1).clip(0, 2)
    slides = [f"s{i % 20}" for i in range(20_000)]
    found = calibrate.fit_temperature(3 * logits, truth, slides)
    assert found == pytest.approx(3, rel=0.05)
    record = calibrate.calibration(3 * logits, truth, found, slides, cross_fit=False)
    assert record["ece_after"] < 0.02 < record["ece_before"]
    assert record["nll_after"] < record["nll_before"]
    grid = [calibrate.negative_log_likelihood(3 * logits, truth, t) for t in (2.5, 3.5)]
    assert record["nll_after"] < min(grid)
    crossed = calibrate.calibration(3 * logits, truth, found, slides, cross_fit=True)
    assert record["nll_after"] < crossed["nll_after"] < record["nll_after"] + 0.001
    assert crossed["cross_fitted"]
    for of, told in zip(crossed["ece_by_class_after"], crossed["ece_by_class_before"], strict=True):
        assert of < 0.02 < told


def sure(count, slides, seed=0):
    """Logits of a network that is right more often than it says."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, count)
    said = np.where(rng.random(count) < 0.9, truth, rng.integers(0, 3, count))
    return truth, 0.5 * np.eye(3)[said], [f"s{i % slides}" for i in range(count)]


def test_few_slides_do_not_make_it_surer():
    for slides, expected in ((3, True), (9, True), (10, False)):
        truth, logits, names = sure(600, slides)
        found = calibrate.fit_temperature(logits, truth, names)
        assert (found == 1) == expected


def test_a_temperature_at_the_end_of_its_range_is_none(caplog):
    truth = np.arange(60) % 3
    slides = [f"s{i % 12}" for i in range(60)]
    assert calibrate.fit_temperature(np.eye(3)[truth], truth, slides) is None
    assert "lies at the end of its range" in caplog.text
    assert calibrate.fit_temperature(-np.eye(3)[truth], truth, slides) is None
    assert calibrate.fit_temperature(np.eye(3)[truth], truth, ["a"] * 60) == 1


def test_slides_weigh_the_same():
    truth, logits, _ = sure(400, 1)
    slides = ["big"] * 380 + [f"s{i % 19}" for i in range(20)]
    found = calibrate.fit_temperature(logits, truth, slides)
    weight = calibrate.slide_weights(slides)
    assert weight.sum() == pytest.approx(1)
    assert weight[:380].sum() == pytest.approx(1 / 20)
    grid = np.exp(np.linspace(-3, 3, 4001))
    lost = [calibrate.negative_log_likelihood(logits, truth, t, weight) for t in grid]
    assert found == pytest.approx(grid[int(np.argmin(lost))], rel=0.01)


def test_a_single_slide_has_no_error_after():
    truth, logits, slides = sure(60, 1)
    record = calibrate.calibration(logits, truth, 1.0, slides, cross_fit=True)
    assert record["ece_after"] is record["nll_after"] is record["ece_by_class_after"] is None
    assert record["ece_before"] > 0


def test_colour_histograms_count_pixels(stripes):
    patches = load_patches(Data(paths=[str(stripes)]), Split())
    found = colour_histograms(patches, np.array([3, 40]))
    for row, index in zip(found, (3, 40), strict=True):
        image = patches.read(index).numpy()
        slow = [np.histogram(image[c], bins=32, range=(0, 256))[0] / 32**2 for c in range(3)]
        np.testing.assert_allclose(row**2, np.concatenate(slow), atol=1e-6)


def test_colour_histograms_need_little_memory(stripes, monkeypatch):
    patches = load_patches(Data(paths=[str(stripes)]), Split())
    chosen, asked = np.arange(0, 72, 5), []
    batches = patches.batches

    def watched(order, size, **more):
        asked.append(size)
        return batches(order, size, **more)

    whole = colour_histograms(patches, chosen)
    monkeypatch.setattr(patches, "batches", watched)
    monkeypatch.setattr(colour, "BATCH_BYTES", 4 * 3 * 32**2)
    np.testing.assert_array_equal(colour_histograms(patches, chosen), whole)
    assert asked == [4]
    assert colour_histograms(patches, chosen[:0]).shape == (0, 96)


def test_the_histogram_baseline_sees_colour_and_only_colour(tmp_path, stripes, patches_on_disk):
    import cv2

    patches = load_patches(Data(paths=[str(stripes)]), Split())
    train, val = patches.indices("train"), patches.indices("val")
    blind = histogram_baseline(patches, train, val)
    assert metrics.measure(patches.label[val], blind)["kappa"] < 0.6
    path = patches_on_disk.write(tmp_path / "set", split=lambda s: "val" if s >= 6 else "train")
    rng = np.random.default_rng(0)
    for row in patches_on_disk.rows(path):
        # same mean colour in every class: only the histogram tells
        spread = 10 + 30 * int(row["label"])
        tint = 128 + spread * rng.choice([-1, 1], (32, 32, 3)) + rng.integers(-5, 6, (32, 32, 3))
        cv2.imwrite(str(path.parent / "images" / row["image"]), tint.astype(np.uint8))
    tinted = load_patches(Data(paths=[str(path)]), Split())
    seen = histogram_baseline(tinted, train, val)
    assert metrics.measure(tinted.label[val], seen)["kappa"] == pytest.approx(1.0)
    assert histogram_kappa(tinted, train, val) == pytest.approx(1.0)
    benign = train[tinted.label[train] == 0]
    assert histogram_baseline(tinted, benign, val) is None
    assert histogram_kappa(tinted, benign, val) is histogram_kappa(tinted, train, val[:0]) is None


def test_an_overconfident_network_keeps_its_ranking():
    """Beyond a margin of 37 the probability of cancer is 1 to the last digit."""
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1], 200)
    margin = 100 + 5 * rng.normal(size=400) + 8 * truth
    logits = np.stack([np.zeros(400), margin], 1)
    found = metrics.measure(truth, softmax(logits))
    assert found["auc_cancer"] == pytest.approx(oracle.roc_auc_score(truth, margin), abs=1e-12)
    assert 0.8 < found["auc_cancer"] < 1
