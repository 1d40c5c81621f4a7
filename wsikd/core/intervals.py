"""Confidence intervals of figures over groups: patients where they are known, else slides.

Fields of one slide are correlated, so a group is left out as a whole. A figure is computed once
with all groups and once without each of them. The pseudo-values of this jackknife (J. Tukey, Ann.
Math. Stat. 29, 1958) give a standard error on a scale where the figure's distribution is nearly
symmetric, and Student's t gives the interval. If the figure depends on few groups, the error is
itself uncertain: the degrees of freedom follow from the kurtosis of the pseudo-values (F.
Satterthwaite, Biometrics Bull. 2, 1946), less two if a group has many items. The interval of a
difference combines those of the two figures (G. Zou, Psychological Methods 12, 2007). For an AUC
the jackknife is the estimator of E. DeLong et al. (Biometrics 44, 1988) by cluster (N. Obuchowski,
Biometrics 53, 1997). A rate of decisions, one or few per group, has the interval of E. Wilson (JASA
22, 1927) at its effective sample size.

``benchmarks/studies/coverage`` measures the coverage. With fewer than ``MIN_GROUPS`` groups (for an
AUC ``MIN_GROUPS_AUC``) it is too low, and there is no interval. R figures, G groups.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Scale = Literal["share", "slides", "kappa"]

LEVEL = 0.95
MIN_GROUPS = 10
"""Least number of groups for an interval."""
MIN_GROUPS_AUC = 20
"""Least number of groups for an interval of an AUC, or of the F1 of slides."""
MIN_GROUPS_AUC_DIFFERENCE = 40
"""Least number of groups for an interval of a difference of two AUCs of slides, or of a mean AUC of
slides over folds."""
NO_INTERVAL = (
    f"not enough slides for an interval: it takes {MIN_GROUPS} slides or patients, for an AUC "
    f"{MIN_GROUPS_AUC}"
)
NO_INTERVAL_OF_DIFFERENCE = (
    "not enough slides for an interval: a difference of AUCs of slides and a mean AUC over folds "
    f"take {MIN_GROUPS_AUC_DIFFERENCE} slides or patients"
)
FREEDOM_OF_DIFFERENCE = 3.0
"""Least degrees of freedom of either figure in a difference: with one, as a single odd slide gives
an AUC near 1, intervals were nearly three times as wide as an oracle's at 100 slides."""
_MOST = 400
"""With more groups, blocks of them are left out together."""
_TINY = 1e-9


def leave_out(groups: int) -> NDArray[np.int64]:
    """Weights of the groups: all of them in the first row, then one left out in each row.

    Args:
        groups: number of groups, G.

    Returns:
        int64 (1 + R, G) of 0 and 1. R is G, at most 400. With more groups, each row leaves out a
        block of them, drawn at random with a fixed seed. A single group is not left out.

    >>> leave_out(2).tolist()
    [[1, 1], [0, 1], [1, 0]]
    """
    if groups < 2:
        return np.ones((1, groups), np.int64)
    rows = min(groups, _MOST)
    block = np.arange(groups) % rows
    if groups > _MOST:
        block = np.random.default_rng(0).permutation(block)
    without = np.ones((1 + rows, groups), np.int64)
    without[1 + block, np.arange(groups)] = 0
    return without


def limits(
    values: NDArray[np.float64],
    scale: Scale,
    *,
    level: float = LEVEL,
    support: NDArray[Any] | int | None = None,
    freedom: float = 1.0,
) -> NDArray[np.float64]:
    """Compute both limits of the intervals of many figures.

    Args:
        values: float64 (..., 1 + R), each figure with all groups, then with groups left out in the
            order of :func:`leave_out`.
        scale: "share" for figures between 0 and 1, such as an accuracy or an AUC: logit. "slides"
            for such figures if a group is one or few slides with one score each: logit, with the
            error by the delta method. "kappa" for figures between -1 and 1: Fisher's z.
        level: level of the two-sided interval.
        support: number of groups that each figure depends on, (...); all by default. If no group
            changes the figure, as for an AUC of 1, the interval depends on this number alone.
        freedom: least degrees of freedom.

    Returns:
        float64 (..., 2); NaN if the figure is undefined with one of the groups left out.
    """
    values = np.asarray(values, np.float64)
    rows = values.shape[-1] - 1
    if rows < 2:
        return np.full((*values.shape[:-1], 2), np.nan)
    carried = np.broadcast_to(np.asarray(rows if support is None else support), values.shape[:-1])
    with np.errstate(all="ignore"):
        found = _studentised(values, scale, level, freedom)
        apart = np.isfinite(values).all(-1) & (np.ptp(values, axis=-1) <= _TINY)
        alone = _unanimous(values[..., 0], carried, level, -1.0 if scale == "kappa" else 0.0, 1.0)
        found = np.where(apart[..., None], alone, found)
        known = np.isfinite(values).all(-1) & np.isfinite(found).all(-1) & (carried > 1)
    return np.where(known[..., None], found, np.nan)


