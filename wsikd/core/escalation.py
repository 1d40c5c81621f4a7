"""Choice of the fields that a student leaves to its teacher: the most doubtful, within a budget.

The doubt about a field is one minus the student's greatest calibrated probability. It is the
expected error (the reject rule of C. K. Chow, "On optimum recognition error and reject tradeoff",
IEEE Trans. Inf. Theory 16, 1970).

A threshold that reached an agreement on the validation slides reaches it on other slides in about
half of cases. So each threshold has a lower bound over slides, and thresholds are tested in a fixed
sequence from the most costly down (A. Angelopoulos et al., "Learn then test", Ann. Appl. Stat. 19,
2025). The last one before the first failure keeps the agreement with the confidence of one test.
``benchmarks/studies/escalation`` measures how often. N fields, C classes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.core.agreement import confusion, kappa, kappas
from wsikd.core.intervals import MIN_GROUPS, leave_out, limits, rate_limits
from wsikd.core.softmax import softmax

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

_TINY = np.finfo(np.float32).smallest_subnormal
CONFIDENCE = 0.95
"""Nominal probability that a threshold keeps the stated agreement or kappa on other slides."""
LEVEL = 0.975
"""Level of the one-sided bounds, the lower ends of 95 % intervals. At 0.96 the agreement was kept
in as few as 94 % of simulated cohorts."""
SHARES = tuple(n / 100 for n in (*range(21), *range(25, 101, 5)))


def doubt(probability: NDArray[Any], temperature: float | None = None) -> NDArray[np.float64]:
    """One minus the greatest probability of each field: float64 (N,).

    Args:
        probability: (N, C), softmax of the logits.
        temperature: divides the logits; None: the probabilities are calibrated already.
    """
    own = np.asarray(probability, np.float64)
    if temperature is not None:
        own = softmax(np.log(np.maximum(own, _TINY)), temperature)
    return np.asarray(1 - own.max(1), np.float64)


def most_doubtful(
    doubts: NDArray[np.float64], budget: float, threshold: float | None = None
) -> NDArray[np.bool_]:
    """Select the fields to read again: bool (N,), at most the share ``budget`` of them.

    Among fields of equal doubt, the first are selected first.

    Args:
        doubts: doubt of each field, (N,).
        budget: greatest share of the fields, 0 to 1; 1 selects all, whatever the threshold.
        threshold: least doubt of a selected field; None: the budget alone selects.
    """
    chosen = np.zeros(len(doubts), np.bool_)
    most = math.floor(budget * len(doubts) + 1e-9)
    chosen[np.argsort(-doubts, kind="stable")[:most]] = True
    return chosen if threshold is None or budget >= 1 else chosen & (doubts >= threshold)


def trade_off(
    doubts: NDArray[np.float64],
    student: NDArray[np.integer],
    teacher: NDArray[np.integer],
    truth: NDArray[np.integer],
    classes: int,
    slides: Sequence[str] | None = None,
) -> dict[str, list[float | None]]:
    """Compute cost and benefit of each threshold of doubt.

    Args:
        doubts: (N,), of fields that neither network was trained on.
        student: the student's classes, int (N,).
        teacher: the teacher's classes, int (N,).
        truth: classes of the labels, int (N,).
        classes: number of classes.
        slides: slide or patient of each field, (N,); None leaves out the bounds.

    Returns:
        Lists of equal length, by falling threshold: ``threshold``; ``share`` of the fields with at
        least that doubt; ``agreement``, share of all fields that then have the teacher's class,
        those that it read included; ``kappa`` with the teacher and ``truth_kappa`` with the truth
        (quadratic; None if undefined); with slides ``agreement_low`` and ``truth_kappa_low``, see
        :func:`lower_bounds`.
    """
    curve: dict[str, list[float | None]] = {
        k: [] for k in ("threshold", "share", "agreement", "kappa", "truth_kappa")
    }
    falling = np.sort(doubts)[::-1]
    places = sorted({math.ceil(share * len(doubts)) for share in SHARES})
    first = [1.0, *(float(falling[k - 1]) for k in places if k)]  # doubt is always below 1
    thresholds = list(dict.fromkeys(first))
    for threshold in thresholds:
        again = doubts >= threshold
        merged = np.where(again, teacher, student)
        curve["threshold"].append(threshold)
        curve["share"].append(float(again.mean()))
        curve["agreement"].append(float((merged == teacher).mean()))
        for key, other in (("kappa", teacher), ("truth_kappa", truth)):
            value = kappa(confusion(other, merged, classes), quadratic=True)
            curve[key].append(value if math.isfinite(value) else None)
    if slides is not None:
        merged_tn = np.stack([np.where(doubts >= t, teacher, student) for t in thresholds])
        curve |= lower_bounds(merged_tn, teacher, truth, classes, slides)
    return curve


def lower_bounds(
    merged_tn: NDArray[np.integer],
    teacher: NDArray[np.integer],
    truth: NDArray[np.integer],
    classes: int,
    slides: Sequence[str],
) -> dict[str, list[float | None]]:
    """Compute lower bounds for further slides at each threshold, with ``CONFIDENCE``.

    Args:
        merged_tn: classes of student and teacher together at T thresholds, (T, N).
        teacher: the teacher's classes, (N,).
        truth: classes of the labels, (N,).
        classes: number of classes.
        slides: slide or patient of each field, (N,).

    Returns:
        ``agreement_low`` and ``truth_kappa_low``, T values each; None if there are fewer than ten
        slides, or the figure is undefined without one of them. The last bound of the agreement is
        1, since every field is read again.
    """
    known, place = np.unique(np.asarray(slides), return_inverse=True)
    none: list[float | None] = [None] * len(merged_tn)
    agreement, with_truth = list(none), list(none)
    if len(known) >= MIN_GROUPS:
        hits = np.stack([np.bincount(place, m == teacher, len(known)) for m in merged_tn])
        agreement = bounds_of_agreement(hits, np.bincount(place))
        flat = (place * classes + truth) * classes
        size = len(known) * classes**2
        counted = np.stack([np.bincount(flat + m, minlength=size) for m in merged_tn])
        with_truth = bounds_of_kappa(counted.reshape(-1, len(known), classes, classes))
    agreement[-1] = 1.0
    return {"agreement_low": agreement, "truth_kappa_low": with_truth}


def bounds_of_agreement(hits_tg: NDArray[Any], totals_g: NDArray[Any]) -> list[float | None]:
    """Wilson's bounds of the share of fields, at the effective sample size of the slides."""
    low = rate_limits(hits_tg, np.broadcast_to(totals_g, hits_tg.shape), level=2 * LEVEL - 1)
    return _listed(low[:, 0])


