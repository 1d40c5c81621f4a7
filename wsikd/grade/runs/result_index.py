"""Index of a folder of results: the entries that its tables need, in one file.

A folder may hold thousands of results, and a small slide takes a tenth of a second. So each
``result.json`` is read once. The entries that the tables need are a line of ``.results.jsonl``,
with the file's modification time, size and inode number. If these change, the file is read again.
The index is a copy: it may be removed at any time, and lines that a killed run did not write are
made again.

A line is fields between tabs, which are split and not parsed: the tables of 5,000 results take
less time than one small slide.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wsikd.core.about import NOT_ASSESSED, RESEARCH_USE, __version__
from wsikd.core.errors import OutputError
from wsikd.core.output.cells import BETWEEN, TextRow, cell_text, columns_of
from wsikd.core.output.files import aside, check_file
from wsikd.core.output.markers import INDEX, INDEX_KIND
from wsikd.grade.runs.cases import core_rows
from wsikd.grade.runs.record import FILE, ResultRecord, read_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

log = logging.getLogger(__name__)

INDEX_FILE = ".results.jsonl"
_HEAD = {"kind": INDEX_KIND, "format": 2, "wsikd": __version__}
_BETWEEN_ROWS, _WITHIN_ROW = "\x1e", "\x1d"
_SPELT = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
_MEANT = {escape: character for character, escape in _SPELT.items()}
_ESCAPE = re.compile(r"\\[\\tnr]")
_STALE = 1000
"""The index is rewritten when its outdated lines exceed its current ones by this number."""


@dataclass(frozen=True)
class Line:
    """A result, as entries of the tables.

    Attributes:
        state: modification time, size and inode number of its ``result.json``.
        row: its row of ``summary.csv``; None if the folder has no result of a slide with its name.
        cores: its rows of ``cores.csv``.
        record: entries that ``cases.csv`` is computed from, as JSON.
    """

    state: str
    row: TextRow | None
    cores: tuple[TextRow, ...]
    record: str

    def has(self, column: str) -> bool:
        """Whether its row of ``summary.csv`` has a column."""
        return self.row is not None and column in columns_of(self.row.columns)

    def for_cases(self) -> ResultRecord:
        """The entries for ``cases.csv`` as a record. Raises ValueError if they are malformed."""
        return ResultRecord.model_validate(json.loads(self.record))


def line_of(
    folder: Path, state: str, readable: Callable[[Mapping[str, Any]], Mapping[str, str]]
) -> Line:
    """Read a result."""
    record = read_record(folder)
    if record is None or record.slide != folder.name:
        return Line(state, None, (), "{}")
    note = cell_text(f"{RESEARCH_USE} {NOT_ASSESSED}")
    cores = (
        {k: cell_text(round(v, 4) if isinstance(v, float) else v) for k, v in row.items()}
        | {"note": note}
        for row in core_rows([record])
    )
    kept = json.dumps({"summary": record.summary, "made_with": record.made_with})
    return Line(state, TextRow.of(readable(record.summary)), tuple(map(TextRow.of, cores)), kept)


class ResultIndex:
    """The index of a folder of results, kept from one process to the next.

    Args:
        out: the folder.
        readable: converts a row of the summary to cells.
    """

    def __init__(
        self, out: Path, readable: Callable[[Mapping[str, Any]], Mapping[str, str]]
    ) -> None:
        """Nothing is read yet."""
        self._out, self._readable = out, readable
        self._lines: dict[str, Line] | None = None
        self._stale = 0

    def lines(self) -> dict[str, Line]:
        """Slide -> its result, in order of names. Only new or changed results are read.

        Raises:
            OSError: the folder cannot be listed.
        """
        if self._lines is None:
            self._lines = self._read()
        there = _states(self._out)
        new = {name: s for name, s in sorted(there.items()) if self._state(name) != s}
        made = {name: line_of(self._out / name, s, self._readable) for name, s in new.items()}
        self._stale += len(made.keys() & self._lines.keys())
        self._lines = {name: made.get(name) or self._lines[name] for name in sorted(there)}
        self._keep(made)
        return {name: line for name, line in self._lines.items() if line.row}

    def _state(self, name: str) -> str | None:
        line = self._lines.get(name) if self._lines else None
        return line.state if line else None

    def _read(self) -> dict[str, Line]:
        """The lines of the file; none if another version wrote it, or it cannot be read."""
        found: dict[str, Line] = {}
        try:
            text = (self._out / INDEX_FILE).read_text(encoding="utf-8")
            head, *lines = text.split("\n")
            if _parsed(head) != _HEAD:
                raise ValueError("another version's")
        except (OSError, ValueError):
            self._stale = sys.maxsize
            return {}
        for text in lines:
            with suppress(ValueError):
                name, line = _line(text)
                self._stale += name in found
                found[name] = line
        return found

    def _keep(self, made: Mapping[str, Line]) -> None:
        """Append lines, or rewrite the file. A failure costs only time, so it is not raised."""
        assert self._lines is not None
        path = self._out / INDEX_FILE
        try:
            check_file(path, INDEX)
            if self._stale >= _STALE + len(self._lines) or not path.exists():
                with aside(path, INDEX) as part:
                    part.write_text(
                        f"{json.dumps(_HEAD)}\n{_text(self._lines.items())}", encoding="utf-8"
                    )
                self._stale = 0
            elif made:
                _append(path, _text(made.items()))
        except (OSError, OutputError) as error:
            log.debug("%s", error)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _line(text: str) -> tuple[str, Line]:
    """Name and entries of a line. Raises ValueError if it is not as :func:`_text` writes it."""
    name, state, row, cores, record = text.split("\t")
    if "\\" in row or "\\" in cores or "\\" in name:
        name, row, cores = map(_original, (name, row, cores))
    found = tuple(map(_row, cores.split(_BETWEEN_ROWS))) if cores else ()
    return name, Line(state, _row(row) if row else None, found, record)


def _row(text: str) -> TextRow:
    columns, cells = text.split(_WITHIN_ROW)
    if columns.count(BETWEEN) != cells.count(BETWEEN):
        raise ValueError("not as it was written")
    return TextRow(columns, cells)


def _original(text: str) -> str:
    """A field without its escapes."""
    return _ESCAPE.sub(lambda found: _MEANT[found[0]], text)


def _spelt(text: str) -> str:
    """A text as a field: without tabs and ends of lines."""
    for character, escape in _SPELT.items():
        text = text.replace(character, escape)
    return text


def _append(path: Path, text: str) -> None:
    """Append all lines in one write, so that lines of other processes stay whole."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | getattr(os, "O_BINARY", 0))
    try:
        os.write(handle, text.encode())
    finally:
        os.close(handle)


def _text(lines: Iterable[tuple[str, Line]]) -> str:
    return "".join(
        "\t".join((_spelt(name), line.state, _field([line.row] if line.row else []),
                   _field(line.cores), line.record)) + "\n"
        for name, line in lines
    )  # fmt: skip


def _field(rows: Iterable[TextRow]) -> str:
    return _spelt(_BETWEEN_ROWS.join(f"{row.columns}{_WITHIN_ROW}{row.cells}" for row in rows))


def _states(out: Path) -> dict[str, str]:
    """Folder -> modification time, size and inode number of its record, if it has one."""
    found = {}
    with os.scandir(out) as entries:
        for entry in entries:
            try:
                state = os.stat(f"{entry.path}/{FILE}")  # noqa: PTH116 - fast, for thousands
            except OSError:
                continue
            found[entry.name] = f"{state.st_mtime_ns} {state.st_size} {state.st_ino}"
    return found
