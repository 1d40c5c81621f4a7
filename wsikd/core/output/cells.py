"""CSV files without cells that a spreadsheet program would run as formulas.

Names of slides, classes and messages come from untrusted files. Text that starts like a formula
gets a leading apostrophe, which marks text in spreadsheet programs. Numbers stay as they are.
"""

from __future__ import annotations

import csv
import io
import re
from operator import itemgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_MARK = "'"
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_ .:;()/%+-]*")
"""Texts that need neither quotes nor an apostrophe."""
_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")


def safe_cell(value: Any) -> Any:
    """A value as a cell: text that starts with =, +, -, @, tab or a line end gets an apostrophe.

    >>> [safe_cell(v) for v in ("=1+1", "-1.5", -1.5, "G3")]
    ["'=1+1", '-1.5', -1.5, 'G3']
    """
    if isinstance(value, str) and _FORMULA.match(value) and not _is_number(value):
        return _MARK + value
    return value


def plain_cell(text: str) -> str:
    """The original text of a cell of :func:`safe_cell`.

    >>> plain_cell("'=1+1")
    '=1+1'
    """
    return text[1:] if text.startswith(_MARK) and _FORMULA.match(text) else text


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, line_end: str = "\n") -> str:
    """A table as CSV, with a line of column names.

    Args:
        columns: names of the columns.
        rows: rows with one value per column; None is an empty cell.
        line_end: end of each line.
    """
    lines = _Lines()
    writer = csv.writer(lines, lineterminator="\r\n")  # so that cells with \r or \n are quoted
    writer.writerow(map(safe_cell, columns))
    writer.writerows(map(safe_cell, row) for row in rows)
    return "".join(line.removesuffix("\r\n") + line_end for line in lines.found)


def cell_text(value: Any) -> str:
    """A value as :func:`csv_text` writes it in a line of several cells.

    >>> cell_text(None), cell_text(0.5), cell_text("a,b")
    ('', '0.5', '"a,b"')
    """
    if value is None:
        return ""
    if type(value) in (int, float) or (type(value) is str and _PLAIN.fullmatch(value)):
        return str(value)
    lines = _Lines()
    csv.writer(lines, lineterminator="\r\n").writerow((safe_cell(value), ""))
    return lines.found[0].removesuffix(",\r\n")


def joined(columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> str:
    """Like :func:`csv_records`, for several columns and cells that are text already."""
    head = csv_text(columns, [])
    whole = set(columns)
    cells = itemgetter(*columns) if len(columns) > 1 else None
    lines = [
        ",".join(cells(row) if cells and row.keys() >= whole else [row.get(c, "") for c in columns])
        for row in rows
    ]
    return head + "".join([f"{line}\n" for line in lines])


def csv_records(columns: Sequence[str], records: Iterable[Mapping[str, Any]]) -> str:
    """Like :func:`csv_text`, for records by column name; a missing value is an empty cell.

    Raises:
        ValueError: a record has a key that is not a column.
    """
    known = set(columns)
    rows = []
    for record in records:
        if extra := record.keys() - known:
            raise ValueError(f"no column for {sorted(extra)}")
        rows.append([record.get(name, "") for name in columns])
    return csv_text(columns, rows)


def read_records(text: str) -> tuple[tuple[str, ...], list[dict[str, str]]]:
    """Read column names and records of a table that :func:`csv_text` made.

    Missing cells are empty; cells beyond the columns are dropped.

    Raises:
        csv.Error: it is not CSV.
    """
    lines = csv.reader(io.StringIO(text, newline=""))
    columns = tuple(map(plain_cell, next(lines, [])))
    records = [
        {**dict.fromkeys(columns, ""), **dict(zip(columns, map(plain_cell, line), strict=False))}
        for line in lines
        if line
    ]
    return columns, records


class _Lines:
    def __init__(self) -> None:
        self.found: list[str] = []

    def write(self, line: str) -> None:
        self.found.append(line)


def _is_number(text: str) -> bool:
    if text != text.strip() or "_" in text:
        return False
    try:
        float(text)
    except ValueError:
        return False
    return True
