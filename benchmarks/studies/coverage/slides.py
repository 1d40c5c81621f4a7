"""Coverage of further figures of one decision a slide, over folds, and of their differences.

As ``figures.measure_slides``: one slide a group, four in ten positive. A second network sees the
same slides; its errors are alike in part.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.studies.coverage.figures import kappas_of, slide_areas, summary_of
from wsikd.core.intervals import (
    MIN_GROUPS,
    difference_limits,
    limits,
    rate_limits,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

APART = (1.2, 0.9)
POSITIVE = 0.4
FOLDS = 5


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
    return rows


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


def measure_rates(groups: int, cohorts: int, seed: int) -> list[dict[str, Any]]:
    """Specificity and precision of slides, one a group, where ten slides or more carry them."""
    from scipy.stats import norm

    rng = np.random.default_rng(seed)
    positive = rng.random((cohorts, groups)) < POSITIVE
    called = rng.normal(size=positive.shape) + APART[0] * (2 * positive - 1) >= 0
    rate = float(norm.cdf(APART[0]))
    right = POSITIVE * rate / (POSITIVE * rate + (1 - POSITIVE) * (1 - rate))
    rows = []
    for name, truth, hits, among in (
        ("specificity", rate, ~positive & ~called, ~positive),
        ("precision", right, positive & called, called),
    ):
        enough = among.sum(1, keepdims=True) >= MIN_GROUPS if groups >= MIN_GROUPS else True
        spans = np.where(enough, rate_limits(hits * 1.0, among * 1.0), np.nan)
        with np.errstate(all="ignore"):
            points = hits.sum(1) / among.sum(1)
        rows.append(summary_of(name, spans, points, truth, groups))
    return rows


def measure_folds(groups: int, cohorts: int, seed: int) -> dict[str, Any]:
    """The mean AUC of slides over folds, each read by a network with a scale of its own."""
    from scipy.stats import norm

    rng = np.random.default_rng(seed)
    positive = rng.random((cohorts, groups, 1)) < POSITIVE
    score = rng.normal(size=positive.shape) + APART[0] * (2 * positive - 1)
    fold, used = np.arange(groups) % FOLDS, np.ones_like(positive)
    own = [fold == k for k in range(FOLDS)]
    areas = [slide_areas(score[:, o], positive[:, o], used[:, o]) for o in own]
    values = np.repeat([a[:, :1] for a in areas], 1 + groups, 2)
    for k, area in enumerate(areas):
        values[k][:, 1 + np.flatnonzero(own[k])] = area[:, 1:]
    defined = np.isfinite(values)
    with np.errstate(all="ignore"):
        mean = np.where(defined, values, 0).sum(0) / defined.sum(0)
    carried = np.minimum(positive.sum((1, 2)), (~positive).sum((1, 2)))
    spans = limits(mean, "slides", support=carried)
    truth = float(norm.cdf(np.sqrt(2) * APART[0]))
    return summary_of("AUC of slides, mean over five folds", spans, mean[:, 0], truth, groups)


def measure_grade_differences(groups: int, cohorts: int, seed: int) -> dict[str, Any]:
    """The difference of quadratic kappas of grade groups of two networks, one a slide."""
    from scipy.stats import norm

    rng, cuts = np.random.default_rng(seed), norm.ppf([0.3, 0.45, 0.65, 0.8, 0.9])

    def both(*shape: int) -> list[NDArray[np.float64]]:
        latent, alike = rng.normal(size=shape), rng.normal(size=shape)
        truth = (latent[..., None] > cuts).sum(-1)
        found = []
        for noise in (0.4, 0.6):
            said = latent + noise * (0.6 * alike + 0.8 * rng.normal(size=shape))
            grade = (said[..., None] > cuts).sum(-1)
            found.append(np.eye(36)[truth * 6 + grade].reshape(*shape, 6, 6))
        return found

    whole = [np.zeros((6, 6)) for _ in range(2)]
    for _ in range(8):
        whole = [w + t.sum(0) for w, t in zip(whole, both(50_000), strict=True)]
    truths = [float(kappas_of(w)) for w in whole]
    parts = []
    for _ in range(max(1, cohorts // 250)):
        total = [(t.sum(1, keepdims=True), t) for t in both(250, groups)]
        parts.append([kappas_of(np.concatenate([w, w - t], 1)) for w, t in total])
    one, other = (np.concatenate(p) for p in zip(*parts, strict=True))
    name = "difference of kappas of grade groups"
    spans = difference_limits(one, other, "kappa")
    return summary_of(name, spans, one[:, 0] - other[:, 0], truths[0] - truths[1], groups)
