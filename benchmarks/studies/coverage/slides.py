"""Coverage of further figures of one decision a slide, and of their differences.

As ``figures.measure_slides``: one slide a group, four in ten positive. A second network sees the
same slides; its errors are alike in part.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.studies.coverage.figures import slide_areas, summary_of
from wsikd.core.intervals import (
    MIN_GROUPS,
    MIN_GROUPS_AUC,
    MIN_GROUPS_AUC_DIFFERENCE,
    difference_limits,
    limits,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

APART = (1.2, 0.9)
POSITIVE = 0.4


def measure_more_slides(groups: int, cohorts: int, seed: int) -> list[dict[str, Any]]:
    """Balanced accuracy and F1 of slides, and the difference of the AUCs of two networks."""
    from scipy.stats import norm

    rng = np.random.default_rng(seed)
    positive = rng.random((cohorts, groups, 1)) < POSITIVE
    both = rng.normal(size=(cohorts, groups, 1))
    scores = []
    for apart in APART:
        noise = np.sqrt(0.6) * both + np.sqrt(0.4) * rng.normal(size=both.shape)
        scores.append(noise + apart * (2 * positive - 1))
    rate = float(norm.cdf(APART[0]))
    carried = np.minimum(positive.sum((1, 2)), (~positive).sum((1, 2)))
    rows = []
    values = _with_and_without(positive[..., 0], scores[0][..., 0] >= 0)
    f1 = 2 * POSITIVE * rate / (2 * POSITIVE * rate + (1 - rate))
    for name, truth, support in (
        ("balanced accuracy of slides", rate, carried),
        ("F1 of slides", f1, positive.sum((1, 2))),
    ):
        spans = limits(values[name], "slides", support=support)
        rows.append(summary_of(name, spans, values[name][:, 0], truth, groups))
    used = np.ones_like(positive)
    one, other = (slide_areas(score, positive, used) for score in scores)
    spans = difference_limits(one, other, "slides")
    areas = [float(norm.cdf(np.sqrt(2) * apart)) for apart in APART]
    row = summary_of(
        "difference of AUCs of slides", spans, one[:, 0] - other[:, 0], areas[0] - areas[1], groups
    )
    rows.append(row)
    least = (MIN_GROUPS, MIN_GROUPS_AUC, MIN_GROUPS_AUC_DIFFERENCE)
    return [
        row | {"shown": "yes" if groups >= number else "no"}
        for row, number in zip(rows, least, strict=True)
    ]


def _with_and_without(
    positive: NDArray[np.bool_], called: NDArray[np.bool_]
) -> dict[str, NDArray[np.float64]]:
    """Both figures with all slides and without each: (K, 1 + G)."""

    def sums(each: NDArray[np.bool_]) -> NDArray[np.float64]:
        total = each.sum(1, keepdims=True)
        return np.concatenate([total, total - each], 1).astype(np.float64)

    hit, missed = sums(positive & called), sums(positive & ~called)
    alarm, cleared = sums(~positive & called), sums(~positive & ~called)
    with np.errstate(all="ignore"):
        return {
            "balanced accuracy of slides": (hit / (hit + missed) + cleared / (cleared + alarm)) / 2,
            "F1 of slides": 2 * hit / (2 * hit + missed + alarm),
        }
