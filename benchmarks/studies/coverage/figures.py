"""Coverage of intervals of figures: kappa, accuracy, F1, AUC, differences, rates.

Cohorts are drawn from a pool of slides, so that the pool's own figure is the truth. A figure is
measured from counts of each slide; that it is the product's figure is tested.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.studies.coverage.cohort import CLASSES, draw_logits, draw_truth
from wsikd.core.agreement import kappas
from wsikd.core.intervals import (
    MIN_GROUPS,
    MIN_GROUPS_AUC,
    MIN_GROUPS_AUC_DIFFERENCE,
    difference_limits,
    limits,
    rate_limits,
)
from wsikd.learn.reproduce.gains import share_interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmarks.studies.coverage.cohort import Errors

_BINS = 800
DIFFERENCES = {
    "difference of kappas, to a worse network": ("kappa", "kappa of another"),
    "difference of kappas, to a better network": ("kappa of another", "kappa"),
    "difference of balanced accuracies": ("balanced accuracy", "balanced accuracy of another"),
    "difference of AUCs": ("auc", "auc of another"),
}
GAP = "share of a gap of kappas closed"
LEAST = {
    "auc": MIN_GROUPS_AUC, "F1 of slides": MIN_GROUPS_AUC,
    "difference of AUCs of slides": MIN_GROUPS_AUC_DIFFERENCE,
    "difference of AUCs": MIN_GROUPS_AUC,
    "AUC of slides, mean over five folds": MIN_GROUPS_AUC_DIFFERENCE,
}  # fmt: skip
"""Groups that a figure's interval takes, by how its name begins; others ``MIN_GROUPS``."""
_AT_ONCE = 250


@dataclass(frozen=True)
class Ranks:
    """What an AUC over slides takes.

    Attributes:
        order: float64 (M, M), pairs of a positive field of one slide and a negative one of another
            that are in order, ties half.
        positive: float64 (M,), fields of each slide.
        negative: float64 (M,).
    """

    order: NDArray[np.float64]
    positive: NDArray[np.float64]
    negative: NDArray[np.float64]

    def whole(self) -> float:
        """The AUC of all slides."""
        return float(self.order.sum() / (self.positive.sum() * self.negative.sum()))

    def areas(self, chosen: NDArray[np.int64]) -> NDArray[np.float64]:
        """Of cohorts (K, G), with all slides and without each: (K, 1 + G)."""
        order = self.order[chosen[:, :, None], chosen[:, None, :]]
        whole = order.sum((1, 2))
        each = order.sum(1) + order.sum(2) - np.einsum("kgg->kg", order)
        pairs = _with_and_without(self.positive[chosen]) * _with_and_without(self.negative[chosen])
        found = np.concatenate([whole[:, None], whole[:, None] - each], 1)
        with np.errstate(all="ignore"):
            return np.asarray(np.where(pairs > 0, found / pairs, np.nan))


@dataclass(frozen=True)
class Pool:
    """Counts of slides.

    Attributes:
        tables: float64 (M, C, C), true class first, of three networks, (3, M, C, C); the third is
            the best.
        cancer: ranks by the first network's and by the second's score of cancer.
        classes: by the first network's score of each class.
    """

    tables: NDArray[np.float64]
    cancer: tuple[Ranks, Ranks]
    classes: tuple[Ranks, ...]

    def __len__(self) -> int:
        return int(self.tables.shape[1])


def field_pool(seed: int, slides: int, errors: Errors, *, side: int = 12) -> Pool:
    """Slides of 15 to ``side`` x ``side`` fields, read by networks that err alike in part."""
    rng = np.random.default_rng(seed)
    truth = draw_truth(rng, slides, side)
    logits = draw_logits(rng, truth, errors, side)
    second = draw_logits(rng, truth, errors, side)
    count = np.exp(rng.uniform(np.log(15), np.log(side**2), slides)).astype(int)
    kept = np.arange(side**2)[None] < count[:, None]
    slide, own = np.repeat(np.arange(slides), kept.sum(1)), truth[kept]
    third = logits + second + draw_logits(rng, truth, errors, side)
    read = [one[kept] for one in (logits, 0.6 * logits + 0.4 * second, third / 3)]

    def ranks(said: NDArray[np.float64], chosen: list[int]) -> Ranks:
        others = np.delete(np.arange(CLASSES), chosen)
        score = np.logaddexp.reduce(said[:, chosen], 1) - np.logaddexp.reduce(said[:, others], 1)
        return _ranks(slide, np.isin(own, chosen), score, slides)

    return Pool(
        np.stack([_tables(slide, own, said, slides) for said in read]),
        (ranks(read[0], [1, 2, 3]), ranks(read[1], [1, 2, 3])),
        tuple(ranks(read[0], [c]) for c in range(CLASSES)),
    )


