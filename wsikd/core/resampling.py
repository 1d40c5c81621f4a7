"""How far figures depend on which slides were drawn.

Fields of one slide are alike, so whole groups (patients where they are known, else slides) are
resampled: the cluster bootstrap of C. Field and A. Welsh, J. R. Statist. Soc. B 69, 2007. R
resamples, G groups, N items.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

RESAMPLES = 1000
LEVEL = 0.95
FEW_GROUPS = 10
"""Below so many groups percentile intervals are too narrow to be trusted."""
_AT_ONCE = 1 << 16
"""Items of all resamples that are counted at a time."""


def multiplicities(groups: int, *, resamples: int = RESAMPLES, seed: int = 0) -> NDArray[np.int64]:
    """How often each group is drawn in each resample with replacement: int64 (R, G)."""
    drawn = np.random.default_rng(seed).integers(0, groups, (resamples, groups))
    flat = drawn + groups * np.arange(resamples)[:, None]
    counts = np.bincount(flat.ravel(), minlength=groups * resamples)
    return counts.reshape(resamples, groups)


def interval(values: NDArray[np.float64], level: float = LEVEL) -> tuple[float, float] | None:
    """Percentile interval of resampled figures; None where more than a tenth are undefined."""
    known = _known(values)
    if known is None:
        return None
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def lower_bound(values: NDArray[np.float64], level: float = LEVEL) -> float | None:
    """One-sided percentile bound of resampled figures; None as :func:`interval` has it."""
    known = _known(values)
    return None if known is None else float(np.quantile(known, 1 - level))


def _known(values: NDArray[np.float64]) -> NDArray[np.float64] | None:
    known = values[np.isfinite(values)]
    return known if len(known) and len(known) >= 0.9 * len(values) else None


def auc(
    positive: NDArray[np.bool_],
    score: NDArray[np.float64],
    group: NDArray[np.int64],
    times: NDArray[Any],
) -> NDArray[np.float64]:
    """Share of (positive, negative) pairs in order, ties half.

    Args:
        positive: bool (N,).
        score: float64 (N,), higher for positive ones.
        group: int64 (N,), 0 to G - 1.
        times: (R, G), how often each group counts.

    Returns:
        float64 (R,); NaN without pairs.
    """
    if not len(score):
        return np.full(len(times), np.nan)
    _, place = np.unique(score, return_inverse=True)
    order = np.argsort(place, kind="stable")
    first = np.flatnonzero(np.diff(place[order], prepend=-1))  # of equal scores
    group, positive = group[order], positive[order]
    rows, found = max(1, _AT_ONCE // len(score)), np.full(len(times), np.nan)
    for start in range(0, len(times), rows):
        weight = times[start : start + rows][:, group].astype(np.float64)
        above = np.add.reduceat(weight * positive, first, axis=1)
        below = np.add.reduceat(weight * ~positive, first, axis=1)
        pairs = above.sum(1) * below.sum(1)
        ordered = (above * (np.cumsum(below, 1) - below / 2)).sum(1)
        np.divide(ordered, pairs, out=found[start : start + rows], where=pairs > 0)
    return found
