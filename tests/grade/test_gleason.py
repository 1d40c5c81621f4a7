"""Gleason readings against cases worked by hand, and the properties the rule must keep."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsikd.core.errors import ConfigError
from wsikd.grade.gleason import grade_group, grade_slide, patterns_of

CLASSES = ("NC", "G3", "G4", "G5")
AREAS = st.integers(0, 1000).map(float)


def read(areas, specimen="biopsy", min_area_mm2=0.0, classes=CLASSES):
    return grade_slide(areas, classes, specimen=specimen, min_area_mm2=min_area_mm2)


def triple(reading):
    return reading and (reading.primary, reading.secondary, reading.minor)


@pytest.mark.parametrize(
    ("primary", "secondary", "group"),
    [
        (2, 3, 1),
        (3, 3, 1),
        (3, 4, 2),
        (4, 3, 3),
        (2, 5, 2),
        (5, 2, 3),
        (4, 4, 4),
        (3, 5, 4),
        (5, 3, 4),
        (4, 5, 5),
        (5, 4, 5),
        (5, 5, 5),
    ],
)
def test_grade_groups_of_epstein_2016(primary, secondary, group):
    assert grade_group(primary, secondary) == group


@pytest.mark.parametrize("patterns", [(0, 3), (3, 6), (-1, 3)])
def test_no_such_pattern(patterns):
    with pytest.raises(ValueError, match="1 to 5"):
        grade_group(*patterns)


def test_grade_group_rises_with_either_pattern():
    for primary in range(1, 6):
        groups = [grade_group(primary, second) for second in range(1, 6)]
        assert groups == sorted(groups)
        groups = [grade_group(first, primary) for first in range(1, 6)]
        assert groups == sorted(groups)


@pytest.mark.parametrize(
    ("classes", "patterns"),
    [
        (("NC", "G3", "G4", "G5"), {1: 3, 2: 4, 3: 5}),
        (("benign", "Gleason 3", "Gleason 4"), {1: 3, 2: 4}),
        (("GLEASON_5", "gp3", "Normal", "stroma"), {0: 5, 1: 3}),
        (("non-cancer", "Gleason pattern 4"), {1: 4}),
        (("0", "g3"), {1: 3}),
        (("G3", "GP3"), {0: 3, 1: 3}),
        (("NC", "benign"), None),
        (("NC", "G3", "necrosis"), None),
        (("Viable", "Non-Tumor"), None),
        (("NC", "G2", "G3"), None),
        (("NC", "G34"), None),
        ((), None),
    ],
)
def test_which_classes_are_patterns(classes, patterns):
    assert patterns_of(classes) == patterns


@pytest.mark.parametrize(
    ("areas", "biopsy", "prostatectomy"),
    [
        # NC, G3, G4, G5 in mm2
        ((9, 0, 0, 0), None, None),
        ((9, 8, 0, 0), (3, 3, None), (3, 3, None)),
        ((0, 0, 8, 0), (4, 4, None), (4, 4, None)),
        ((0, 0, 0, 8), (5, 5, None), (5, 5, None)),
        ((0, 60, 40, 0), (3, 4, None), (3, 4, None)),
        ((0, 40, 60, 0), (4, 3, None), (4, 3, None)),
        ((0, 60, 0, 40), (3, 5, None), (3, 5, None)),
        ((0, 40, 0, 60), (5, 3, None), (5, 3, None)),
        ((0, 0, 60, 40), (4, 5, None), (4, 5, None)),
        ((0, 0, 40, 60), (5, 4, None), (5, 4, None)),
        # three patterns: the highest remaining, or the next in extent
        ((0, 50, 30, 20), (3, 5, None), (3, 4, 5)),
        ((0, 50, 20, 30), (3, 5, None), (3, 5, None)),
        ((0, 30, 50, 20), (4, 5, None), (4, 3, 5)),
        ((0, 20, 50, 30), (4, 5, None), (4, 5, None)),
        ((0, 30, 20, 50), (5, 4, None), (5, 3, None)),
        ((0, 20, 30, 50), (5, 4, None), (5, 4, None)),
        # a higher pattern of at most 5 % is minor, even as the only second
        ((0, 96, 4, 0), (3, 4, None), (3, 3, 4)),
        ((0, 95, 5, 0), (3, 4, None), (3, 3, 4)),
        ((0, 94.9, 5.1, 0), (3, 4, None), (3, 4, None)),
        ((0, 0, 96, 4), (4, 5, None), (4, 4, 5)),
        ((0, 60, 36, 4), (3, 5, None), (3, 4, 5)),
        ((0, 92, 4, 4), (3, 5, None), (3, 3, 5)),
        ((0, 3, 93, 4), (4, 5, None), (4, 3, 5)),
        ((0, 60, 4, 36), (3, 5, None), (3, 5, None)),
        # a lower pattern counts, however small
        ((0, 4, 96, 0), (4, 3, None), (4, 3, None)),
        ((0, 1, 3, 96), (5, 4, None), (5, 4, None)),
        # equal extent: the higher first
        ((0, 50, 50, 0), (4, 3, None), (4, 3, None)),
        ((0, 50, 0, 50), (5, 3, None), (5, 3, None)),
        ((0, 30, 30, 30), (5, 4, None), (5, 4, None)),
        ((0, 60, 20, 20), (3, 5, None), (3, 5, None)),
        ((0, 40, 40, 20), (4, 5, None), (4, 3, 5)),
    ],
)
def test_patterns_of_a_slide(areas, biopsy, prostatectomy):
    assert triple(read(areas)) == biopsy
    assert triple(read(areas, "prostatectomy")) == prostatectomy


@pytest.mark.parametrize(
    ("min_area", "expected"),
    [(0, (3, 5, None)), (0.3, (3, 5, None)), (0.31, (3, 4, None)), (2, (3, 3, None)), (11, None)],
)
def test_a_pattern_counts_from_the_least_area_on(min_area, expected):
    stray = 0.1 + 0.1 + 0.1  # a little above 0.3 in floats, as areas of cells are
    assert triple(read((5, 10, 1, stray), min_area_mm2=min_area)) == expected
    assert triple(read((5, 10, 1, 0.3 - 1e-12), min_area_mm2=min_area)) == expected


def test_text():
    assert read((0, 60, 40, 0)).text == "3+4=7 (grade group 2)"
    assert read((0, 96, 4, 0), "prostatectomy").text == "3+3=6 (grade group 1), minor pattern 4"


def test_classes_in_any_order_and_pattern_named_twice():
    reading = read((30, 10, 25, 25), classes=("GP5", "benign", "Gleason 3", "g3"))
    assert triple(reading) == (3, 5, None)


@pytest.mark.parametrize(
    ("areas", "classes", "specimen", "error"),
    [
        ((1, 2), ("NC", "G3"), "autopsy", ConfigError),
        ((1, 2), ("NC", "tumour"), "biopsy", ConfigError),
        ((1, float("nan")), ("NC", "G3"), "biopsy", ValueError),
        ((1, -2), ("NC", "G3"), "biopsy", ValueError),
        ((1,), ("NC", "G3"), "biopsy", ValueError),
    ],
)
def test_nonsense_is_refused(areas, classes, specimen, error):
    with pytest.raises(error):
        read(areas, specimen, classes=classes)


@given(st.tuples(AREAS, AREAS, AREAS, AREAS), st.integers(0, 400), st.permutations(range(4)))
def test_reading_depends_on_proportions_and_not_on_order(areas, min_area, order):
    for specimen in ("biopsy", "prostatectomy"):
        reading = read(areas, specimen, min_area)
        assert read([8 * a for a in areas], specimen, 8 * min_area) == reading
        moved = [areas[i] for i in order], specimen, min_area, [CLASSES[i] for i in order]
        assert read(*moved) == reading


@given(st.tuples(AREAS, AREAS, AREAS, AREAS), st.integers(0, 400))
def test_reading_keeps_what_the_rules_promise(areas, min_area):
    extent = {p: a for p, a in zip((3, 4, 5), areas[1:], strict=True) if a and a >= min_area}
    biopsy, whole = read(areas, "biopsy", min_area), read(areas, "prostatectomy", min_area)
    if not extent:
        assert biopsy is None
        assert whole is None
        return
    assert biopsy.primary == whole.primary
    assert {biopsy.primary, biopsy.secondary, whole.secondary} <= set(extent)
    assert extent[biopsy.primary] == max(extent.values())
    assert max(biopsy.primary, biopsy.secondary) == max(extent)
    assert whole.score <= biopsy.score
    if whole.minor:
        assert whole.minor == max(extent) > max(whole.primary, whole.secondary)
    if whole.secondary > whole.primary:
        assert extent[whole.secondary] * 20 > sum(extent.values())


@given(AREAS, AREAS, st.floats(0, 1), st.sampled_from([(1, 2), (2, 3), (1, 3)]))
def test_of_two_patterns_more_of_the_higher_never_lowers_the_group(low, high, part, places):
    before, after = [0.0] * 4, [0.0] * 4
    moved = float(int(low * part))
    before[places[0]], before[places[1]] = low, high
    after[places[0]], after[places[1]] = low - moved, high + moved
    for specimen in ("biopsy", "prostatectomy"):
        first, second = read(before, specimen), read(after, specimen)
        assert (first is None) == (second is None)
        assert first is None or first.grade_group <= second.grade_group
