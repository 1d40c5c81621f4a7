"""Comparisons of graded slides with a pathologist's grades, for the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wsikd.core.output.looks import Part, earlier, note, tally

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from wsikd.grade.runs.compare_labels import Results, SlideLabel


def look_at_slides(results: Results, labels: Sequence[SlideLabel], out: Path) -> dict[str, Any]:
    """Record that results are compared with labels; returns the entry ``looks`` of the record.

    Slides are identified by their content. A second ledger is in the folder of results, so that
    copies of the folder have it too.

    Args:
        results: results of the folder.
        labels: a pathologist's grades.
        out: the folder.
    """
    known = [label.slide for label in labels if label.slide in results.rows]
    part = Part.of(results.fingerprint[slide] for slide in known)
    network = str(next(iter(results.rows.values())).get("student"))
    looks = note(part, command="wsikd evaluate --slides", network=network, folders=[out])
    return {"part": part.key, **tally(looks, [part.key]).record()}


def looks_at(fingerprints: Iterable[str], out: Path) -> str | None:
    """A sentence on how often these slides, or some of them, were compared with a reference.

    Args:
        fingerprints: fingerprints of the slides.
        out: folder of results, which may hold a ledger.

    Returns:
        The sentence without full stop; None if there was no comparison.
    """
    part = Part.of(fingerprints)
    count = len(earlier(part, folders=[out])) if part.items else 0
    if not count:
        return None
    return (
        "these slides, or some of them, have been compared with a reference "
        f"{'once' if count == 1 else f'{count} times'}"
    )
