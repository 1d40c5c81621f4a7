"""Pictures colour tissue only: the mask within cells is that of the tissue search."""

from dataclasses import replace

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from tests.grade.maps import square_map, white_slide
from tests.grade.runs.test_results import SPEC, Purple
from wsikd.core.errors import StoreNotFoundError
from wsikd.grade.exports.ome_zarr import read, write
from wsikd.grade.exports.overlay import paint
from wsikd.grade.grademap import DETAIL
from wsikd.grade.predict import PredictSettings, SlidePredictor
from wsikd.grade.reports.thumbnail import view
from wsikd.slides.base import open_slide
from wsikd.slides.tissue.find import TissueMask


@given(st.integers(0, 10**6), st.floats(-40, 40), st.floats(0.3, 9), st.floats(0.5, 7))
def test_a_cell_is_tissue_where_its_centre_is(seed, start, cell, scale):
    mask = np.random.default_rng(seed).integers(0, 2, (9, 13)).astype(bool)
    found = TissueMask(mask, 8.0, (3.0, -2.0), (scale, scale * 1.5), "x").within(
        (start, start), (cell, cell), (7, 5)
    )
    for (row, column), value in np.ndenumerate(found):
        x = np.floor((start + (column + 0.5) * cell - 3.0) / scale)
        y = np.floor((start + (row + 0.5) * cell + 2.0) / (scale * 1.5))
        inside = 0 <= x < 13 and 0 <= y < 9
        assert value == (inside and mask[int(y), int(x)])


def masked():
    grade_map = square_map()
    rows, columns = grade_map.valid_hw.shape
    mask = np.zeros((rows * DETAIL, columns * DETAIL), bool)
    mask[5:20, 7:40] = True
    return replace(grade_map, tissue_mask_hw=mask)


def test_only_tissue_has_colour_and_without_a_mask_every_cell_has():
    slide = white_slide()
    seen = view(slide, slide.info.bounds, 600)
    painted, whole = paint(masked(), seen), paint(square_map(), seen)
    coloured = (painted != seen.rgb).any(2)
    everything = (whole != seen.rgb).any(2)
    assert 0 < coloured.sum() < everything.sum()
    assert not (coloured & ~everything).any()
    shown, parts = masked().shown_hw()
    assert parts == DETAIL
    assert (shown >= 0).sum() == masked().tissue_mask_hw[: 5 * DETAIL].sum()


def test_the_mask_is_kept_with_the_map_and_a_wrong_one_refused(tmp_path):
    grade_map = masked()
    write(grade_map, tmp_path / "grades.zarr")
    back = read(tmp_path / "grades.zarr", grade_map.slide)
    np.testing.assert_array_equal(back.tissue_mask_hw, grade_map.tissue_mask_hw)
    group = zarr.open_group(tmp_path / "grades.zarr", mode="a")
    group.create_array("tissue_mask", data=np.ones((3, 3), np.uint8), overwrite=True)
    with pytest.raises(StoreNotFoundError):
        read(tmp_path / "grades.zarr", grade_map.slide)


def test_a_graded_slide_has_the_mask_of_its_tissue(slide_file):
    predictor = SlidePredictor(Purple(), SPEC, device="cpu", settings=PredictSettings(workers=2))
    with open_slide(slide_file) as slide:
        grade_map = predictor.predict(slide)
    share = grade_map.tissue_mask_hw.reshape(
        grade_map.valid_hw.shape[0], DETAIL, grade_map.valid_hw.shape[1], DETAIL
    ).mean((1, 3))
    assert np.abs(share - grade_map.tissue_hw).max() < 0.2
    assert np.abs(share - grade_map.tissue_hw).mean() < 0.03
