"""The tables of ``docs/gleason.md`` are cases: the areas must give the score beside them."""

import re
from pathlib import Path

import pytest

from wsikd.grade.gleason import grade_group
from wsikd.grade.gleason_rules import Rules
from wsikd.grade.score_text import score_text
from wsikd.grade.summary import score_columns
from wsikd.grade.verdict import conclude

PAGE = (Path(__file__).parents[2] / "docs" / "gleason.md").read_text("utf-8")
CLASSES = ("NC", "G3", "G4", "G5")
TABLES = dict(re.findall(r"<!-- test: (.+?) -->\n((?:\|.*\n)+)", PAGE))


def cases(name):
    """Each row of a table, as {column: cell}."""
    head, _, *rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in TABLES[name].splitlines()
    ]
    return [dict(zip(head, row, strict=True)) for row in rows]


def row_of(case, **rules):
    areas = [1000.0, *(float(case[g]) for g in CLASSES[1:])]
    return score_columns(conclude(areas, CLASSES, Rules(**rules)))


def test_every_table_is_known():
    assert set(TABLES) == {"grade group", "biopsy", "prostatectomy", "contested", "presence"}


@pytest.mark.parametrize("case", cases("grade group"))
def test_grade_groups(case):
    first, second = int(case["score"][0]), int(case["score"][2])
    assert grade_group(first, second) == int(case["grade group"])
    assert case["score"].endswith(f"={first + second}")


@pytest.mark.parametrize("case", cases("biopsy"), ids=str)
def test_biopsies(case):
    row = row_of(case)
    assert (row["gleason_score"], row["isup_grade_group"]) == (
        case["score"],
        int(case["grade group"]),
    )
    assert row["minor"] is None


@pytest.mark.parametrize("case", cases("prostatectomy") + cases("contested"), ids=str)
def test_prostatectomies(case):
    options = {name: case[name] for name in ("minor_4", "minor_5") if name in case}
    row = row_of(case, specimen="prostatectomy", **options)
    expected = (case["score"], int(case["grade group"]), int(case["minor"] or 0) or None)
    assert (row["gleason_score"], row["isup_grade_group"], row["minor"]) == expected


@pytest.mark.parametrize("case", cases("presence"), ids=str)
@pytest.mark.parametrize("specimen", ["biopsy", "prostatectomy"])
def test_presence(case, specimen):
    row = row_of(case, min_area_mm2=float(case["min area"]), specimen=specimen)
    if case["score"].startswith("no cancer"):
        assert score_text(row) == case["score"]
        assert row["grade_status"] == "no cancer above threshold"
        assert row["isup_grade_group"] is None
    else:
        assert row["gleason_score"] == case["score"]
        assert row["grade_status"] == "graded"