def bounds_of_kappa(tables: NDArray[Any]) -> list[float | None]:
    """Bounds of quadratic kappa of tables (T, G, C, C), by the jackknife over G slides."""
    without = leave_out(tables.shape[1])
    each = np.einsum("rg,tgij->trij", without, tables, optimize=True)
    flat = kappas(each.reshape(-1, *each.shape[-2:]).astype(np.float64), quadratic=True)
    values = flat.reshape(each.shape[:2])
    return _listed(limits(values, "kappa", level=2 * LEVEL - 1)[:, 0])


def _listed(values: NDArray[np.float64]) -> list[float | None]:
    return [v if math.isfinite(v) else None for v in values.tolist()]


def slides_needed(agreement: float) -> int:
    """Number of slides that are needed to show an agreement if all their fields agree."""
    from scipy.special import ndtri

    square = float(ndtri(LEVEL)) ** 2
    needed = math.ceil(square * agreement / max(1 - agreement, 1e-9) - 1e-9)
    return max(MIN_GROUPS, needed)


def assured_place(low: Sequence[float | None], least: float) -> int | None:
    """Index of the cheapest threshold whose bound, and all costlier ones, are at least ``least``.

    None if the bound of the costliest is smaller.

    Args:
        low: bounds by falling threshold.
        least: the agreement or kappa to keep.
    """
    found = None
    for place in reversed(range(len(low))):
        value = low[place]
        if value is None or value < least:
            break
        found = place
    return found


def place_for(curve: Mapping[str, Any], agreement: float) -> int:
    """Index in a :func:`trade_off` of the cheapest threshold with at least this agreement.

    There always is one: at the last threshold all fields are read again, and agree.
    """
    found = (i for i, value in enumerate(curve["agreement"]) if value >= agreement)
    return next(found, len(curve["agreement"]) - 1)


def place_for_kappa(curve: Mapping[str, Any], least: float) -> int | None:
    """Index in a :func:`trade_off` of the cheapest threshold with at least this kappa.

    The kappa is that with the truth; None if no threshold reaches it. Reading more fields again may
    lower it, since the teacher errs too.
    """
    known = enumerate(curve["truth_kappa"])
    return next((i for i, value in known if value is not None and value >= least), None)


def best_place(curve: Mapping[str, Any], budget: float = 1) -> int | None:
    """Index of the greatest kappa with the truth within a budget; the cheapest of equal ones.

    None if kappa is undefined at all of them.
    """
    pairs = enumerate(zip(curve["truth_kappa"], curve["share"], strict=True))
    found = [(value, -i) for i, (value, share) in pairs if value is not None and share <= budget]
    return -max(found)[1] if found else None
