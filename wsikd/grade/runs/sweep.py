"""Results of graded slides with other least areas of cancer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.core.agreement import confusion, kappa
from wsikd.grade.gleason import read_patterns
from wsikd.grade.runs.cases import areas_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from wsikd.grade.gleason_rules import Rules

AREAS_MM2 = (0.0, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0)
GROUPS = 6


def sweep(
    rows: Sequence[Mapping[str, Any]], rules: Rules, truth: NDArray[np.int64]
) -> list[dict[str, Any]]:
    """Count slides with cancer, and compute kappa, at each of ``AREAS_MM2`` as ``--min-area``.

    Do not choose the best area here and report its figures on the same slides.

    Args:
        rows: rows of ``summary.csv``, with the area of each class.
        rules: rules of the grading; the least area is replaced.
        truth: grade group of each slide, 0 for no cancer: int64 (N,).

    Returns:
        For each area: min_area_mm2, sensitivity, specificity and kappa (quadratic; None if it is
        undefined), with_cancer (number of slides with cancer). Empty if rows have no areas.
    """
    extents = [areas_of(row) for row in rows]
    if not all(extents):
        return []
    graded = [read_patterns(extent, rules) for extent in extents]
    cancer = np.array([sum(extent.values()) for extent in extents])
    groups = np.array([r.grade_group if r else 0 for r in graded], np.int64)
    found = []
    for area in AREAS_MM2:
        said = np.where(cancer >= area - 1e-9, groups, 0)
        found.append({
            "min_area_mm2": area,
            "sensitivity": _rate(said[truth > 0] > 0),
            "specificity": _rate(said[truth == 0] == 0),
            "kappa": _known(kappa(confusion(truth, said, GROUPS), quadratic=True)),
            "with_cancer": int((said > 0).sum()),
        })  # fmt: skip
    return found


def _rate(hits: NDArray[np.bool_]) -> float | None:
    return float(hits.mean()) if hits.size else None


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