def _studentised(
    values: NDArray[np.float64], scale: Scale, level: float, least: float
) -> NDArray[np.float64]:
    """Student's interval on the scale; by the delta method if a figure is infinite on it."""
    moved = _to(values, scale)
    error, freedom = _spread(moved)
    middle = moved[..., 0]
    plain, plain_freedom = _spread(values)
    inside = np.isfinite(moved).all(-1) & (scale != "slides")
    error = np.where(inside, error, plain * _slope(values[..., 0], scale))
    freedom = np.where(inside, freedom, plain_freedom)
    freedom = np.maximum(freedom if scale == "slides" else freedom - 2, least)
    half = _quantile(level, freedom) * error
    return _back(np.stack([middle - half, middle + half], -1), scale)


def _spread(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Standard error of a figure by the jackknife, and its degrees of freedom."""
    rows = values.shape[-1] - 1
    off = values[..., 1:] - values[..., 1:].mean(-1, keepdims=True)
    square = (off**2).mean(-1)
    kurtosis = (off**4).mean(-1) / square**2
    return np.sqrt((rows - 1) * square), np.minimum(rows - 1, 2 * rows / (kurtosis - 1))


def _quantile(level: float, freedom: NDArray[np.float64]) -> NDArray[np.float64]:
    from scipy.special import stdtrit

    return np.asarray(stdtrit(np.maximum(freedom, 1.0), (1 + level) / 2))


def _to(values: NDArray[np.float64], scale: Scale) -> NDArray[np.float64]:
    return np.asarray(np.arctanh(values) if scale == "kappa" else np.log(values / (1 - values)))


def _back(values: NDArray[np.float64], scale: Scale) -> NDArray[np.float64]:
    return np.asarray(np.tanh(values) if scale == "kappa" else 1 / (1 + np.exp(-values)))


def _slope(value: NDArray[np.float64], scale: Scale) -> NDArray[np.float64]:
    return np.asarray(1 / (1 - value**2) if scale == "kappa" else 1 / (value * (1 - value)))


def _unanimous(
    value: NDArray[np.float64], support: NDArray[Any], level: float, least: float, most: float
) -> NDArray[np.float64]:
    """Limits of a figure that no group changes (C. Clopper, E. Pearson, 1934).

    A share ``1 - alpha^(1/n)`` of all groups may differ and still be absent among n groups; alpha
    is half of 1 - level.
    """
    unseen = 1 - ((1 - level) / 2) ** (1 / np.maximum(support, 1))
    return np.stack([np.maximum(value - unseen, least), np.minimum(value + unseen, most)], -1)


def interval(
    values: NDArray[np.float64],
    scale: Scale,
    *,
    level: float = LEVEL,
    support: int | None = None,
    least: int = MIN_GROUPS,
) -> tuple[float, float] | None:
    """The interval of one figure; None if there are too few groups or it is undefined.

    Args:
        values: float64 (1 + R,), see :func:`limits`.
        scale: see :func:`limits`.
        level: level of the two-sided interval.
        support: number of groups that the figure depends on.
        least: least number of groups for an interval.
    """
    if len(values) <= least:
        return None
    low, high = limits(values, scale, level=level, support=support).tolist()
    return (low, high) if np.isfinite(low) else None


def difference_limits(
    one: NDArray[np.float64], other: NDArray[np.float64], scale: Scale, *, level: float = LEVEL
) -> NDArray[np.float64]:
    """Compute both limits of the intervals of ``one - other``, two figures of the same groups.

    Args:
        one: float64 (..., 1 + R), see :func:`limits`.
        other: the same for the other figure.
        scale: scale of both.
        level: level of the two-sided interval.

    Returns:
        float64 (..., 2).
    """
    apart = np.asarray(one - other)
    rows = apart.shape[-1] - 1
    if rows < 2:
        return np.full((*apart.shape[:-1], 2), np.nan)
    first, second = (
        limits(values, scale, level=level, freedom=FREEDOM_OF_DIFFERENCE) for values in (one, other)
    )
    off, from_ = (v[..., 1:] - v[..., 1:].mean(-1, keepdims=True) for v in (one, other))
    with np.errstate(all="ignore"):
        together = (off * from_).sum(-1) / np.sqrt((off**2).sum(-1) * (from_**2).sum(-1))
        together = np.nan_to_num(together)

        def reach(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.asarray(np.sqrt(np.maximum(a**2 + b**2 - 2 * together * a * b, 0.0)))

        down = reach(one[..., 0] - first[..., 0], second[..., 1] - other[..., 0])
        up = reach(first[..., 1] - one[..., 0], other[..., 0] - second[..., 0])
        alike = np.asarray(np.ptp(apart, axis=-1) <= _TINY)[..., None]
        found = np.stack([apart[..., 0] - down, apart[..., 0] + up], -1)
        same = _unanimous(apart[..., 0], np.asarray(rows), level, -2.0, 2.0)
        known = np.asarray(np.isfinite(apart).all(-1))[..., None]
    return np.where(known, np.where(alike, same, found), np.nan)


def difference_interval(
    one: NDArray[np.float64],
    other: NDArray[np.float64],
    scale: Scale,
    *,
    level: float = LEVEL,
    least: int = MIN_GROUPS,
) -> tuple[float, float] | None:
    """The interval of one difference; None in the same cases as :func:`interval`."""
    if len(one) <= least:
        return None
    low, high = difference_limits(one, other, scale, level=level).tolist()
    return (low, high) if np.isfinite(low) else None


def paired_bounds(
    one: NDArray[np.float64], other: NDArray[np.float64], *, level: float
) -> NDArray[np.float64]:
    """Student's one-sided lower bounds of ``one - other``, by the jackknife of the difference.

    They are closer than the lower limits of :func:`difference_limits` if both figures vary much and
    are correlated. They are wrong if the difference depends on few groups.

    Args:
        one: float64 (..., 1 + R), see :func:`limits`.
        other: the same for the other figure.
        level: level of the one-sided bound.

    Returns:
        float64 (...); NaN if the difference is undefined with one of the groups left out.
    """
    apart = np.asarray(one - other)
    rows = apart.shape[-1] - 1
    if rows < 2:
        return np.full(apart.shape[:-1], np.nan)
    both = 2 * level - 1
    with np.errstate(all="ignore"):
        error, freedom = _spread(apart)
        found = apart[..., 0] - _quantile(both, freedom) * error
    same = _unanimous(apart[..., 0], np.asarray(rows), both, -2.0, 2.0)[..., 0]
    found = np.where(np.ptp(apart, axis=-1) <= _TINY, same, found)
    return np.where(np.isfinite(apart).all(-1), found, np.nan)


def rate_interval(
    hits: NDArray[Any], totals: NDArray[Any], *, level: float = LEVEL
) -> tuple[float, float] | None:
    """The interval of a rate of decisions on slides; None for fewer than ``MIN_GROUPS`` groups.

    Args:
        hits: number of correct decisions in each group, (G,).
        totals: number of decisions in each group, (G,). Groups without any do not count.
        level: level of the two-sided interval.
    """
    if int((np.asarray(totals) > 0).sum()) < MIN_GROUPS:
        return None
    low, high = rate_limits(np.asarray(hits)[None], np.asarray(totals)[None], level=level)[0]
    return float(low), float(high)


def rate_limits(
    hits: NDArray[Any], totals: NDArray[Any], *, level: float = LEVEL
) -> NDArray[np.float64]:
    """Wilson's intervals of many rates, at the effective sample size of correlated groups.

    The effective size is p (1 - p) over the variance between groups, reduced if there are few
    groups (E. Korn, B. Graubard, Survey Methodology 24, 1998), and never above the number of items.
    If all groups have the same rate, each counts once.

    Args:
        hits: correct decisions, (..., G).
        totals: decisions, (..., G).
        level: level of the two-sided interval.

    Returns:
        float64 (..., 2); NaN without decisions.
    """
    from scipy.special import ndtri

    totals = np.asarray(totals, np.float64)
    size, groups = totals.sum(-1), (totals > 0).sum(-1)
    z = float(ndtri((1 + level) / 2))
    with np.errstate(all="ignore"):
        rate = np.asarray(hits, np.float64).sum(-1) / size
        off = hits - rate[..., None] * totals
        between = (off**2).sum(-1) * groups / (groups - 1) / size**2
        shrunk = (z / _quantile(level, np.asarray(groups - 1.0))) ** 2
        effective = np.minimum(rate * (1 - rate) / between * shrunk, size)
        single = (totals <= 1).all(-1)
        effective = np.where(single, size, np.where(between > _TINY**2, effective, groups))
        middle = (rate + z**2 / (2 * effective)) / (1 + z**2 / effective)
        spread = rate * (1 - rate) / effective + z**2 / (4 * effective**2)
        half = z * np.sqrt(spread) / (1 + z**2 / effective)
    return np.asarray(np.clip(np.stack([middle - half, middle + half], -1), 0.0, 1.0))
