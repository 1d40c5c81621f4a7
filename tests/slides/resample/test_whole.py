"""The compiled average against the sum itself, OpenCV, and what lies beside its output."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsikd.slides.resample import area as resample
from wsikd.slides.resample import whole as module
from wsikd.slides.resample.area import shrink
from wsikd.slides.resample.llvm import Effort
from wsikd.slides.resample.whole import FACTORS, LEAST_PX, mean_kernel

EDGE = 77


@pytest.fixture(autouse=True, scope="module")
def compiled():
    """The kernel is used from the first pixel on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resample._by_opencv, "most", 0)
        yield


def framed(height, width):
    """An array with a frame of ``EDGE`` around its inside: (all of it, the inside)."""
    whole = np.full((height + 6, width + 10, 3), EDGE, np.uint8)
    return whole, whole[3:-3, 5:-5]


def exact(source, factor):
    """Integer sums; halves go up in squares of 2, to even in larger ones."""
    height, width = source.shape[0] // factor, source.shape[1] // factor
    sums = source.reshape(height, factor, width, factor, 3).sum((1, 3), dtype=np.int64)
    if factor == 2:
        return ((sums + 2) // 4).astype(np.uint8)
    return np.rint(sums / factor**2).astype(np.uint8)


@given(
    factor=st.sampled_from(FACTORS),
    width=st.integers(1, 70),
    height=st.integers(1, 9),
    most=st.sampled_from([1, 3, 255]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=150)
def test_it_is_the_rounded_mean_and_writes_nothing_else(factor, width, height, most, seed):
    rng = np.random.default_rng(seed)
    wide, source = framed(height * factor, width * factor)
    source[...] = rng.integers(0, most + 1, source.shape)
    whole, out = framed(height, width)
    shrink(source, factor, out)
    assert (out == exact(source, factor)).all()
    again = cv2.resize(source, (width, height), interpolation=cv2.INTER_AREA)
    assert (out == again).all()
    frame = np.ones(whole.shape, bool)
    frame[3:-3, 5:-5] = False
    assert (whole[frame] == EDGE).all()
    assert wide.size > source.size


@pytest.mark.parametrize("factor", FACTORS)
def test_every_sum_is_rounded_alike(factor):
    """All sums from 0 to the largest, as one pixel of many grey levels and the rest of them."""
    sums = np.arange(255 * factor**2 + 1)
    squares = np.zeros((len(sums), factor**2), np.uint8)
    for place in range(factor**2):
        squares[:, place] = np.clip(sums - 255 * place, 0, 255)
    source = squares.reshape(-1, factor, factor).transpose(1, 0, 2).reshape(factor, -1)
    source = np.repeat(source[:, :, None], 3, 2).copy()
    out = np.empty((1, len(sums), 3), np.uint8)
    shrink(source, factor, out)
    assert (out == exact(source, factor)).all()


def test_it_compiles_here_and_is_used(monkeypatch):
    for factor in FACTORS:
        assert mean_kernel(factor) is not None

    def unwanted(*_, **__):
        raise AssertionError("OpenCV was asked")

    monkeypatch.setattr(resample.cv2, "resize", unwanted)
    shrink(np.zeros((64, 64, 3), np.uint8), 2, np.empty((32, 32, 3), np.uint8))
    with pytest.raises(AssertionError):
        shrink(np.zeros((6, 6, 3), np.uint8), 2, np.empty((3, 3, 3), np.uint8))


def test_little_is_left_to_opencv(monkeypatch):
    monkeypatch.setattr(resample, "_by_opencv", Effort(2 * 64**2))
    seen = []
    monkeypatch.setattr(resample, "mean_kernel", lambda factor: seen.append(factor))
    for number in range(4):
        shrink(np.zeros((64, 64, 3), np.uint8), 2, np.empty((32, 32, 3), np.uint8))
        assert len(seen) == max(0, number - 1)


def test_no_row_writes_nothing(monkeypatch):
    asked = []
    monkeypatch.setattr(resample.cv2, "resize", lambda *_, dst, **__: asked.append(dst) or dst)
    whole, _ = framed(4, 32)
    shrink(np.zeros((0, 64, 3), np.uint8), 2, whole[:0, :32])
    assert len(asked) == 1
    assert (whole == EDGE).all()


def test_opencv_steps_in_where_llvm_cannot(monkeypatch):
    monkeypatch.setattr(module, "_code", lambda factor: f"no code for {factor}")
    module._kernel.cache_clear()
    try:
        assert mean_kernel(2) is None
        source = np.random.default_rng(4).integers(0, 256, (64, 96, 3), np.uint8)
        out = np.empty((32, 48, 3), np.uint8)
        shrink(source, 2, out)
    finally:
        module._kernel.cache_clear()
    assert (out == exact(source, 2)).all()


@pytest.mark.parametrize("factor", FACTORS)
def test_rows_may_lie_anywhere(factor):
    """Upside down, and every other row of a wider image."""
    side = LEAST_PX * 2
    image = np.random.default_rng(8).integers(0, 256, (2 * side * factor, 99 * factor, 3), np.uint8)
    for source in (image[::-2, 3 : 3 + side * factor], image[1::2, : side * factor]):
        out = np.empty((side, side, 3), np.uint8)
        shrink(source, factor, out)
        assert (out == exact(np.ascontiguousarray(source), factor)).all()