def _tables(
    slide: NDArray[np.int64], truth: NDArray[np.int64], logits: NDArray[np.float64], slides: int
) -> NDArray[np.float64]:
    flat = (slide * CLASSES + truth) * CLASSES + logits.argmax(1)
    counted = np.bincount(flat, minlength=slides * CLASSES**2)
    return counted.reshape(slides, CLASSES, CLASSES).astype(np.float64)


def _ranks(
    slide: NDArray[np.int64],
    positive: NDArray[np.bool_],
    score: NDArray[np.float64],
    slides: int,
) -> Ranks:
    edges = np.quantile(score, np.linspace(0, 1, _BINS + 1)[1:-1])
    place = slide * _BINS + np.searchsorted(edges, score)
    above, below = (
        np.bincount(place[own], minlength=slides * _BINS).reshape(slides, _BINS).astype(np.float32)
        for own in (positive, ~positive)
    )
    order = above @ (np.cumsum(below, 1) - below / 2).T
    return Ranks(order.astype(np.float64), above.sum(1) * 1.0, below.sum(1) * 1.0)


def values_of(pool: Pool, chosen: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """Each figure of cohorts (K, G), with all slides and without each: name -> (K, 1 + G)."""
    own, other, best = (_with_and_without(tables[chosen]) for tables in pool.tables)
    area, of_other = (ranks.areas(chosen) for ranks in pool.cancer)
    return figures_of(own) | {
        "kappa": kappas_of(own),
        "auc": area,
        "kappa of another": kappas_of(other),
        "balanced accuracy of another": figures_of(other)["balanced accuracy"],
        "kappa, unweighted": kappas_of(own, quadratic=False),
        "auc, mean over classes": np.mean([ranks.areas(chosen) for ranks in pool.classes], 0),
        "auc of another": of_other,
        "kappa of the best, of another": kappas_of(best),
    }


def _with_and_without(each: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums over the second axis, of all and of all but one: (K, 1 + G, ...)."""
    total = each.sum(1, keepdims=True)
    return np.concatenate([total, total - each], 1)


def kappas_of(tables: NDArray[np.float64], *, quadratic: bool = True) -> NDArray[np.float64]:
    """Kappa of tables (..., C, C)."""
    flat = tables.reshape(-1, *tables.shape[-2:])
    return kappas(flat, quadratic=quadratic).reshape(tables.shape[:-2])


def figures_of(tables: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Accuracy, balanced accuracy and F1 of class 2, of tables (..., C, C)."""
    right, rows = np.diagonal(tables, axis1=-2, axis2=-1), tables.sum(-1)
    occurs = rows > 0
    recall = np.where(occurs, right / np.maximum(rows, 1), 0.0)
    both = rows + tables.sum(-2)
    return {
        "accuracy": right.sum(-1) / rows.sum(-1),
        "balanced accuracy": recall.sum(-1) / occurs.sum(-1),
        "F1 of a class": (2 * right / np.maximum(both, 1))[..., 2],
    }


def truths_of(pool: Pool) -> dict[str, float]:
    """The figures of the whole pool."""
    own, other, best = (tables.sum(0) for tables in pool.tables)
    area, of_other = (ranks.whole() for ranks in pool.cancer)
    return {k: float(v) for k, v in figures_of(own).items()} | {
        "kappa": float(kappas_of(own)),
        "auc": area,
        "kappa of another": float(kappas_of(other)),
        "balanced accuracy of another": float(figures_of(other)["balanced accuracy"]),
        "kappa, unweighted": float(kappas_of(own, quadratic=False)),
        "auc, mean over classes": float(np.mean([ranks.whole() for ranks in pool.classes])),
        "auc of another": of_other,
        "kappa of the best, of another": float(kappas_of(best)),
    }


def measure_fields(pool: Pool, groups: int, cohorts: int, seed: int) -> list[dict[str, Any]]:
    """Coverage of every figure for cohorts of so many slides."""
    rng = np.random.default_rng(seed)
    parts = []
    for start in range(0, cohorts, _AT_ONCE):
        size = min(_AT_ONCE, cohorts - start)
        parts.append(values_of(pool, rng.integers(0, len(pool), (size, groups))))
    truths = truths_of(pool)
    values = {name: np.concatenate([p[name] for p in parts]) for name in truths}
    rows = [
        row_of(name, values[name], truth, "kappa" if "kappa" in name else "share", groups)
        for name, truth in truths.items()
        if not name.endswith("of another")
    ]
    for name, pair in DIFFERENCES.items():
        one, other = (values[p] for p in pair)
        scale: Any = "kappa" if "kappa" in name else "share"
        spans = difference_limits(one, other, scale)
        bounds = difference_limits(one, other, scale, level=0.9)[:, 0]
        points, truth = one[:, 0] - other[:, 0], truths[pair[0]] - truths[pair[1]]
        rows.append(summary_of(name, spans, points, truth, groups, bounds=bounds))
    names = ("kappa", "kappa of another", "kappa of the best, of another")
    base, more, most = (values[n] for n in names)
    truth = (truths[names[1]] - truths[names[0]]) / (truths[names[2]] - truths[names[0]])
    return [*rows, _gap_row(more - base, most - base, truth, groups)]


def _gap_row(
    part: NDArray[np.float64], whole: NDArray[np.float64], truth: float, groups: int
) -> dict[str, Any]:
    """Coverage of the interval of a share of a gap, where one is given."""
    found = [share_interval(*pair, least=2) for pair in zip(part, whole, strict=True)]
    spans = np.array([(np.nan, np.nan) if span is None else span for span in found])
    with np.errstate(all="ignore"):
        points = np.where(whole[:, 0] > 0, part[:, 0] / whole[:, 0], np.nan)
    return summary_of(GAP, spans, points, truth, groups)


def row_of(
    name: str, values: NDArray[np.float64], truth: float, scale: Any, groups: int
) -> dict[str, Any]:
    """How often the intervals of values (K, 1 + G) hold the truth."""
    spans, bounds = limits(values, scale), limits(values, scale, level=0.9)[:, 0]
    return summary_of(name, spans, values[:, 0], truth, groups, bounds=bounds)


def summary_of(
    name: str,
    spans: NDArray[np.float64],
    points: NDArray[np.float64],
    truth: float,
    groups: int,
    *,
    bounds: NDArray[np.float64] | None = None,
) -> dict[str, Any]:
    """A row of the table.

    An oracle knows how far the figure varies from cohort to cohort: its interval reaches 1.96
    standard deviations to each side.
    """
    least = next((n for start, n in LEAST.items() if name.startswith(start)), MIN_GROUPS)
    known = np.isfinite(spans).all(1)
    held = ((spans[:, 0] <= truth) & (truth <= spans[:, 1]))[known]
    width = np.median((spans[:, 1] - spans[:, 0])[known]) if known.any() else np.nan
    coverage = float(held.mean()) if known.any() else np.nan
    return {
        "figure": name,
        "groups": groups,
        "shown": "yes" if groups >= least else "no",
        "cohorts": len(points),
        "defined": float(known.mean()),
        "coverage": coverage,
        "error": 1.96 * float(np.sqrt(coverage * (1 - coverage) / max(known.sum(), 1))),
        "width": float(width),
        "of_oracle": float(width / (3.92 * np.nanstd(points))),
        "bound_misses": np.nan if bounds is None else float((bounds > truth)[known].mean()),
    }


def measure_slides(groups: int, cohorts: int, seed: int, *, patients: bool) -> list[dict[str, Any]]:
    """Coverage for one decision a slide; with ``patients`` a group has one to four slides."""
    from scipy.stats import norm

    rng, most, apart = np.random.default_rng(seed), 4 if patients else 1, 1.2
    count = rng.integers(1, most + 1, (cohorts, groups))
    used = np.arange(most)[None, None] < count[..., None]
    positive = (rng.random((cohorts, groups, 1 if patients else most)) < 0.4) & used
    shared = rng.normal(size=(cohorts, groups, 1)) if patients else 0.0
    own = rng.normal(size=(cohorts, groups, most))
    noise = np.sqrt(0.5) * (shared + own) if patients else own
    score = noise + apart * (2 * positive - 1)
    right = (score >= 0) == positive
    rate = float(norm.cdf(apart))
    rows = []
    for name, among in (("sensitivity", positive), ("accuracy of slides", used)):
        hits, totals = (right & among).sum(2), among.sum(2)
        with np.errstate(all="ignore"):
            points = hits.sum(1) / totals.sum(1)
        enough = (totals > 0).sum(1) >= MIN_GROUPS if groups >= MIN_GROUPS else True
        spans = np.where(np.reshape(enough, (-1, 1)), rate_limits(hits, totals), np.nan)
        rows.append(summary_of(name, spans, points, rate, groups))
    values = slide_areas(score, positive, used)
    support = np.minimum((positive & used).any(2).sum(1), (~positive & used).any(2).sum(1))
    spans = limits(values, "slides", support=support)
    truth = float(norm.cdf(2 * apart / np.sqrt(2)))
    rows.append(summary_of("auc of slides", spans, values[:, 0], truth, groups))
    kind = "patients" if patients else "slides"
    return [row | {"figure": f"{row['figure']}, {kind}"} for row in rows]


def slide_areas(
    score: NDArray[np.float64], positive: NDArray[np.bool_], used: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """AUC of the slides of each cohort, with all groups and without each."""
    cohorts, groups, most = score.shape
    found = []
    for k in range(cohorts):
        s, p, u = score[k].ravel(), positive[k].ravel(), used[k].ravel()
        pairs = (s[:, None] > s[None]) & (p & u)[:, None] & (~p & u)[None]
        order = pairs.reshape(groups, most, groups, most).sum((1, 3)).astype(np.float64)
        each = order.sum(0) + order.sum(1) - np.diag(order)
        sides = [(side & u).reshape(groups, most).sum(1) for side in (p, ~p)]
        total = np.prod([np.append(n.sum(), n.sum() - n) for n in sides], 0)
        inside = np.append(order.sum(), order.sum() - each)
        found.append(np.where(total > 0, inside / np.maximum(total, 1), np.nan))
    return np.array(found)


def measure_grade_groups(groups: int, cohorts: int, seed: int) -> dict[str, Any]:
    """Coverage of quadratic kappa of grade groups, one a slide."""
    from scipy.stats import norm

    rng, cuts = np.random.default_rng(seed), norm.ppf([0.3, 0.45, 0.65, 0.8, 0.9])

    def tables(count: tuple[int, ...]) -> NDArray[np.float64]:
        latent = rng.normal(size=count)
        said = latent + 0.5 * rng.normal(size=count)
        truth, found = ((v[..., None] > cuts).sum(-1) for v in (latent, said))
        return np.asarray(np.eye(36)[truth * 6 + found].reshape(*count, 6, 6))

    whole = sum(tables((50_000,)).sum(0) for _ in range(8))
    truth = float(kappas_of(np.asarray(whole)[None])[0])
    values = np.concatenate([
        kappas_of(_with_and_without(tables((_AT_ONCE, groups))))
        for _ in range(max(1, cohorts // _AT_ONCE))
    ])  # fmt: skip
    return row_of("kappa of grade groups, slides", values, truth, "kappa", groups)


def measure_seeds(seeds: int, cohorts: int, seed: int) -> dict[str, Any]:
    """Coverage of Student's interval of a mean over trainings."""
    from scipy.stats import sem, t

    values = np.random.default_rng(seed).normal(size=(cohorts, seeds))
    half = t.ppf(0.975, seeds - 1) * sem(values, axis=1)
    middle = values.mean(1)
    row = summary_of("mean over seeds", np.stack([middle - half, middle + half], 1), middle, 0.0,
                     seeds)  # fmt: skip
    return row | {"shown": "yes"}
