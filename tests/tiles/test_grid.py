import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.slides.pixels import MemorySlide
from tests.slides.resample.test_area import slow_sums
from wsikd.core.errors import ConfigError
from wsikd.slides.tissue.find import TissueMask
from wsikd.tiles.grid import TileGrid, patch_sizes

slide_mpps = st.one_of(
    st.sampled_from([0.2527, 0.499, 0.5, 0.25, 0.1213]), st.floats(0.1, 1.0, allow_nan=False)
)
lengths = st.integers(1, 9000)


@st.composite
def grids(draw, stride_up_to_patch=True):
    patch = draw(st.sampled_from([32, 64, 100, 224, 256, 512]))
    stride = draw(st.integers(16, patch if stride_up_to_patch else 2 * patch))
    own = (draw(slide_mpps), draw(slide_mpps))
    bounds = (draw(st.integers(0, 999)), draw(st.integers(0, 999)), draw(lengths), draw(lengths))
    mpp = draw(st.sampled_from([1.0, 0.5, 4.0, 1.37]))
    return bounds, own, TileGrid.over(bounds, own, mpp=mpp, patch_px=patch, stride_px=stride)


def all_boxes(grid):
    rows, columns = np.mgrid[: grid.rows, : grid.columns].reshape(2, -1)
    return rows, columns, grid.boxes(rows, columns)


@given(grids())
def test_every_scanned_pixel_lies_in_a_field(drawn):
    (x, y, width, height), _, grid = drawn
    _, _, boxes = all_boxes(grid)
    for axis, first, length in ((0, x, width), (1, y, height)):
        starts = np.unique(boxes[:, axis])
        ends = starts + boxes[0, 2 + axis]
        assert starts[0] == first
        assert ends[-1] >= first + length - 1e-6
        assert (starts[1:] <= ends[:-1] + 1e-6).all()
        # No field lies wholly outside.
        assert len(starts) == 1 or ends[-2] < first + length


@given(grids(stride_up_to_patch=False))
def test_field_k_starts_at_k_steps(drawn):
    (x, y, *_), own, grid = drawn
    rows, columns, boxes = all_boxes(grid)
    step = [grid.stride_px * grid.mpp / m for m in own]
    np.testing.assert_allclose(boxes[:, 0], x + columns * step[0], rtol=1e-12)
    np.testing.assert_allclose(boxes[:, 1], y + rows * step[1], rtol=1e-12)
    size = np.array([[grid.patch_px * grid.mpp / m for m in own]])
    np.testing.assert_allclose(boxes[:, 2:], np.broadcast_to(size, (len(rows), 2)), rtol=1e-12)
    assert boxes.dtype == np.float64


@given(own=slide_mpps, width=lengths, height=lengths, patch=st.sampled_from([64, 256, 512]))
def test_fields_do_not_overlap_at_stride_equal_to_patch(own, width, height, patch):
    grid = TileGrid.over((0, 0, width, height), (own, own), mpp=1.0, patch_px=patch)
    _, _, boxes = all_boxes(grid)
    starts = np.unique(boxes[:, 0])
    np.testing.assert_allclose(np.diff(starts), grid.field_px[0], rtol=1e-9)
    area = boxes[:, 2] @ boxes[:, 3]
    whole = grid.columns * grid.field_px[0] * grid.rows * grid.field_px[1]
    assert area == pytest.approx(whole)


