"""Pieces of tissue against a slow search, and their scores against those of the slide."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.grade.maps import CELL, ORIGIN, map_of
from wsikd.grade.cores import core_columns, cores, pieces, worst_of
from wsikd.grade.gleason_rules import Rules
from wsikd.grade.score_text import score_text
from wsikd.grade.summary import class_areas, verdict_of
from wsikd.grade.verdict import GRADED, NO_CANCER

MASKS = arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)))
GAPS = st.floats(0, 4)


def slow_pieces(mask, gap):
    """Cells joined one by one wherever their nearest edges are at most ``gap`` apart."""
    cells = [tuple(c) for c in np.argwhere(mask)]
    group = {c: i for i, c in enumerate(cells)}
    for a in cells:
        for b in cells:
            apart = np.hypot(*(max(abs(x - y) - 1, 0) for x, y in zip(a, b, strict=True)))
            if apart <= gap and group[a] != group[b]:
                old, new = group[b], group[a]
                group = {c: new if g == old else g for c, g in group.items()}
    return {frozenset(c for c in cells if group[c] == g) for g in set(group.values())}


@given(MASKS, GAPS)
def test_pieces_equal_a_slow_search(mask, gap):
    found = pieces(mask, gap)
    assert ((found > 0) == mask).all()
    sets = {frozenset(tuple(c) for c in np.argwhere(found == n)) for n in range(1, found.max() + 1)}
    assert sets == slow_pieces(mask, gap)
    firsts = [np.flatnonzero(found == n)[0] for n in range(1, found.max() + 1)]
    assert firsts == sorted(firsts)


@given(MASKS, GAPS, GAPS)
def test_a_wider_gap_only_merges(mask, one, other):
    near, far = (pieces(mask, gap) for gap in sorted((one, other)))
    assert far.max() <= near.max()
    for number in range(1, near.max() + 1):
        assert len(np.unique(far[near == number])) == 1


def strips():
    """Three cores side by side, 2 cells apart: 3+3, 4+4, and one without cancer."""
    grades = np.full((6, 13), -1)
    grades[:, 0:3] = 0
    grades[:3, 0:3] = 1
    grades[:, 5:8] = 0
    grades[:3, 5:8] = 2
    grades[:, 10:13] = 0
    made = map_of(grades, mpp=500.0)
    return replace(made, tissue_hw=np.where(grades >= 0, 1, 0).astype(np.float32))


def test_each_core_has_its_score():
    made = strips()
    found = cores(made, Rules(min_area_mm2=0.3), merge_mm=0.5)
    scores = [c.verdict.reading and c.verdict.reading.sum_text for c in found]
    assert scores == ["3+3=6", "4+4=8", None]
    assert [c.tissue_mm2 for c in found] == [4.5, 4.5, 4.5]
    assert found[1].box == pytest.approx((ORIGIN[0] + 5 * CELL, ORIGIN[1], 3 * CELL, 6 * CELL))
    assert found[2].text == "no cancer above the threshold; 0 mm2 below it"
    assert worst_of(found) is found[1]
    assert core_columns(found) == {
        "cores": 3, "worst_core": 2, "worst_core_score": "4+4=8", "worst_core_grade_group": 4,
    }  # fmt: skip
    whole = verdict_of(made, Rules(min_area_mm2=0.3))
    assert whole.reading.sum_text == "4+3=7"  # of equal extent the higher first
    row = {"gleason_score": "4+3=7", "isup_grade_group": 3} | core_columns(found)
    assert score_text(row) == "Gleason 4+3=7, grade group 3, worst of 3 cores 4+4=8"


@pytest.mark.parametrize(("merge_mm", "count"), [(0, 3), (0.99, 3), (1.0, 1), (5, 1)])
def test_pieces_nearer_than_the_merging_distance_are_one(merge_mm, count):
    assert len(cores(strips(), Rules(), merge_mm=merge_mm)) == count


@given(arrays(np.int64, (6, 9), elements=st.integers(-1, 3)), st.floats(0, 4), st.floats(0, 0.3))
def test_cores_make_up_the_slide(grades, least, share):
    made = map_of(grades, mpp=500.0)
    rules = Rules(min_area_mm2=least, cancer_share=share, expected_share=0.6)
    found, whole = cores(made, rules, merge_mm=0.4), verdict_of(made, rules)
    assert sum(c.tissue_mm2 for c in found) == pytest.approx(class_areas(made).sum())
    assert sum(c.verdict.cancer_mm2 for c in found) == pytest.approx(whole.cancer_mm2)
    if whole.status == NO_CANCER:
        assert worst_of(found) is None
    if len(found) == 1:
        assert found[0].verdict.status == whole.status
        assert found[0].verdict.reading == whole.reading
    assert all(c.verdict.status in (GRADED, NO_CANCER) for c in found)


def test_other_classes_and_empty_slides_have_no_cores():
    assert cores(map_of([[0, 1]], classes=("Viable", "Necrosis")), Rules()) == []
    assert cores(map_of([[-1, -1]]), Rules()) == []
    assert core_columns([])["cores"] == 0
