"""``failures.csv``: the slides of an output folder that failed.

Several processes may fill one folder, each with its own slides. Each changes the lines of its own
slides only.
"""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

from wsikd.core.errors import OutputError
from wsikd.core.output.cells import csv_text, read_records
from wsikd.core.output.files import aside, drop_file
from wsikd.core.output.lock import locked
from wsikd.core.output.markers import FAILURES

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from wsikd.core.errors import WsikdError

FILE = "failures.csv"
COLUMNS = ("slide", "error", "fault", "remedy")
_WAIT_S = 10.0
_REMEDY = "rename it, or choose another -o"


def read_failures(folder: Path) -> list[dict[str, str]]:
    """Read a folder's ``failures.csv``, each line as column -> cell; empty without such a file.

    Raises:
        OutputError: it cannot be read, or is another table.
    """
    path = folder / FILE
    try:
        text = path.read_bytes().decode("utf-8-sig")
        columns, records = read_records(text)
    except FileNotFoundError:
        return []
    except (OSError, ValueError, csv.Error) as error:
        raise OutputError(path, f"cannot be read ({error})", _REMEDY) from error
    if columns != COLUMNS:
        raise OutputError(path, "is not a table of failures written by wsikd", _REMEDY)
    return records


def update_failures(
    folder: Path, failed: Mapping[str, WsikdError], succeeded: Collection[str] = ()
) -> None:
    """Add failed slides to a folder's ``failures.csv``, and remove slides that succeeded.

    Lines of other slides stay. A file without lines is removed.

    Args:
        folder: the output folder.
        failed: the error of each slide, by name.
        succeeded: names of slides that are done.

    Raises:
        OutputError: it cannot be written, is another table, or stays locked by another process.
    """
    path = folder / FILE
    if not failed and not path.exists():
        return
    try:
        with locked(path, wait_s=_WAIT_S):
            _merge(folder, failed, succeeded)
    except OSError as error:
        fault = f"cannot be written ({error.strerror or error})"
        raise OutputError(path, fault, "free space, or choose another -o") from error


def _merge(folder: Path, failed: Mapping[str, WsikdError], succeeded: Collection[str]) -> None:
    path = folder / FILE
    before = read_failures(folder)
    gone = {*map(_printable, failed), *map(_printable, succeeded)}
    rows = [[line[c] for c in COLUMNS] for line in before if line["slide"] not in gone]
    rows += [
        [_printable(text) for text in (name, type(error).__name__, error.fault, error.remedy)]
        for name, error in failed.items()
    ]
    if not rows:
        drop_file(path, FAILURES)
    elif rows != [list(line.values()) for line in before]:
        with aside(path, FAILURES) as part:
            part.write_text(csv_text(COLUMNS, rows), encoding="utf-8", newline="")


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
