"""``result.json`` as it is read back: what has not the shape of a result is none."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from wsikd.core.reading import read_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FILE = "result.json"
_GROUPS = (None, 0, 1, 2, 3, 4, 5)
_DIGEST = re.compile(r"[0-9a-f]{1,64}")
_MOST = 2**53


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record of a slide's folder of results; None where there is none, or it is malformed.

    Its ``summary`` holds texts, numbers, truth values and lists of them; ``made_with`` and
    ``seconds`` are there, if need be empty.
    """
    try:
        record = read_json(folder / FILE, finite=True)
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict):
        return None
    record = {**record, **{k: record.get(k, {}) for k in ("made_with", "seconds")}}
    summary = record.get("summary")
    sections = (summary, record["made_with"], record["seconds"])
    if not isinstance(summary, dict) or not all(isinstance(s, dict) for s in sections):
        return None
    whole = (
        isinstance(summary.get("slide"), str)
        and summary.get("isup_grade_group") in _GROUPS
        and all(_plain(v) for v in summary.values())
        and all(_plain(v) and not isinstance(v, list | str) for v in record["seconds"].values())
    )
    return record if whole else None


def student_card(out: Path, row: Mapping[str, Any]) -> dict[str, Any]:
    """The card of the student that made a row, as ``wsikd infer`` left it; empty without one."""
    digest = row.get("student")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        return {}
    try:
        card = read_json(out / f"student-{digest}.json", finite=True)
    except (OSError, ValueError):
        return {}
    return card if isinstance(card, dict) else {}


def _plain(value: Any) -> bool:
    """Whether a value is a text, a number, a truth value, nothing, or a list of these."""
    if isinstance(value, list):
        return all(_plain(v) and not isinstance(v, list) for v in value)
    if isinstance(value, bool | str | None):
        return True
    return isinstance(value, int | float) and abs(value) < _MOST
