"""The tables of a folder of results: ``summary.csv``, ``cores.csv`` and ``cases.csv``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from wsikd.core.about import NOT_ASSESSED, RESEARCH_USE
from wsikd.core.output.cells import TextRow, cell_text, columns_of_all, csv_records, joined
from wsikd.core.output.files import check_file, drop_file
from wsikd.core.output.markers import CASES, CORES, SUMMARY
from wsikd.core.run import write_text_atomic
from wsikd.grade.runs.cases import CASES_FILE, CORES_FILE, find_cases
from wsikd.grade.runs.result_index import ResultIndex

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from wsikd.core.output.markers import FileKind
    from wsikd.grade.runs.result_index import Line

SUMMARY_FILE = "summary.csv"
HOW = ("student", "specimen", "min_area_mm2", "min_pattern", "rules") + (
    ("mpp", "temperature", "engine")
)
RULES_SINCE = ("min_pattern", "rules")
"""Columns that rows of wsikd 0.1.0 lack."""
ASKED = ("teacher", "budget", "threshold")
EVERY_S = 10.0
SHARE = 0.02
"""Writing the tables takes at most this share of the time. ``EVERY_S``: least seconds between."""


def check_summary(out: Path) -> None:
    """Refuse a folder with a table that wsikd did not write. Raises OutputError."""
    for name, kind in ((SUMMARY_FILE, SUMMARY), (CASES_FILE, CASES), (CORES_FILE, CORES)):
        check_file(out / name, kind)


class Summary:
    """The tables of a folder of results.

    Args:
        out: the folder.
        patients: slide -> patient, in addition to the column ``patient`` of the rows.
    """

    def __init__(self, out: Path, patients: Mapping[str, str] | None = None) -> None:
        """Nothing is read yet."""
        self._out, self._patients = out, patients or {}
        self._index = ResultIndex(out, row_cells)
        self._due = time.monotonic() + EVERY_S
        self._behind = False

    def graded(self) -> None:
        """A slide is done: write the tables if they are due."""
        self._behind = True
        if time.monotonic() >= self._due:
            self.write()

    def end(self) -> None:
        """Write the tables if a slide was done since the last time."""
        if self._behind:
            self.write()

    def write(self) -> Path:
        """Collect the rows of all slides into ``summary.csv``; returns its path.

        Also write ``cores.csv``, with a line for each core of biopsies, and, if patients are known,
        ``cases.csv``, with one for each patient.

        Areas, shares, seconds and uncertainties have four decimals; ``result.json`` has all digits.
        Folders without the name of their slide, such as those left by a killed run, are skipped.
        The last columns say how a row was made: student (12 digits of its SHA-256), specimen rule,
        least area of cancer (mm2), least share of a pattern, rules, resolution (um/px),
        temperature, engine and precision; with a teacher also its digest, budget and threshold; and
        the permitted use.

        Raises:
            OutputError: a table cannot be written, or wsikd did not write the one that is there.
        """
        begun = time.monotonic()
        lines = self._index.lines()
        rows = [line.row for line in lines.values() if line.row]
        path = self._out / SUMMARY_FILE
        write_text_atomic(path, joined([*_columns(rows), "note"], rows), SUMMARY)
        self._write_cores(lines.values())
        self._write_cases(lines)
        self._due = time.monotonic() + max(EVERY_S, (time.monotonic() - begun) / SHARE)
        self._behind = False
        return path

    def _write_cores(self, lines: Iterable[Line]) -> None:
        rows = [core for line in lines for core in line.cores]
        names = [name for name in columns_of_all(rows) if name != "note"]
        self._put(CORES_FILE, CORES, joined([*names, "note"], rows) if rows else None)

    def _write_cases(self, lines: Mapping[str, Line]) -> None:
        known = [line for name, line in lines.items()
                 if name in self._patients or line.has("patient")]  # fmt: skip
        rows = find_cases([line.for_cases() for line in known], self._patients)
        names = list(dict.fromkeys(key for row in rows for key in row))
        note = {"note": f"{RESEARCH_USE} {NOT_ASSESSED}"}
        table = [{k: _short(v) for k, v in row.items()} | note for row in rows]
        self._put(CASES_FILE, CASES, csv_records([*names, "note"], table) if rows else None)

    def _put(self, name: str, kind: FileKind, text: str | None) -> None:
        """Write a table, or remove an earlier one."""
        if text is not None:
            write_text_atomic(self._out / name, text, kind)
        elif kind.own(self._out / name):
            drop_file(self._out / name, kind)


def _columns(rows: list[TextRow]) -> list[str]:
    """Columns of all rows; those on how a row was made come last."""
    names = columns_of_all(rows)
    later = [k for k in HOW if k not in RULES_SINCE or k in names]
    last = (*later, *(ASKED if "teacher" in names else ()))
    first = [key for key in names if key not in last and key != "note"]
    return [*first, *(last if rows else ())]


def row_cells(row: Mapping[str, Any]) -> dict[str, str]:
    """A row as cells: measurements with four decimals, settings with six digits.

    1e-4 mm2 is a square of 10 um.
    """
    settings = (*HOW, *ASKED)

    def short(key: str, value: Any) -> Any:
        if not isinstance(value, float):
            return value
        return float(f"{value:.6g}") if key in settings else round(value, 4)

    return {k: cell_text(short(k, v)) for k, v in row.items()} | {"note": cell_text(note_of(row))}


def note_of(row: Mapping[str, Any]) -> str:
    """What a row may be used for, and what its score does not assess."""
    return f"{RESEARCH_USE} {NOT_ASSESSED}" if "grade_status" in row else RESEARCH_USE


def _short(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value
