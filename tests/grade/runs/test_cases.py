"""Slides of one patient together."""

import csv
import json

import pytest

from wsikd.core.errors import OutputError
from wsikd.grade.reports.folder_report import write_results_report
from wsikd.grade.runs.cases import find_cases
from wsikd.grade.runs.record import ResultRecord
from wsikd.grade.runs.summary_file import Summary, check_summary

CLASSES = ("NC", "G3", "G4", "G5")


def record(slide, areas, *, cores=None, specimen="biopsy", status="graded", **row):
    from wsikd.grade.gleason_rules import Rules
    from wsikd.grade.summary import score_columns
    from wsikd.grade.verdict import conclude

    rules = Rules(specimen, 0.5)
    columns = {"slide": slide, "tissue_mm2": float(sum(areas))}
    for name, area in zip(CLASSES, areas, strict=True):
        columns |= {f"{name}_mm2": float(area), f"{name}_share": area / sum(areas)}
    verdict = conclude(areas, CLASSES, rules)
    columns |= score_columns(verdict.withheld(status) if status != "graded" else verdict)
    return ResultRecord(
        summary=columns | {"fields": 3} | row, made_with=rules.record(), cores=cores
    )


def test_global_and_worst_score_of_a_case():
    records = [
        record("a", (10, 8, 0, 0), patient="P1"),
        record("b", (10, 0, 1, 0), patient="P1", worst_core_score="4+4=8", worst_core=2,
               worst_core_grade_group=4),
        record("c", (10, 0, 0, 0.3), patient="P1"),  # not graded: below 0.5 mm2
        record("d", (10, 0, 0, 0), patient="P2"),
        record("e", (10, 0, 0, 4)),
    ]  # fmt: skip
    one, two = find_cases(records, {})
    assert (one["patient"], one["slides"]) == ("P1", 3)
    assert (one["gleason_score"], one["isup_grade_group"]) == ("3+4=7", 2)  # 8 of G3, 1 of G4
    assert one["pattern_4_of_cancer"] == pytest.approx(1 / 9)
    assert one["cancer_mm2"] == pytest.approx(9.3)
    worst = [one[f"worst_{k}"] for k in ("slide", "core", "score", "grade_group")]
    assert worst == ["b", 2, "4+4=8", 4]
    assert (two["grade_status"], two["isup_grade_group"]) == ("no cancer above threshold", None)
    assert two["worst_slide"] is None
    assert len(find_cases(records, {"e": "P2"})[1]) == len(two)
    assert find_cases(records, {"e": "P2"})[1]["gleason_score"] == "5+5=10"


def test_a_case_of_one_slide_has_the_score_of_the_slide():
    for specimen in ("biopsy", "prostatectomy"):
        own = record("a", (10, 30, 60, 10), specimen=specimen)
        (case,) = find_cases([own], {"a": "P"})
        for key in ("gleason_score", "isup_grade_group", "minor", "grade_status", "cancer_mm2"):
            assert case[key] == own.summary[key]
        assert case["worst_score"] == own.summary["gleason_score"]


def test_withheld_slides_and_old_ones():
    status = "withheld: unlike training"
    withheld = record("a", (1, 2, 0, 0), status=status)
    (case,) = find_cases([withheld], {"a": "P"})
    assert (case["grade_status"], case["gleason_score"]) == (status, None)
    old = ResultRecord(
        summary={"slide": "o", "G4_mm2": 3.0, "G4_share": 1.0, "gleason_score": "4+4=8",
                 "isup_grade_group": 4},
        made_with={"specimen": "biopsy", "min_area_mm2": 1.0},
    )  # fmt: skip
    (case,) = find_cases([withheld, old], {"a": "P", "o": "P"})
    assert (case["gleason_score"], case["worst_grade_group"]) == ("4+4=8", 4)
    assert find_cases([ResultRecord(summary={"slide": "x", "patient": "P"})], {}) == []


def test_tables_are_written_read_and_never_others(tmp_path):
    core = {"core": 1, "x": 0.0, "tissue_mm2": 4.5, "gleason_score": "3+4=7"}
    for name, patient in (("a", "P1"), ("b", "P1"), ("c", None)):
        folder = tmp_path / name
        folder.mkdir()
        more = {"patient": patient} if patient else {}
        made = record(name, (10, 8, 3, 0), cores=[core, core | {"core": 2}], **more)
        (folder / "result.json").write_text(json.dumps(made.record()))
    Summary(tmp_path).write()
    with (tmp_path / "cases.csv").open(newline="") as stream:
        (case,) = csv.DictReader(stream)
    assert (case["patient"], case["slides"], case["gleason_score"]) == ("P1", "2", "3+4=7")
    assert "Cribriform and intraductal growth are not assessed." in case["note"]
    with (tmp_path / "cores.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert [(line["slide"], line["core"]) for line in lines] == [
        (name, number) for name in "abc" for number in "12"
    ]
    html = write_results_report(tmp_path)[0].read_text("utf-8")
    assert "<h2>Cases</h2>" in html
    assert "2 cores" in html
    check_summary(tmp_path)
    (tmp_path / "cases.csv").write_text("mine\n1\n")
    with pytest.raises(OutputError, match=r"cases\.csv"):
        check_summary(tmp_path)