@given(
    own=st.tuples(slide_mpps, slide_mpps),
    width=lengths,
    height=lengths,
    patch=st.sampled_from([128, 256, 512]),
    overlap=st.sampled_from([1, 2, 4]),
    ratio=st.sampled_from([2, 4]),
)
def test_magnifications_share_their_fields(own, width, height, patch, overlap, ratio):
    sizes = patch_sizes([1.0, float(ratio)], patch, patch // overlap)
    high, low = (
        TileGrid.over((5, 7, width, height), own, mpp=mpp, patch_px=p, stride_px=s)
        for mpp, (p, s) in zip((1.0, float(ratio)), sizes, strict=True)
    )
    assert (high.rows, high.columns) == (low.rows, low.columns)
    np.testing.assert_array_equal(all_boxes(high)[2], all_boxes(low)[2])


def test_a_slide_as_large_as_its_fields_has_no_more():
    # 4 * 256 px at 1 um/px is exactly 2048 level-0 px at 0.5.
    grid = TileGrid.over((0, 0, 2048, 2049), (0.5, 0.5), mpp=1.0, patch_px=256)
    assert (grid.columns, grid.rows) == (4, 5)
    tiny = TileGrid.over((0, 0, 3, 1), (0.5, 0.5), mpp=1.0, patch_px=256)
    assert (tiny.columns, tiny.rows) == (1, 1)


def test_a_grid_lies_over_the_bounds_of_a_slide():
    slide = MemorySlide(np.zeros((300, 500, 3), np.uint8), mpp=(0.25, 0.5), bounds=(9, 8, 400, 200))
    grid = TileGrid.plan(slide, 1.0, 25)
    assert grid == TileGrid.over((9, 8, 400, 200), (0.25, 0.5), mpp=1.0, patch_px=25)
    assert (grid.origin_xy, grid.field_px, grid.columns, grid.rows) == ((9, 8), (100, 50), 4, 4)


@given(
    patch=st.sampled_from([6, 10, 16]),
    stride=st.sampled_from([2, 3, 4, 6, 10, 16, 20]),
    own=st.sampled_from([0.5, 0.499, 0.2527]),
    seed=st.integers(0, 999),
)
def test_cover_is_the_tissue_in_each_field(patch, stride, own, seed):
    rng = np.random.default_rng(seed)
    bounds = (13, 21, 90, 70)
    grid = TileGrid.over(bounds, (own, own), mpp=1.0, patch_px=patch, stride_px=stride)
    tissue = TissueMask(rng.random((10, 12)) < 0.6, 4.0, (13.0, 21.0), (4 / own, 4 / own), "test")
    got = grid.cover(tissue)
    _, _, boxes = all_boxes(grid)
    for share, (x, y, w, h) in zip(got.ravel(), boxes, strict=True):
        corner = ((x - 13) * own / 4, (y - 21) * own / 4)
        factor = (w * own / 4, h * own / 4)
        exact = slow_sums(tissue.mask, corner, factor, (1, 1))[0, 0] / (factor[0] * factor[1])
        assert share == pytest.approx(exact, abs=1e-5)


@pytest.mark.parametrize(
    ("mpp", "patch", "stride", "name"),
    [
        (0.0, 256, None, "--mpp"),
        (-1.0, 256, None, "--mpp"),
        (1.0, 0, None, "--patch-size"),
        (1.0, 256, -4, "--stride"),
    ],
)
def test_sizes_must_be_positive(mpp, patch, stride, name):
    with pytest.raises(ConfigError, match=f"^{name}: .* not positive"):
        TileGrid.over((0, 0, 9, 9), (0.5, 0.5), mpp=mpp, patch_px=patch, stride_px=stride)


def test_patch_sizes():
    assert patch_sizes([1.0, 4.0], 512, 512) == [(512, 512), (128, 128)]
    assert patch_sizes([0.25, 0.5, 1.0, 4.0], 256, 128) == [
        (256, 128),
        (128, 64),
        (64, 32),
        (16, 8),
    ]
    assert patch_sizes([0.4, 1.0], 250, 5) == [(250, 5), (100, 2)]
    assert patch_sizes([1.0], 7, 3) == [(7, 3)]


@pytest.mark.parametrize(
    ("mpps", "patch", "stride", "multiple"),
    [([1.0, 4.0], 510, 510, 4), ([1.0, 4.0], 512, 255, 4), ([1.0, 4.0], 2, 2, 4)],
)
def test_patches_that_are_not_whole(mpps, patch, stride, multiple):
    with pytest.raises(ConfigError) as caught:
        patch_sizes(mpps, patch, stride)
    assert str(caught.value).startswith(f"--patch-size: {patch} px (stride {stride}) at 1 um/px is")
    assert str(caught.value).endswith(f"give multiples of {multiple}")


@given(mpp=st.sampled_from([1.5, 2.5, 1.6, 3.0]), patch=st.integers(16, 600))
def test_the_remedy_for_a_patch_size_works(mpp, patch):
    try:
        patch_sizes([1.0, mpp], patch, patch)
    except ConfigError as error:
        multiple = int(error.remedy.rpartition(" ")[2])
        sizes = patch_sizes([1.0, mpp], math.ceil(patch / multiple) * multiple, multiple)
        assert len(sizes) == 2
