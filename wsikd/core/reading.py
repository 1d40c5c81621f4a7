"""JSON and CSV from outside: whatever is wrong with a file raises one kind of error.

YAML is read in :mod:`wsikd.core.yaml_text`.
"""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

LONGEST_CELL = 100_000
"""Characters; what is longer is a lost quotation mark."""


def read_json(file: Path, *, finite: bool = False) -> Any:
    """Read a JSON file in UTF-8.

    Raises:
        OSError: it cannot be read.
        ValueError: as :func:`parse_json`.
    """
    return parse_json(file.read_text(encoding="utf-8"), finite=finite)


def parse_json(text: str, *, finite: bool = False) -> Any:
    """Read JSON.

    Args:
        text: one value.
        finite: refuse NaN and Infinity, which Python writes and JSON does not have.

    Raises:
        ValueError: it is not JSON, nested too deep, or holds half of a character.
    """
    try:
        found = json.loads(text, parse_constant=_no_constant if finite else None)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if "\\u" in text:
        json.dumps(found, ensure_ascii=False).encode()  # a lone surrogate fits into no file
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def parse_csv(text: str, delimiter: str = ",") -> csv.DictReader[str]:
    """A reader of CSV with a header line, whose cells may hold line breaks.

    Raises:
        ValueError: it is not CSV, as a NUL in it or a cell without an end shows.
    """
    _check_csv(text, delimiter)
    return csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)


def _check_csv(text: str, delimiter: str) -> None:
    if "\0" in text:
        raise ValueError("contains a NUL character")
    try:
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter):
            if max(map(len, row), default=0) > LONGEST_CELL:
                raise ValueError(f"a cell has more than {LONGEST_CELL} characters")
    except csv.Error as error:
        raise ValueError(str(error)) from error
