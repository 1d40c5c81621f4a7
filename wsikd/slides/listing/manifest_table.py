"""Rows of a CSV manifest, as spreadsheets of any country write it."""

from __future__ import annotations

import csv
import io
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from wsikd.core.errors import ConfigError
from wsikd.core.faults import similar
from wsikd.core.registry import nearest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_NOT_TAKEN = {"|": "bars", ":": "colons"}


class Row(NamedTuple):
    """A row of a table: ``where`` names file and line, ``cells`` are by column, stripped."""

    where: str
    cells: dict[str, str]


def read_table(path: Path, columns: Sequence[str], needed: str) -> list[Row]:
    """Rows of a table with a header line, delimited by commas, semicolons or tabs.

    Args:
        path: a file in UTF-8, with or without byte order mark. Empty columns at the end, as
            spreadsheets leave them, are skipped.
        columns: names that the header may hold.
        needed: the one it must hold.

    Raises:
        ConfigError: it cannot be read, has another delimiter, an unknown or double column, a cell
            beyond its header, or quotes that do not close.
    """
    lines = _lines(path, _text(path), needed)
    _, header = next(lines, (f"{path}, line 1", []))
    names = [name.strip() for name in header]
    while names and not names[-1]:
        names.pop()
    _check_header(path, names, columns, needed)
    return [Row(where, _cells(where, names, cells)) for where, cells in lines]


def number(where: str, column: str, text: str) -> float:
    """A number above zero, with a decimal point or comma. Raises ConfigError."""
    plain = text.replace(",", ".") if text.count(",") == 1 and "." not in text else text
    try:
        value = float(plain)
    except ValueError:
        raise ConfigError(where, f"{column} '{text}' is not a number", "give um/px") from None
    if not 0 < value < float("inf"):
        raise ConfigError(where, f"{column} '{text}' is not a size of a pixel", "give um/px")
    return value


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(path, "no such file", f"check the path{similar(path)}") from None
    except OSError as error:
        fault = f"cannot be read ({error.strerror or error})"
        raise ConfigError(path, fault, "give a CSV file in UTF-8") from error
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in raw:
        raise ConfigError(path, "is text in UTF-16, or no text", "save it as CSV in UTF-8")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        fault = f"cannot be read ({error})"
        raise ConfigError(path, fault, "save it as CSV in UTF-8") from error


def _lines(path: Path, text: str, needed: str) -> Iterator[tuple[str, list[str]]]:
    """Place and cells of every line that is not empty; a quoted cell may go over several."""
    first = text.partition("\n")[0].strip()
    skipped = 0
    if first.lower().startswith("sep=") and len(first) == len("sep=") + 1:  # a note of Excel
        text, skipped = text.partition("\n")[2], 1
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=_delimiter(path, text, needed), strict=True
    )
    while True:
        where = f"{path}, line {reader.line_num + 1 + skipped}"
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise ConfigError(where, f"no CSV ({error})", "check its quotes") from error
        if cells is None:
            return
        if any(cell.strip() for cell in cells):
            yield where, cells


def _delimiter(path: Path, text: str, needed: str) -> str:
    """What separates the columns: that by which the header holds the needed one."""
    header = next((line for line in text.splitlines() if line.strip()), "")
    usual = "\t" if path.suffix.lower() == ".tsv" else ","
    for one in (usual, *(d for d in (*DELIMITERS, *_NOT_TAKEN) if d != usual)):
        names = [name.strip(" \"'\ufeff").lower() for name in header.split(one)]
        if needed in names and (len(names) > 1 or one == usual):
            if one in DELIMITERS:
                return one
            fault = f"its columns are separated by {_NOT_TAKEN[one]} ('{one}')"
            raise ConfigError(path, fault, "separate them by commas, semicolons or tabs")
    return usual


def _check_header(path: Path, names: list[str], columns: Sequence[str], needed: str) -> None:
    for name, count in Counter(names).items():
        if not name:
            raise ConfigError(path, "a column without name", "name it, or delete it")
        if name not in columns:
            raise ConfigError(path, f"unknown column '{name}'", nearest(name, columns))
        if count > 1:
            raise ConfigError(path, f"{count} columns '{name}'", "keep one of them")
    if needed not in names:
        raise ConfigError(path, f"no column '{needed}'", f"name the columns {', '.join(columns)}")


def _cells(where: str, names: list[str], cells: list[str]) -> dict[str, str]:
    values = [cell.strip() for cell in cells]
    beyond = [value for value in values[len(names) :] if value]
    if beyond:
        shown = ", ".join(f"'{value}'" for value in beyond[:3])
        raise ConfigError(
            where,
            f"has {len(values)} cells under {len(names)} columns ({shown} beyond them)",
            "name their columns, or quote a value that holds the delimiter",
        )
    return dict(zip(names, values, strict=False))
