"""What the tables say of each result of a folder, kept in one file.

A folder may hold thousands of results, and a small slide takes a tenth of a second. So a
``result.json`` is read once: what the tables need of it is a line of ``.results.jsonl``, with the
file's time, size and number on the disk. Where these are others, the file is read again. The index
is a copy: it may be removed at any time, and lines that a killed run left out are made again.
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
"""So many lines of other files than are there, beside as many as are there, and it is rewritten."""


@dataclass(frozen=True)
class Line:
    """A result, as the tables have it.

    Attributes:
        state: time, size and number of its ``result.json``.
        cells: of its row of ``summary.csv``, by column; empty if the folder has no result of a
            slide with its name.
        cores: cells of each row of ``cores.csv``.
        record: entries that ``cases.csv`` is computed from, as JSON.
    """

    state: tuple[int, int, int]
    cells: _Cells
    cores: list[_Cells]
    record: str

    def for_cases(self) -> ResultRecord:
        """The record, of what cases are computed from; raises ValueError where it is none."""
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
    """The index of a folder of results, for one process after another.

    Args:
        out: the folder.
        readable: a row of the summary as cells.
    """

    def __init__(self, out: Path, readable: Callable[[Mapping[str, Any]], _Cells]) -> None:
        """Nothing is read yet."""
        self._out, self._readable = out, readable
        self._lines: dict[str, Line] | None = None
        self._stale = 0

    def lines(self) -> dict[str, Line]:
        """Every result, by its slide, in order of names. Only what is new is read.

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
        """The lines of the file; none where it is another version's, or cannot be read."""
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
        """Append lines, or write the file again; without it everything is read again next time."""
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
    """A line; raises ValueError, TypeError for what is none."""
    texts = [cells, *cores]
    if not (isinstance(record, str) and all(isinstance(text, dict) for text in texts)):
        raise TypeError("not as it was written")
    if not all(isinstance(v, str) for text in texts for v in text.values()):
        raise TypeError("cells are texts")
    time_ns, size, number = state
    return Line((time_ns, size, number), cells, cores, record)


def _append(path: Path, text: str) -> None:
    """Add lines at once, so that those of other processes stay whole."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(handle, text.encode())
    finally:
        os.close(handle)


def _text(lines: Iterable[tuple[str, Line]]) -> str:
    made = ([name, line.state, line.cells, line.cores, line.record] for name, line in lines)
    return "".join(f"{json.dumps(entry)}\n" for entry in made)


def _states(out: Path) -> dict[str, tuple[int, int, int]]:
    """Time, size and number of the record in each folder that has one."""
    found = {}
    with os.scandir(out) as entries:
        for entry in entries:
            try:
                state = os.stat(f"{entry.path}/{FILE}")  # noqa: PTH116 - of thousands
            except OSError:
                continue
            found[entry.name] = (state.st_mtime_ns, state.st_size, state.st_ino)
    return found
