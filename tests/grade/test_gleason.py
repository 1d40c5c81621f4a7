"""Gleason readings against cases worked by hand, and the properties the rule must keep."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsikd.core.errors import ConfigError
from wsikd.grade.gleason import grade_group, grade_slide, patterns_of
from wsikd.grade.gleason_rules import Rules

CLASSES = ("NC", "G3", "G4", "G5")
AREAS = st.integers(0, 1000).map(float)


def read(areas, specimen="biopsy", min_area_mm2=0.0, classes=CLASSES):
    return grade_slide(areas, classes, Rules(specimen, min_area_mm2))


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
    ("share", "expected"), [(0, (3, 5, None)), (0.02, (3, 4, None)), (0.2, (3, 3, None))]
)
def test_a_pattern_counts_from_its_least_share_on(share, expected):
    rules = Rules(min_pattern=share)
    assert triple(grade_slide((5, 100, 12, 1), CLASSES, rules)) == expected
    rules = Rules(min_pattern=0.1 / (0.1 + 0.2 + 9.7))  # sums of areas are rounded
    assert triple(grade_slide((0, 9.7, 0.2, 0.1), CLASSES, rules)) == (3, 5, None)
    assert triple(grade_slide((0, 1, 1.2, 1.1), CLASSES, Rules(min_pattern=1))) == (4, 4, None)


@pytest.mark.parametrize("specimen", ["biopsy", "prostatectomy"])
def test_the_least_area_is_asked_of_all_patterns_together(specimen):
    assert read((50, 4, 3, 2), specimen, 4.46).score == 8
    assert read((50, 0.1, 0.1, 0.1), specimen, 0.3) is not None  # 0.30000000000000004
    assert read((50, 0.1, 0.1, 0.0999), specimen, 0.3) is None
    assert read((50, 0, 0, 0), specimen, 0) is None


def test_text():
    assert read((0, 60, 40, 0)).text == "3+4=7 (grade group 2)"
    told = read((0, 60, 36, 4), "prostatectomy").text
    assert told == "3+4=7 (grade group 2), minor pattern 5"


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


@given(
    st.tuples(AREAS, AREAS, AREAS, AREAS),
    st.integers(0, 400),
    st.sampled_from(["secondary", "minor"]),
    st.sampled_from(["secondary", "minor"]),
)
def test_reading_keeps_what_the_rules_promise(areas, min_area, four, five):
    extent = {p: a for p, a in zip((3, 4, 5), areas[1:], strict=True) if a}
    cancer = sum(extent.values())
    biopsy = read(areas, "biopsy", min_area)
    rules = Rules("prostatectomy", min_area, minor_4=four, minor_5=five)
    whole = grade_slide(areas, CLASSES, rules)
    assert (biopsy is None) == (whole is None) == (not cancer or cancer < min_area)
    if biopsy is None:
        return
    assert biopsy.primary == whole.primary
    assert {biopsy.primary, biopsy.secondary, whole.secondary} <= set(extent)
    assert extent[biopsy.primary] == max(extent.values())
    assert max(biopsy.primary, biopsy.secondary) == max(extent)
    assert whole.score <= biopsy.score
    large = {p for p, a in extent.items() if a * 20 >= cancer}
    assert {whole.primary, whole.secondary} <= large or whole.secondary > whole.primary
    if 5 in large:
        assert 5 in (whole.primary, whole.secondary)
    if whole.minor:
        assert whole.minor not in large
        assert whole.minor == max(extent) > max(whole.primary, whole.secondary)
        assert whole.grade_group in (2, 3) or "minor" in (four, five)


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
