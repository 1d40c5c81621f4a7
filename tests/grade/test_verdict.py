"""Whether there is cancer: what must never happen, whatever the thresholds."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.grade.maps import CLASSES, map_of
from wsikd.core.errors import ConfigError
from wsikd.grade.gleason_rules import Rules
from wsikd.grade.score_text import score_text
from wsikd.grade.student_rules import Asked, rules_for
from wsikd.grade.summary import score_columns, summarise, verdict_of
from wsikd.grade.verdict import GRADED, NO_CANCER, UNLIKE, conclude
from wsikd.models.files.card import GraderCard

AREAS = st.floats(0, 50)
SHARES = st.floats(0, 0.5)
RULES = st.builds(
    Rules,
    specimen=st.sampled_from(["biopsy", "prostatectomy"]),
    min_area_mm2=st.floats(0, 5),
    cancer_share=SHARES,
    expected_share=st.none() | SHARES,
    min_pattern=st.floats(0, 1),
    area_cap_mm2=st.none() | st.just(0.5),
)


@given(st.tuples(AREAS, AREAS, AREAS, AREAS), RULES, st.integers(1, 3), st.floats(0, 1))
def test_more_cancer_on_the_same_tissue_never_hides_it(areas, rules, place, part):
    """Benign tissue turns into cancer of any pattern, as it is called and as it is expected."""
    more = list(areas)
    more[0], more[place] = areas[0] * (1 - part), areas[place] + areas[0] * part
    before = conclude(areas, CLASSES, rules, expected=areas)
    after = conclude(more, CLASSES, rules, expected=more)
    assert after.cancer_mm2 >= before.cancer_mm2 - 1e-9
    assert after.status == GRADED or before.status == NO_CANCER
    if before.status == GRADED:
        assert after.reading is not None


@given(st.tuples(AREAS, AREAS, AREAS, AREAS), RULES, st.permutations([1, 2, 3]))
def test_how_cancer_is_divided_into_patterns_does_not_matter(areas, rules, order):
    other = [areas[0], *(areas[i] for i in order)]
    merged = [areas[0], sum(areas[1:]), 0.0, 0.0]
    whole = conclude(merged, CLASSES, rules)
    assert conclude(areas, CLASSES, rules).status == whole.status
    assert conclude(other, CLASSES, rules).status == whole.status


@given(st.tuples(AREAS, AREAS, AREAS, AREAS), RULES)
def test_there_is_a_score_or_a_reason(areas, rules):
    found = conclude(areas, CLASSES, rules)
    row = score_columns(found)
    assert (row["isup_grade_group"] is None) == (row["grade_status"] != GRADED)
    text = score_text(row)
    assert text.startswith("Gleason") or "mm2 below it" in text
    cap = 0.5 if rules.area_cap_mm2 else np.inf
    assert found.status == GRADED or found.cancer_mm2 < cap


def test_the_planted_case():
    """4 mm2 of G3, 3 of G4 and 2 of G5 were not cancer at a least area of 4.46 mm2."""
    grades = np.zeros((10, 10), int)
    grades[:2, :] = 1
    grades[2, :] = grades[3, :5] = 2
    grades[4, :] = 3
    made = replace(map_of(grades, mpp=np.sqrt(0.2) * 1000), tissue_hw=np.ones((10, 10), np.float32))
    row = summarise(made, Rules(min_area_mm2=4.46))
    assert [round(row[f"{name}_mm2"], 6) for name in CLASSES[1:]] == [4, 3, 2]
    assert (row["gleason_score"], row["grade_status"]) == ("3+5=8", "graded")
    old = GraderCard.model_construct(min_area_mm2=4.46, cancer=None)
    for specimen in ("biopsy", "prostatectomy"):
        found = verdict_of(made, rules_for(old, Asked(specimen)))
        assert found.reading.sum_text == "3+5=8"
        assert found.least_mm2 == (0.5 if specimen == "biopsy" else 4.46)


def test_cancer_that_no_field_is_called_has_its_expected_area():
    areas, expected = (20, 0, 0, 0), (8, 7.2, 4.5, 0.3)
    rules = Rules(min_area_mm2=0.3, expected_share=0.1)
    found = conclude(areas, CLASSES, rules, expected=expected)
    assert (found.status, found.cancer_mm2, found.expected_mm2) == (GRADED, 0, 12)
    assert found.reading.sum_text == "3+4=7"  # 0.3 of 12 mm2 is not a pattern 5
    assert found.of_cancer[4] == pytest.approx(4.5 / 12)
    assert conclude(areas, CLASSES, rules).status == NO_CANCER
    without = conclude(areas, CLASSES, replace(rules, expected_share=None), expected=expected)
    assert (without.status, without.grade_group) == (NO_CANCER, 0)
    assert without.withheld(UNLIKE).grade_group is None


def card(**shares):
    part = {"called": {"mean": 0.05, "sd": 0.02, "slides": 30}}
    cancer = {"benign": part, "with_cancer": {"called": {"mean": 0.6, "sd": 0.1, "slides": 30}}}
    return GraderCard.model_validate({
        "format": 1, "sha256": "0" * 64, "network": {"arch": "vgg_small"}, "min_area_mm2": 0.26,
        "input": {"mpp": 4.0, "patch_px": 64, "mean": [0.5] * 3, "std": [0.5] * 3,
                  "classes": list(CLASSES)},
        "cancer": cancer | shares,
    })  # fmt: skip


def test_biopsies_are_never_asked_for_more_than_half_a_square_millimetre():
    biopsy, whole = (rules_for(card(), Asked(s)) for s in ("biopsy", "prostatectomy"))
    assert biopsy.least_cancer(1.0) == 0.26
    assert biopsy.least_cancer(40.0) == 0.5
    assert whole.least_cancer(40.0) == 40 * whole.cancer_share > 2
    assert rules_for(card(), Asked(min_area_mm2=3.0)).least_cancer(40.0) == 3
    strict = rules_for(card(), Asked("prostatectomy", sensitivity=1 - 1e-9))
    assert strict.cancer_share <= whole.cancer_share


def test_what_is_not_in_the_card_or_was_asked_for():
    assert rules_for(None, Asked()).min_pattern == 0.05
    wrong = {"mean": 0.01, "sd": 0.001, "slides": 9}
    assert rules_for(card(wrong_pattern=wrong), Asked()).min_pattern < 0.02
    assert rules_for(card(), Asked(min_pattern=0.01)).min_pattern == 0.01
    for asked in (Asked("autopsy"), Asked(minor_4="x"), Asked(minor_5="x")):
        with pytest.raises(ConfigError):
            rules_for(None, asked)


def test_rules_are_read_back_from_a_record():
    rules = Rules("prostatectomy", 0.3, 0.01, 0.02, 0.03, 0.5, "minor", "minor")
    assert Rules.of(rules.record()) == rules
    assert Rules.of({"specimen": "biopsy", "min_area_mm2": 4.46}) == Rules(min_area_mm2=4.46)


def test_old_rows_are_told_as_they_were():
    row = {"gleason_score": "4+4=8", "isup_grade_group": 4, "isup_low": 3, "isup_high": 5}
    assert score_text(row) == "Gleason 4+4=8, grade group 4 (3 to 5)"
    assert score_text(row | {"gleason_score": None}) == "no score"
    assert score_text({"fields": 3}) == ""
