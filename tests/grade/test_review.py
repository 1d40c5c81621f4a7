"""Why a slide's grades need a look."""

import pytest

from wsikd.grade.review import reasons, review_line, reviewed
from wsikd.grade.score_text import score_sentence


@pytest.mark.parametrize(
    ("row", "grave", "words"),
    [
        ({"grade_status": "withheld: unlike training"}, [True], ["not seen tissue like this"]),
        ({"guard_distance": 1.2, "grade_status": "graded"}, [True], ["guard distance 1.2"]),
        ({"guard_distance": 0.99, "grade_status": "graded"}, [], []),
        ({"unlike_training": True}, [True], ["Stain or focus differ from the training slides."]),
        (
            {"unlike_training": True, "farthest_in": "od_share_blue",
             "distance_from_training": 3.21, "isup_low": 1, "isup_high": 5},
            [True, False],
            ["hue of the stain, its part of blue, 3.21 times", "anything from 1 to 5"],
        ),
        ({"isup_low": 3, "isup_high": 4}, [], []),
        ({"isup_low": None, "isup_high": None, "guard_distance": None}, [], []),
    ],
)  # fmt: skip
def test_each_reason_is_named_the_graver_first(row, grave, words):
    found = reasons(row)
    assert [reason.grave for reason in found] == grave
    for reason, part in zip(found, words, strict=True):
        assert part in reason.text


def test_a_row_names_its_reasons_in_few_words():
    wide = {"slide": "s", "isup_low": 0, "isup_high": 2, "guard_distance": 1.1}
    assert reviewed(wide) == {**wide, "review": "unlike training; no cancer to grade group 2"}
    assert reviewed({"slide": "s"}) == {"slide": "s", "review": ""}


def test_the_last_line_of_a_run_names_five_slides_the_graver_first():
    wide = {"isup_low": 1, "isup_high": 4}
    rows = {f"s{n}": wide for n in range(5)} | {"far": {"unlike_training": True}, "good": {}}
    named = ", ".join(f"s{n} (grade group 1 to 4)" for n in range(4))
    assert review_line(rows) == (
        f"6 of 7 slides need a second look: far (unusual stain or focus), {named} and 1 more."
    )
    assert review_line({"good": {}}) == review_line({}) == ""


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({}, ""),
        ({"gleason_score": None, "grade_status": "no cancer above threshold",
          "cancer_mm2": 0.021, "cancer_least_mm2": 0.066},
         "No cancer above the threshold of 0.066 mm2; 0.021 mm2 lie below it."),
        ({"gleason_score": None, "grade_status": "withheld: unlike training"},
         "No grade: the slide differs from the training data."),
        ({"gleason_score": "4+3=7", "isup_grade_group": 3, "minor": 5, "cores": 3,
          "pattern_4_of_cancer": 0.6, "pattern_5_of_cancer": 0.004, "worst_core_score": "4+4=8"},
         ("Likely Gleason 4+3=7, grade group 3. 60 % of the cancer is pattern 4. Below 1 % of the "
          "cancer is pattern 5. Pattern 5 is a minor component. The worst of 3 cores has 4+4=8.")),
    ],
)  # fmt: skip
def test_the_score_as_sentences(row, sentence):
    assert score_sentence(row) == sentence
