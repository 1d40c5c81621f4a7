"""CSV files without cells that a spreadsheet program would run as formulas.

Names of slides, classes and messages come from untrusted files. Text that starts like a formula
gets a leading apostrophe, which marks text in spreadsheet programs. Numbers stay as they are.
"""

from __future__ import annotations

import csv
import io
import re
from functools import lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

BETWEEN = "\x1f"
"""Separates cells, and columns, of a :class:`TextRow`: the unit separator of ASCII."""
_SEPARATORS = re.compile("[\x1d-\x1f]")
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


class TextRow(NamedTuple):
    """A row whose cells are text already, see :func:`cell_text`; both joined by ``BETWEEN``.

    Thousands of rows have the same columns: as texts these are compared at once, and a cell is
    taken apart only where the table is written.
    """

    columns: str
    cells: str

    @classmethod
    def of(cls, row: Mapping[str, str]) -> TextRow:
        """A row of cells by column; separators of ASCII in one become spaces."""
        return cls(_apart(row.keys()), _apart(row.values()))


def _apart(texts: Iterable[str]) -> str:
    return BETWEEN.join([_SEPARATORS.sub(" ", text) for text in texts])


@lru_cache(maxsize=256)
def columns_of(text: str) -> tuple[str, ...]:
    """Columns of a :class:`TextRow`."""
    return tuple(text.split(BETWEEN))


def columns_of_all(rows: Iterable[TextRow]) -> dict[str, None]:
    """Columns of all rows, in the order of their first appearance."""
    kinds = dict.fromkeys(row.columns for row in rows)
    return {name: None for text in kinds for name in columns_of(text)}


def joined(columns: Sequence[str], rows: Iterable[TextRow]) -> str:
    """Like :func:`csv_records`, for two or more columns and rows of text."""
    orders: dict[str, Any] = {}
    lines = [csv_text(columns, [])]
    for own, cells in rows:
        take = orders.get(own)
        if take is None:
            place = {name: number for number, name in enumerate(columns_of(own))}
            take = orders[own] = itemgetter(*(place.get(name, -1) for name in columns))
        lines.append(",".join(take([*cells.split(BETWEEN), ""])) + "\n")
    return "".join(lines)


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
