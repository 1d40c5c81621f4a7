"""Coverage of intervals of shares of classes, of expected cancer and of grade groups, by slide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.studies.coverage.cohort import CLASSES, draw
from wsikd.core.shares import fit_share_errors
from wsikd.core.softmax import softmax
from wsikd.learn.score.calibrate import fit_temperature

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmarks.studies.coverage.cohort import Cohort, Errors
    from wsikd.core.shares import ShareErrors


def worst_two(shares: NDArray[np.float64], least: float = 0.02) -> NDArray[np.int64]:
    """A grade of slides from shares (..., 4), by a rule of this study: 0 to 5.

    The largest of classes 1 to 3 is the first pattern, the highest with at least 2 % of the slide
    the second; 3+3 is 1, 3+4 2, 4+3 3, a sum of 8 is 4, 9 and 10 are 5.
    """
    cancer = np.where(shares[..., 1:] >= least, shares[..., 1:], 0.0)
    first = cancer.argmax(-1) + 3
    second = np.where(cancer > 0, np.arange(3, 6), 0).max(-1)
    total = first + second
    grade = np.select([total <= 6, total == 8, total >= 9], [1, 4, 5], np.where(first == 3, 2, 3))
    return np.where((cancer > 0).any(-1), grade, 0)


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
    return fit_share_errors(softmax(logits, temperature), truth, names), temperature


def measure_once(
    errors: ShareErrors, temperature: float, tested: Cohort
) -> dict[str, NDArray[np.float64]]:
    """What intervals hold on other slides, and how wide they are."""
    probability = softmax(tested.logits, temperature)
    weight = np.ones(tested.truth.shape[1])
    share = np.stack([errors.estimate(p, weight) for p in probability])
    low, high = errors.limits(share)
    true = tested.shares
    inside = (low <= true) & (true <= high)
    cases = [errors.corners(s) for s in share]
    cancer = np.array([[1 - c[:, 0].max(), 1 - c[:, 0].min()] for c in cases]).T
    grades = np.array([[g.min(), g.max()] for g in map(worst_two, cases)]).T
    grade, in_cancer = worst_two(true), 1 - true[:, 0]
    said = worst_two(share)
    return {
        "estimate": share,
        "low": low,
        "high": high,
        "each": inside.mean(1),
        "all": inside.all(1),
        "cancer": (cancer[0] <= in_cancer + 1e-9) & (in_cancer - 1e-9 <= cancer[1]),
        "grade": (grades[0] <= grade) & (grade <= grades[1]),
        "grade_width": grades[1] - grades[0],
        "pattern": np.array(
            [
                _pattern_held(c, t) if g in (2, 3) else np.nan
                for c, t, g in zip(cases, true, said, strict=True)
            ]
        ),
    }


def _pattern_held(cases: NDArray[np.float64], true: NDArray[np.float64]) -> float:
    """Whether the ends of pattern 4's share of the cancer hold the true one; NaN without cancer."""
    cancer = cases[:, 1:].sum(1)
    if not true[1:].sum() > 0 or not (cancer > 0).any():
        return np.nan
    found = cases[cancer > 0, 2] / cancer[cancer > 0]
    own = true[2] / true[1:].sum()
    return float(found.min() - 1e-9 <= own <= found.max() + 1e-9)


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
        found.append(measure_once(errors, temperature, other) | {"true": other.shares})
    printed = 1 - faults / rounds
    base = {"groups": slides, "shown": "yes" if found else "no", "cohorts": rounds * tested,
            "defined": printed, "bound_misses": np.nan}  # fmt: skip
    if not found:
        nothing = dict.fromkeys(("coverage", "error", "width", "of_oracle"), np.nan)
        return [{"figure": "shares, all classes at once"} | base | nothing]
    table = {k: np.concatenate([f[k] for f in found]) for k in found[0]}
    width = np.median(table["high"] - table["low"])
    oracle = oracle_width(table["estimate"], table["true"])
    rows = []
    for name, key in NAMES.items():
        each = np.array([np.nanmean(f[key]) for f in found if np.isfinite(f[key]).any()])
        rows.append({
            "figure": name, **base, "coverage": float(each.mean()),
            "error": 1.96 * float(each.std(ddof=1) / np.sqrt(len(each))) if len(each) > 1 else 1.0,
            "width": float(width) if key in ("each", "all") else np.nan,
            "of_oracle": float(width / oracle) if key in ("each", "all") else np.nan,
        })  # fmt: skip
        if key == "grade":
            rows[-1]["width"] = float(table["grade_width"].mean())
    return rows


NAMES = {
    "shares, all classes at once": "all",
    "share of a class": "each",
    "expected cancer": "cancer",
    "grade group": "grade",
    "share of pattern 4 of the cancer": "pattern",
}


def oracle_width(estimate: NDArray[np.float64], true: NDArray[np.float64]) -> float:
    """Median width of intervals of one who knows how far estimates err.

    For each class: what holds 95 % of the errors of the slides of about the same true share, made
    wider by one factor until all classes of 95 % of the slides are held at once.
    """
    error, reach = np.abs(estimate - true), np.empty_like(true)
    for c in range(CLASSES):
        order = np.argsort(true[:, c], kind="stable")
        for part in np.array_split(order, max(1, len(order) // 150)):
            reach[part, c] = max(np.quantile(error[part, c], 0.95), 0.002)
    reach *= np.quantile((error / reach).max(1), 0.95)
    return float(np.median(np.clip(estimate + reach, 0, 1) - np.clip(estimate - reach, 0, 1)))
