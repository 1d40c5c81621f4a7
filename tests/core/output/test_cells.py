"""No cell of a CSV file begins as a formula, and what was written is read back."""

import ast
import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import wsikd
from wsikd.core.output.cells import (
    cell_text,
    csv_records,
    csv_text,
    plain_cell,
    read_records,
    safe_cell,
)

FORMULAS = [
    "=1+1",
    "+cmd",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "=cmd|' /C calc'!A0",
    "-",
    "=",
    "\n=1",
]
NUMBERS = ["-1", "+1.5", "-1e-9", "-inf", "+0"]
TEXT = st.text(alphabet="=+-@\t\r\n'\",; 1aé", max_size=6)


@pytest.mark.parametrize("text", [*FORMULAS, *("'" + f for f in FORMULAS), "-1_000", "- 1", "+1 "])
def test_a_formula_becomes_text_and_is_read_back(text):
    cell = safe_cell(text)
    assert cell == "'" + text
    assert plain_cell(cell) == text


@pytest.mark.parametrize("value", [*NUMBERS, "G3+4", "a=b", "'quoted'", "", -7, -7.5, None, True])
def test_numbers_and_plain_text_stay(value):
    assert safe_cell(value) is value
    if isinstance(value, str):
        assert plain_cell(value) == value


@given(st.none() | st.booleans() | st.integers() | st.floats() | st.text() | TEXT)
def test_a_cell_alone_is_the_text_that_it_is_in_a_line_of_several(value):
    assert csv_text(["a", "b"], [[value, "x"]], line_end="") == f"a,b{cell_text(value)},x"


@given(
    columns=st.lists(TEXT.filter(bool), min_size=1, max_size=3, unique=True),
    data=st.data(),
)
def test_any_table_is_read_back_and_begins_no_formula(columns, data):
    row = st.lists(TEXT, min_size=len(columns), max_size=len(columns))
    rows = data.draw(st.lists(row, max_size=3))
    text = csv_text(columns, rows)
    for line in csv.reader(io.StringIO(text, newline="")):
        for cell in line:
            assert cell[:1] not in tuple("=+-@\t\r") or float(cell) is not None
    found, records = read_records(text)
    assert found == tuple(columns)
    assert [list(record.values()) for record in records] == rows


def test_records_may_lack_a_column_but_have_no_other():
    assert csv_records(["a", "b"], [{"a": 1}, {"b": "=x"}]) == "a,b\n1,\n,'=x\n"
    with pytest.raises(ValueError, match="no column for"):
        csv_records(["a"], [{"c": 1}])


def test_nothing_else_writes_csv():
    package = Path(wsikd.__file__).parent
    places = [*package.rglob("*.py"), *(package.parent / "cli").rglob("*.py")]
    found = [
        f"{path.relative_to(package.parent)}:{node.lineno}"
        for path in places
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("writer", "DictWriter", "to_csv")
        and path.name != "cells.py"
    ]  # fmt: skip
    assert found == []
