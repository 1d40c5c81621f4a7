"""Looks at graded slides beside a pathologist's grades, for the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wsikd.core.output.looks import Part, note, tally

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from wsikd.grade.runs.compare_labels import Results, SlideLabel


def look_at_slides(results: Results, labels: Sequence[SlideLabel], out: Path) -> dict[str, Any]:
    """Note that results are compared with labels; returns the entry ``looks`` of the record.

    The slides count by their content. The second ledger is kept in the folder of results, so that
    it goes with every copy of that.

    Args:
        results: of the folder.
        labels: what a pathologist said.
        out: the folder.
    """
    known = [label.slide for label in labels if label.slide in results.rows]
    part = Part.of(results.fingerprint[slide] for slide in known)
    network = str(next(iter(results.rows.values())).get("student"))
    looks = note(part, command="wsikd evaluate --slides", network=network, folders=[out])
    return {"part": part.key, **tally(looks, [part.key]).record()}
