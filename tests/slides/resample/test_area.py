import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsikd.slides.resample.area import area_means, area_resample


def slow_sums(values, start, factor, size):
    """The integral over each cell, pixel by pixel, straight from the definition."""
    columns, rows = size
    out = np.zeros((rows, columns, *values.shape[2:]))
    for i in range(rows):
        for j in range(columns):
            top, left = start[1] + i * factor[1], start[0] + j * factor[0]
            bottom, right = top + factor[1], left + factor[0]
            for y in range(max(0, math.floor(top)), min(values.shape[0], math.ceil(bottom))):
                for x in range(max(0, math.floor(left)), min(values.shape[1], math.ceil(right))):
                    high = min(bottom, y + 1) - max(top, y)
                    wide = min(right, x + 1) - max(left, x)
                    out[i, j] += max(high, 0) * max(wide, 0) * values[y, x].astype(float)
    return out


factors = st.one_of(st.integers(1, 20).map(float), st.floats(1, 20, allow_nan=False))
starts = st.one_of(st.integers(0, 4).map(float), st.floats(0, 4, allow_nan=False))


@given(
    factor=st.one_of(factors.map(lambda f: (f, f)), st.tuples(factors, factors)),
    start=st.tuples(starts, starts),
    size=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    margin=st.integers(0, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_area_resample_is_the_integral(factor, start, size, margin, seed):
    width, height = (
        math.ceil(s + f * n) + margin for s, f, n in zip(start, factor, size, strict=True)
    )
    source = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    out = area_resample(source, start, factor, size)
    exact = slow_sums(source, start, factor, size) / (factor[0] * factor[1])
    assert out.dtype == np.uint8
    assert out.flags.c_contiguous
    assert np.abs(out - exact).max() <= 0.51


@pytest.mark.parametrize("level", [0, 1, 127, 254, 255])
@pytest.mark.parametrize("factor", [1.0, 2.0, 2.004008, 16.3])
def test_a_flat_image_stays_flat(level, factor):
    flat = np.full((700, 700, 3), level, np.uint8)
    side = int(690 / factor)
    out = area_resample(flat, (3.4, 1.2), (factor, factor), (side, side))
    assert (out == level).all()


def test_bands_of_a_large_image_have_no_seams():
    rng = np.random.default_rng(5)
    source = rng.integers(0, 256, (9, 2000, 3)).astype(np.uint8)
    out = area_resample(source, (0.3, 0.0), (2.004, 3.0), (990, 3))
    exact = slow_sums(source, (0.3, 0.0), (2.004, 3.0), (990, 3)) / (2.004 * 3.0)
    assert np.abs(out - exact).max() <= 0.51


@given(
    start=st.tuples(st.floats(-9, 9), st.floats(-9, 9)),
    factor=st.tuples(st.floats(0.3, 8), st.floats(0.3, 8)),
    size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    shape=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    seed=st.integers(0, 2**32 - 1),
)
def test_area_means_count_the_outside_as_zero(start, factor, size, shape, seed):
    mask = np.random.default_rng(seed).random(shape) < 0.5
    out = area_means(mask, start, factor, size)
    exact = slow_sums(mask, start, factor, size) / (factor[0] * factor[1])
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, exact, atol=2e-6)


def test_cells_that_miss_the_plane_are_zero():
    out = area_means(np.ones((4, 4), bool), (-20.0, 2.0), (5.0, 5.0), (8, 2))
    assert out[:, :3].max() == 0
    np.testing.assert_allclose(out[0, 4], 4 * 2 / 25)
    assert out[1].max() == 0


@given(
    step=st.floats(0.3, 9, allow_nan=False),
    factor=st.floats(0.5, 9, allow_nan=False),
    seed=st.integers(0, 2**32 - 1),
)
def test_area_means_of_overlapping_cells_and_of_cells_with_gaps(step, factor, seed):
    values = np.random.default_rng(seed).random((23, 31)).astype(np.float32)
    got = area_means(values, (-2.5, 1.25), (factor, 2.0), (6, 4), (step, 5.0))
    for i in range(4):
        for j in range(6):
            corner = (-2.5 + j * step, 1.25 + i * 5.0)
            exact = slow_sums(values, corner, (factor, 2.0), (1, 1))[0, 0] / (factor * 2.0)
            assert got[i, j] == pytest.approx(exact, abs=1e-5)
