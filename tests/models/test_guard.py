"""The guard on simulated fields: false alarms, slides of another kind, few slides, few fields."""

import numpy as np
import pytest

from tests.slides.pixels import tissue_rgb
from wsikd.models.guard import ENOUGH, FIELDS, Sample, enough_tissue, fit_guard

COUNT, NUMBERS = 12, 30


def cohort(rng, slides, shift=0.0, mixing=None, fields=COUNT):
    """Numbers of fields of slides that vary between each other."""
    own = rng.normal(0, 0.7, (slides, 1, NUMBERS)) + shift
    found = own + rng.normal(0, 1, (slides, fields, NUMBERS))
    flat = found.reshape(-1, NUMBERS) * np.linspace(0.01, 5, NUMBERS)
    names = [f"s{n:03d}" for n in range(slides) for _ in range(fields)]
    return Sample(flat @ mixing if mixing is not None else flat, names)


def distances(guard, sample):
    return np.array([guard.distance(own) for own in sample.each()])


@pytest.mark.parametrize(("val", "fields"), [(1, COUNT), (3, 3), (19, COUNT)])
def test_slides_like_the_training_are_rarely_withheld(val, fields):
    rng = np.random.default_rng(val)
    alarms = []
    for _ in range(5):
        guard = fit_guard(cohort(rng, 20), cohort(rng, val))
        assert guard.weak == (val < ENOUGH)
        alarms.append(distances(guard, cohort(rng, 80, fields=fields)) > 1)
    assert np.mean(alarms) <= 0.05 + 0.02  # 400 slides: two standard errors


@pytest.mark.parametrize(("train", "val"), [(5, 1), (40, 30)])
def test_a_cohort_of_another_kind_is_caught(train, val):
    rng = np.random.default_rng(1)
    mixing = np.linalg.qr(rng.normal(size=(NUMBERS, NUMBERS)))[0]
    guard = fit_guard(cohort(rng, train, mixing=mixing), cohort(rng, val, mixing=mixing))
    shifted = distances(guard, cohort(rng, 30, shift=4.0, mixing=mixing))
    assert (shifted > 1).mean() > 0.95


def test_few_slides_make_a_wider_limit():
    rng = np.random.default_rng(2)
    limits = [
        np.median([fit_guard(cohort(rng, n), cohort(rng, 1)).threshold for _ in range(5)])
        for n in (2, 5, 20)
    ]
    assert limits == sorted(limits, reverse=True)


def test_one_slide_of_each_part_makes_a_guard_and_none_of_validation_too():
    rng = np.random.default_rng(3)
    for train, val in ((1, 1), (2, 0), (1, 0)):
        guard = fit_guard(cohort(rng, train), cohort(rng, val))
        assert (guard.train_slides, guard.val_slides, guard.weak) == (train, val, True)
        assert np.isfinite(guard.distance(cohort(rng, 1).numbers))


def test_every_slide_weighs_the_same():
    rng = np.random.default_rng(4)
    sample = cohort(rng, 10)
    first = sample.numbers[:COUNT]
    many = Sample(
        np.concatenate([sample.numbers, np.repeat(first, 20, 0)]),
        [*sample.slides, *["s000"] * (20 * COUNT)],
    )
    one, two = fit_guard(sample, cohort(rng, 3)), fit_guard(many, cohort(rng, 3))
    np.testing.assert_allclose(one.mean, two.mean, atol=1e-4)


def test_what_altering_fields_adds_is_overlooked():
    """A shift that the altered fields show is not held for another kind of slide."""
    rng = np.random.default_rng(5)
    train, val, other = cohort(rng, 20), cohort(rng, 20), cohort(rng, 20)
    shift = np.zeros(NUMBERS)
    shift[[3, 7]] = 6 * train.numbers.std(0)[[3, 7]]
    moved = Sample(other.numbers + shift, other.slides)
    added = Sample(np.tile(shift, (len(train.slides), 1)), train.slides)
    assert (distances(fit_guard(train, val), moved) > 1).mean() > 0.9
    assert (distances(fit_guard(train, val, added), moved) > 1).mean() < 0.1


def test_numbers_that_never_vary_do_no_harm():
    rng = np.random.default_rng(6)
    sample = cohort(rng, 25)
    sample.numbers[:, 3] = 7.0
    guard = fit_guard(sample, sample)
    assert np.isfinite(distances(guard, sample)).all()
    one = Sample(sample.numbers[:1], sample.slides[:1])
    assert np.isfinite(fit_guard(one, one).distance(one.numbers))


def test_fields_with_little_tissue_count_only_where_there_are_no_others():
    assert enough_tissue(np.array([0.1, 0.5, 0.9])).tolist() == [False, True, True]
    assert enough_tissue(np.array([0.1, 0.2])).all()
    sample = Sample(np.arange(4.0)[:, None], ["a", "a", "b", "b"])
    kept = sample.with_tissue(np.array([0.9, 0.1, 0.1, 0.2]))
    assert (kept.numbers[:, 0].tolist(), kept.slides) == ([0, 2, 3], ["a", "b", "b"])


def fields(count, seed):
    rgb = tissue_rgb(64, 64 * count, (0, 0, 64, 64 * count), seed=seed)
    return np.stack(np.split(rgb, count))


@pytest.mark.parametrize("size", [120, 32, 7])
def test_a_reading_does_not_depend_on_the_batches_and_looks_at_some_fields(size):
    from wsikd.slides.texture import texture

    patches = fields(120, seed=1)
    sample = Sample(texture(patches), [f"s{n % 6}" for n in range(120)])
    guard = fit_guard(sample, sample)
    assert guard.reading().distance is None
    reading = guard.reading()
    for start in range(0, 120, size):
        index = np.arange(start, min(start + size, 120))
        batch = patches[index].copy()
        reading.watch(index, 120, batch)
        batch[:] = 0  # as the stream does
    every = -(-120 // FIELDS)
    assert reading.distance == pytest.approx(guard.distance(texture(patches[::every])))


def test_drawn_tissue_of_another_kind_is_withheld_with_one_validation_slide():
    """The planted fault in small: coarser tissue of the same colours; no real data."""
    from wsikd.slides.texture import texture

    def sample(first, count, coarse):
        rows, names = [], []
        for slide in range(first, first + count):
            rgb = tissue_rgb(64, 64 * 8, (0, 0, 64, 64 * 8), seed=slide, coarse=coarse)
            rows.append(texture(np.stack(np.split(rgb, 8))))
            names += [f"s{slide:02d}"] * 8
        return Sample(np.concatenate(rows), names)

    guard = fit_guard(sample(0, 5, 6), sample(5, 1, 6))
    assert guard.weak
    assert (distances(guard, sample(6, 6, 6)) < 1).all()
    assert (distances(guard, sample(20, 6, 16)) > 1).all()
