"""Rows of ``summary.csv`` against maps worked by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsikd.core.errors import ConfigError
from wsikd.grade.gleason_rules import Rules
from wsikd.grade.grademap import GradeMap
from wsikd.grade.score_text import score_text
from wsikd.grade.summary import class_areas, summarise
from wsikd.grade.verdict import UNLIKE
from wsikd.slides.base import Mpp, SlideInfo

CLASSES = ("NC", "G3", "G4", "G5")


def grade_map(grades, tissue, classes):
    grades = np.asarray(grades)
    valid = grades >= 0
    probability = np.full((len(classes), *grades.shape), 0.1 / (len(classes) - 1), np.float32)
    np.put_along_axis(probability, np.maximum(grades, 0)[None], np.float32(0.9), 0)
    probability[:, ~valid] = np.nan
    size = (4000, 3000)
    info = SlideInfo(
        name="s01",
        file="s01.svs",
        fingerprint="f",
        vendor="aperio",
        reader="openslide",
        dimensions=size,
        level_dimensions=(size,),
        level_downsamples=((1.0, 1.0),),
        mpp=Mpp(0.5, 0.5, "test"),
        objective_power=20,
        bounds=(0, 0, *size),
        background=(255, 255, 255),
    )
    return GradeMap(
        probability_khw=probability,
        valid_hw=valid,
        tissue_hw=np.asarray(tissue, np.float32),
        mpp=500.0,
        origin_xy=(0.0, 0.0),
        cell_px=(1000.0, 1000.0),
        classes=classes,
        slide=info,
        seconds={"read": 1.5, "forward": 2.0},
    )


GRADES = [[0, 1, 1, -1], [0, 1, 2, 2]]
TISSUE = [[0.5, 1, 1, 1], [0.25, 0.5, 1, 1]]


def test_summary_row():
    made = grade_map(GRADES, TISSUE, CLASSES)
    row = summarise(made, Rules("biopsy", 0.25))
    assert list(row) == [
        *("slide", "tissue_mm2", "NC_mm2", "NC_share", "G3_mm2", "G3_share"),
        *("G4_mm2", "G4_share", "G5_mm2", "G5_share"),
        *("primary", "secondary", "minor", "gleason_score", "isup_grade_group"),
        *("grade_status", "cancer_mm2", "cancer_least_mm2"),
        *("pattern_4_of_cancer", "pattern_5_of_cancer"),
        *("cancer_expected", "mean_uncertainty", "fields", "seconds"),
    ]
    # cells of 0.25 mm2: NC 0.75, G3 2.5, G4 2 cells of tissue
    assert row["tissue_mm2"] == pytest.approx(5.25 * 0.25)
    assert row["NC_mm2"] == pytest.approx(0.75 * 0.25)
    assert row["G3_share"] == pytest.approx(2.5 / 5.25)
    assert row["G5_mm2"] == row["G5_share"] == 0
    assert (row["gleason_score"], row["isup_grade_group"]) == ("3+4=7", 2)
    assert (row["primary"], row["secondary"], row["minor"]) == (3, 4, None)
    assert (row["grade_status"], row["cancer_least_mm2"]) == ("graded", 0.25)
    assert row["cancer_mm2"] == pytest.approx(4.5 * 0.25)
    assert row["pattern_4_of_cancer"] == pytest.approx(2 / 4.5)
    assert row["pattern_5_of_cancer"] == 0
    entropy = -(0.9 * np.log(0.9) + 3 * (0.1 / 3) * np.log(0.1 / 3)) / np.log(4)
    assert row["mean_uncertainty"] == pytest.approx(entropy, abs=1e-6)
    assert (row["slide"], row["fields"], row["seconds"]) == ("s01", 7, 3.5)


def test_summary_without_enough_cancer_says_how_much_there_is():
    row = summarise(grade_map(GRADES, TISSUE, CLASSES), Rules("biopsy", 1.2))
    assert row["grade_status"] == "no cancer above threshold"
    assert score_text(row) == "no cancer above the threshold; 1.12 mm2 below it"
    gleason = ("primary", "secondary", "minor", "gleason_score", "isup_grade_group")
    assert [row[name] for name in gleason] == [None] * 5


def test_summary_of_other_classes_has_no_gleason_columns():
    made = grade_map(GRADES, TISSUE, ("Viable", "Non-Viable", "Ü"))
    row = summarise(made, Rules("biopsy", 0))
    assert "primary" not in row
    assert "isup_grade_group" not in row
    assert row["Ü_mm2"] == pytest.approx(0.5)
    with pytest.raises(ConfigError, match="autopsy"):
        summarise(made, Rules("autopsy", 0))


def test_summary_of_a_slide_where_nothing_was_read():
    row = summarise(grade_map([[-1, -1]], [[0, 1]], CLASSES), Rules("prostatectomy", 0))
    assert row["tissue_mm2"] == row["fields"] == 0
    assert row["G3_share"] is row["mean_uncertainty"] is row["gleason_score"] is None


def test_a_slide_can_be_withheld():
    limits = {4: (0.2, 0.5)}
    made = grade_map(GRADES, TISSUE, CLASSES)
    row = summarise(made, Rules(), withheld=UNLIKE, of_cancer=limits)
    assert row["isup_grade_group"] is row["gleason_score"] is row["pattern_4_of_cancer"] is None
    assert row["pattern_4_of_cancer_low"] is None
    assert row["cancer_mm2"] > 0
    assert score_text(row) == "grade withheld: the slide differs from the training data"
    row = summarise(made, Rules(), of_cancer=limits)
    assert (row["pattern_4_of_cancer_low"], row["pattern_4_of_cancer_high"]) == limits[4]
    assert "pattern_5_of_cancer_low" not in row


@given(st.lists(st.tuples(st.integers(-1, 3), st.floats(0, 1)), min_size=1, max_size=30))
def test_class_areas_equal_a_plain_loop(cells):
    made = grade_map([[g for g, _ in cells]], [[t for _, t in cells]], CLASSES)
    expected = [0.0] * 4
    for grade, tissue in cells:
        if grade >= 0:
            expected[grade] += 0.25 * tissue
    assert class_areas(made) == pytest.approx(expected, abs=1e-6)
