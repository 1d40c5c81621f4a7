"""Index of a folder of results: the entries that its tables need, in one file.

A folder may hold thousands of results, and a small slide takes a tenth of a second. So each
``result.json`` is read once. The entries that the tables need are a line of ``.results.jsonl``,
with the file's modification time, size and inode number. If these change, the file is read again.
The index is a copy: it may be removed at any time, and lines that a killed run did not write are
made again.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wsikd.core.about import NOT_ASSESSED, RESEARCH_USE, __version__
from wsikd.core.errors import OutputError
from wsikd.core.output.cells import cell_text
from wsikd.core.output.files import aside, check_file
from wsikd.core.output.markers import INDEX, INDEX_KIND
from wsikd.grade.runs.cases import core_rows
from wsikd.grade.runs.record import FILE, ResultRecord, read_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

log = logging.getLogger(__name__)

INDEX_FILE = ".results.jsonl"
_HEAD = {"kind": INDEX_KIND, "format": 1, "wsikd": __version__}
_Cells = dict[str, str]
_STALE = 1000
"""The index is rewritten when its outdated lines exceed its current ones by this number."""


@dataclass(frozen=True)
class Line:
    """A result, as entries of the tables.

    Attributes:
        state: modification time, size and inode number of its ``result.json``.
        cells: column -> cell of its row of ``summary.csv``; empty if the folder has no result of a
            slide with its name.
        cores: cells of each row of ``cores.csv``.
        record: entries that ``cases.csv`` is computed from, as JSON.
    """

    state: tuple[int, int, int]
    cells: _Cells
    cores: list[_Cells]
    record: str

    def for_cases(self) -> ResultRecord:
        """The entries for ``cases.csv`` as a record. Raises ValueError if they are malformed."""
        return ResultRecord.model_validate(json.loads(self.record))


def line_of(
    folder: Path, state: tuple[int, int, int], readable: Callable[[Mapping[str, Any]], _Cells]
) -> Line:
    """Read a result."""
    record = read_record(folder)
    if record is None or record.slide != folder.name:
        return Line(state, {}, [], "{}")
    note = cell_text(f"{RESEARCH_USE} {NOT_ASSESSED}")
    cores = [
        {k: cell_text(round(v, 4) if isinstance(v, float) else v) for k, v in row.items()}
        | {"note": note}
        for row in core_rows([record])
    ]
    kept = {"summary": record.summary, "made_with": record.made_with}
    return Line(state, readable(record.summary), cores, json.dumps(kept))


class ResultIndex:
    """The index of a folder of results, kept from one process to the next.

    Args:
        out: the folder.
        readable: converts a row of the summary to cells.
    """

    def __init__(self, out: Path, readable: Callable[[Mapping[str, Any]], _Cells]) -> None:
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
        return {name: line for name, line in self._lines.items() if line.cells}

    def _state(self, name: str) -> tuple[int, int, int] | None:
        line = self._lines.get(name) if self._lines else None
        return line.state if line else None

    def _read(self) -> dict[str, Line]:
        """The lines of the file; none if another version wrote it, or it cannot be read."""
        found: dict[str, Line] = {}
        try:
            text = (self._out / INDEX_FILE).read_text(encoding="utf-8")
            head, *lines = text.splitlines() or [""]
            if _parsed(head) != _HEAD:
                raise ValueError("another version's")
        except (OSError, ValueError):
            self._stale = sys.maxsize
            return {}
        for line in lines:
            with suppress(ValueError, TypeError):
                name, *entries = _parsed(line)
                checked = _checked(*entries)
                self._stale += name in found
                found[name] = checked
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


def _checked(state: Any, cells: Any, cores: Any, record: Any) -> Line:
    """Make a line. Raises ValueError or TypeError if the entries are malformed."""
    texts = [cells, *cores]
    if not (isinstance(record, str) and all(isinstance(text, dict) for text in texts)):
        raise TypeError("not as it was written")
    for text in texts:
        "".join(text.values())  # raises TypeError if a cell is not text, in a fifth of the time
    time_ns, size, number = state
    return Line((time_ns, size, number), cells, cores, record)


def _append(path: Path, text: str) -> None:
    """Append all lines in one write, so that lines of other processes stay whole."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(handle, text.encode())
    finally:
        os.close(handle)


def _text(lines: Iterable[tuple[str, Line]]) -> str:
    made = ([name, line.state, line.cells, line.cores, line.record] for name, line in lines)
    return "".join(f"{json.dumps(entry)}\n" for entry in made)


def _states(out: Path) -> dict[str, tuple[int, int, int]]:
    """Folder -> modification time, size and inode number of its record, if it has one."""
    found = {}
    with os.scandir(out) as entries:
        for entry in entries:
            try:
                state = os.stat(f"{entry.path}/{FILE}")  # noqa: PTH116 - fast, for thousands
            except OSError:
                continue
            found[entry.name] = (state.st_mtime_ns, state.st_size, state.st_ino)
    return found
