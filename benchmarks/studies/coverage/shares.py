"""Coverage of intervals of shares of classes, of expected cancer and of grade groups, by slide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.studies.coverage.cohort import draw
from wsikd.core.shares import corners, fit_share_errors
from wsikd.core.softmax import softmax
from wsikd.learn.score.calibrate import fit_temperature

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmarks.studies.coverage.cohort import Cohort, Errors
    from wsikd.core.shares import ShareErrors


def score(shares: NDArray[np.float64], least: float = 0.02) -> NDArray[np.int64]:
    """Both patterns of slides with shares (..., 4), by a rule of this study: 34 is 3+4, 0 none.

    The largest of classes 1 to 3 is the first pattern, the highest with at least 2 % of the slide
    the second.
    """
    cancer = np.where(shares[..., 1:] >= least, shares[..., 1:], 0.0)
    second = np.where(cancer > 0, np.arange(3, 6), 0).max(-1)
    return np.where((cancer > 0).any(-1), 10 * (cancer.argmax(-1) + 3) + second, 0)


def worst_two(shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """A grade of slides: 3+3 is 1, 3+4 2, 4+3 3, a sum of 8 is 4, 9 and 10 are 5; 0 for none."""
    both = score(shares)
    total, first = both // 10 + both % 10, both // 10
    grade = np.select([total <= 6, total == 8, total >= 9], [1, 4, 5], np.where(first == 3, 2, 3))
    return np.where(both > 0, grade, 0)


def fit(cohort: Cohort, *, fields: int | None, seed: int = 0) -> tuple[ShareErrors, float]:
    """Temperature and errors as at the end of a training.

    Args:
        cohort: the validation slides.
        fields: labelled on a slide, from 5 to so many; None: all.
        seed: of which are.
    """
    rng = np.random.default_rng(seed)
    slides, count = cohort.truth.shape
    kept = np.ones((slides, count), bool)
    if fields is not None:
        number = np.exp(rng.uniform(np.log(5), np.log(fields + 1), slides)).astype(int)
        kept = rng.random((slides, count)).argsort(1).argsort(1) < number[:, None]
    names = np.repeat([f"s{i}" for i in range(slides)], kept.sum(1)).tolist()
    truth, logits = cohort.truth[kept], cohort.logits[kept]
    temperature = fit_temperature(logits, truth, names) or 1.0
    errors = fit_share_errors(softmax(logits, temperature), truth, names, ratio=(2, (1, 2, 3)))
    return errors, temperature


def measure_once(
    errors: ShareErrors, temperature: float, tested: Cohort
) -> dict[str, NDArray[np.float64]]:
    """What intervals hold on other slides, and how wide they are; NaN where none is printed."""
    probability = softmax(tested.logits, temperature)
    fields = tested.truth.shape[1]
    share = np.stack([errors.estimate(p, np.ones(fields)) for p in probability])
    low, high = errors.limits(share, fields)
    true = tested.shares
    inside = (low <= true) & (true <= high)
    cases = [errors.corners(s, fields) for s in share]
    cancer = np.array([[1 - c[:, 0].max(), 1 - c[:, 0].min()] for c in cases]).T
    grades = np.array([[g.min(), g.max()] for g in map(worst_two, cases)]).T
    part = np.array([errors.ratio_limits(s, fields) or (np.nan, np.nan) for s in share]).T
    with np.errstate(all="ignore"):
        own, found = (t[:, 2] / t[:, 1:].sum(1) for t in (true, share))
    shown = np.isin(worst_two(share), (2, 3)) & np.isfinite(own)
    printed = shown & np.isfinite(part[0])
    return {
        "estimate": share,
        "true": true,
        "low": low,
        "high": high,
        "each": inside.mean(1),
        "all": inside.all(1) * 1.0,
        "cancer": _held(cancer, 1 - true[:, 0]),
        "cancer_width": cancer[1] - cancer[0],
        "grade": _held(grades, worst_two(true)),
        "grade_width": grades[1] - grades[0],
        "score": np.array(
            [o in set(c) for o, c in zip(score(true), map(score, cases), strict=True)]
        ),
        "score_width": np.array([len(set(c)) for c in map(score, cases)]),
        "pattern": np.where(printed, _held(part, own), np.nan),
        "pattern_width": np.where(printed, part[1] - part[0], np.nan),
        "pattern_estimate": found,
        "pattern_true": own,
        "pattern_given": np.where(shown, printed, np.nan),
        "no_pattern_5": np.where(shown, true[:, 3] == 0, np.nan),
    }


def _held(ends: NDArray[np.float64], value: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray((ends[0] - 1e-9 <= value) & (value <= ends[1] + 1e-9), np.float64)


def measure_shares(
    error: Errors, slides: int, *, fields: int | None, rounds: int, tested: int = 60, side: int = 12
) -> list[dict[str, Any]]:
    """Coverage by so many validation slides.

    Args:
        error: how the network errs.
        slides: of the validation.
        fields: labelled on each at most; None: all.
        rounds: validations that are drawn.
        tested: slides that each is tried on.
        side: of a slide, in fields.
    """
    found, faults = [], 0
    for seed in range(rounds):
        errors, temperature = fit(draw(2 * seed, slides, error, side=side), fields=fields)
        if errors.fault:
            faults += 1
            continue
        other = draw(2 * seed + 1, tested, error, side=side)
        found.append(measure_once(errors, temperature, other))
    base: dict[str, Any] = {"groups": slides, "cohorts": rounds * tested, "bound_misses": np.nan}
    if not found:
        nothing = dict.fromkeys(("coverage", "error", "width", "of_oracle"), np.nan)
        base |= {"figure": "shares, all classes at once", "shown": "no", "defined": 0.0}
        return [base | nothing]
    table = {k: np.concatenate([f[k] for f in found]) for k in found[0]}
    widths, printed = widths_of(table), 1 - faults / rounds
    rows = []
    for name, key in NAMES.items():
        some = [f[key] for f in found if np.isfinite(f[key]).any()]
        each = np.array([np.nanmean(values) for values in some])
        given = printed * (np.nanmean(table["pattern_given"]) if key == "pattern" else 1.0)
        rows.append({
            "figure": name, **base, "defined": given,
            "shown": "no" if key == "no_pattern_5" or not len(each) else "yes",
            "coverage": float(each.mean()) if len(each) else np.nan,
            "error": _error(each, int(np.isfinite(table[key]).sum())),
            **widths[key],
        })  # fmt: skip
    return rows


def _error(each: NDArray[np.float64], count: int) -> float:
    """1.96 standard errors of a mean over rounds; at least 3 / count, as where all slides agree."""
    if len(each) < 2:
        return 1.0
    return max(1.96 * float(each.std(ddof=1) / np.sqrt(len(each))), 3 / count)


NAMES = {
    "shares, all classes at once": "all",
    "share of a class": "each",
    "expected cancer": "cancer",
    "grade group": "grade",
    "Gleason score": "score",
    "share of pattern 4 of the cancer": "pattern",
    "share of pattern 5 of the cancer": "no_pattern_5",
}
"""The last has no interval: counted is where it is truly zero."""


def widths_of(table: dict[str, NDArray[np.float64]]) -> dict[str, dict[str, float]]:
    """Median width of each interval, and over that of an oracle; of grades the mean number.

    The oracle reads grade groups and scores off its own intervals of shares, by the same rule.
    """
    estimate, true = table["estimate"], table["true"]
    ends = oracle(estimate, true)
    shares = float(np.median(table["high"] - table["low"])), float(np.median(ends[1] - ends[0]))
    both = [1 - v[:, :1] for v in (estimate, true)]
    low, high = oracle(*both)
    cancer = float(np.median(table["cancer_width"])), float(np.median(high - low))
    cases = [corners(s, *e) for s, *e in zip(estimate, *ends, strict=True)]
    found = {"all": shares, "each": shares, "cancer": cancer}
    for key, its in (
        ("grade", [np.ptp(worst_two(c)) for c in cases]),
        ("score", [len(set(score(c))) for c in cases]),
    ):
        found[key] = float(table[f"{key}_width"].mean()), float(np.mean(its))
    given = np.isfinite(table["pattern"])
    if given.any():
        low, high = oracle(*(table[f"pattern_{k}"][given, None] for k in ("estimate", "true")))
        found["pattern"] = float(np.nanmedian(table["pattern_width"])), float(np.median(high - low))
    return {
        key: {"width": own, "of_oracle": own / its}
        for key in NAMES.values()
        for own, its in [found.get(key, (np.nan, np.nan))]
    }


def oracle(estimate: NDArray[np.float64], true: NDArray[np.float64]) -> NDArray[np.float64]:
    """Both ends of the intervals (2, S, C) of one who knows how far estimates (S, C) err.

    For each column: what holds 95 % of the errors of the slides of about the same true value, made
    wider by one factor until all columns of 95 % of the slides are held at once.
    """
    error, reach = np.abs(estimate - true), np.empty_like(true)
    for c in range(true.shape[1]):
        order = np.argsort(true[:, c], kind="stable")
        for part in np.array_split(order, max(1, len(order) // 150)):
            reach[part, c] = max(np.quantile(error[part, c], 0.95), 0.002)
    reach *= np.quantile((error / reach).max(1), 0.95)
    return np.stack([np.clip(estimate - reach, 0, 1), np.clip(estimate + reach, 0, 1)])
