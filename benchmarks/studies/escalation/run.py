"""How often a threshold of escalation keeps what it promises, on simulated cohorts.

    python -m benchmarks.studies.escalation.run [--cohorts 1000] [-o CSV]

Slides are those of ``benchmarks/studies/coverage``: a mix of classes, a bias of both networks, and
errors over 0.5, 1 or 4 mm that are the slide's own. A student and a teacher read them; their errors
are alike in part. Validation slides are drawn from a pool of slides, the product's bounds and rule
choose a threshold, and the truth is what the pool has at that threshold. ``kept`` counts cohorts
where the promise holds, or none is made; ``by_value`` is the same for the least costly threshold
that reached the value on the validation slides, the rule of earlier versions.
"""

from __future__ import annotations

import argparse
import csv
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.studies.coverage.cohort import CLASSES, Errors, draw_logits, draw_truth
from wsikd.core.agreement import kappas
from wsikd.core.escalation import (
    SHARES,
    assured_place,
    bounds_of_agreement,
    bounds_of_kappa,
    doubt,
)
from wsikd.core.intervals import MIN_GROUPS
from wsikd.core.softmax import softmax

if TYPE_CHECKING:
    from numpy.typing import NDArray

GROUPS = (5, 10, 30, 60, 100)
REACHES = (0.5, 1.0, 4.0)
AGREEMENTS = (0.9, 0.95)
STEPS = 200
OUT = Path(__file__).parents[2] / "results" / "escalation_cpu-2core_2026-11-30.csv"
COLUMNS = (
    "promise", "reach_mm", "slides", "cohorts", "kept", "error", "by_value", "refused", "share",
    "share_needed",
)  # fmt: skip


@dataclass(frozen=True)
class Pool:
    """Slides (M) at thresholds (T) of doubt, from the least costly on.

    Attributes:
        fields: of each slide, (M,).
        again: fields that are read again, (T, M).
        hits: fields with the teacher's class, (T, M).
        tables: truth by what student and teacher say together, (T, M, C, C).
    """

    fields: NDArray[np.int64]
    again: NDArray[np.int64]
    hits: NDArray[np.int64]
    tables: NDArray[np.int64]

    def agreement(self) -> NDArray[np.float64]:
        """Of all slides, (T,)."""
        return np.asarray(self.hits.sum(1) / self.fields.sum())

    def kappa(self) -> NDArray[np.float64]:
        """With the truth, (T,)."""
        return kappas(self.tables.sum(1).astype(np.float64), quadratic=True)


def draw_pool(seed: int, slides: int, reach_mm: float, *, side: int = 12) -> Pool:
    """Slides of 15 to ``side`` x ``side`` fields, read by both networks."""
    rng = np.random.default_rng(seed)
    truth = draw_truth(rng, slides, side)
    logits = draw_logits(rng, truth, Errors(reach_mm, bias=0.7, sharp=3.0), side)
    other = draw_logits(rng, truth, Errors(reach_mm, bias=0.3, sharp=4.0), side)
    student, teacher = logits.argmax(-1), (logits + other).argmax(-1)
    count = np.exp(rng.uniform(np.log(15), np.log(side**2), slides)).astype(int)
    kept = np.arange(side**2)[None] < count[:, None]
    doubts = doubt(softmax(logits.reshape(-1, CLASSES))).reshape(truth.shape)
    own = np.quantile(doubts[kept], 1 - np.linspace(0, 1, STEPS + 1)[1:])
    again, hits, tables = [], [], []
    place = np.arange(slides)[:, None] * CLASSES**2 + truth * CLASSES
    for threshold in (2.0, *own):
        asked = doubts >= threshold
        merged = np.where(asked, teacher, student)
        again.append((asked & kept).sum(1))
        hits.append(((merged == teacher) & kept).sum(1))
        counted = np.bincount((place + merged)[kept], minlength=slides * CLASSES**2)
        tables.append(counted.reshape(slides, CLASSES, CLASSES))
    return Pool(kept.sum(1), np.stack(again), np.stack(hits), np.stack(tables))


def places_of(pool: Pool, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """Places of the pool's thresholds that a card of these slides would hold."""
    share = pool.again[:, chosen].sum(1) / pool.fields[chosen].sum()
    return np.unique([int(np.argmax(share >= wanted - 1e-9)) for wanted in SHARES])


def measure(pool: Pool, slides: int, cohorts: int, seed: int) -> list[dict[str, Any]]:
    """Rows for cohorts of so many slides: agreements, then a kappa between both networks'."""
    rng = np.random.default_rng(seed)
    agreement, kappa = pool.agreement(), pool.kappa()
    between = float(kappa[0] + kappa[-1]) / 2
    wanted = [(f"agreement {a:g}", agreement, a) for a in AGREEMENTS]
    wanted.append(("kappa between both", kappa, between))
    tally: list[list[tuple[bool, bool, float | None]]] = [[] for _ in wanted]
    for _ in range(cohorts):
        chosen = rng.integers(0, len(pool.fields), slides)
        places = places_of(pool, chosen)
        fields, hits = pool.fields[chosen], pool.hits[np.ix_(places, chosen)]
        tables = pool.tables[np.ix_(places, chosen)]
        own = [hits.sum(1) / fields.sum()] * len(AGREEMENTS)
        own.append(kappas(tables.sum(1).astype(np.float64), quadratic=True))
        low: list[list[float | None]] = [[None] * len(places)] * 2
        if slides >= MIN_GROUPS:
            low = [bounds_of_agreement(hits, fields), bounds_of_kappa(tables)]
        low[0] = [*low[0][:-1], 1.0]
        share = pool.again.sum(1) / pool.fields.sum()
        for number, (_, truth, least) in enumerate(wanted):
            place = assured_place(low[number >= len(AGREEMENTS)], least)
            if place == len(places) - 1 and number < len(AGREEMENTS):
                place = None  # every field is read again
            naive = np.flatnonzero(own[number] >= least)
            by_value = not len(naive) or truth[places[naive[0]]] >= least
            kept = place is None or truth[places[place]] >= least
            cost = None if place is None else float(share[places[place]])
            tally[number].append((bool(kept), bool(by_value), cost))
    rows = []
    for (name, truth, least), found in zip(wanted, tally, strict=True):
        kept = float(np.mean([k for k, _, _ in found]))
        costs = [c for _, _, c in found if c is not None]
        rows.append({
            "promise": name, "slides": slides, "cohorts": cohorts, "kept": kept,
            "error": round(1.96 * (kept * (1 - kept) / cohorts) ** 0.5, 4),
            "by_value": float(np.mean([n for _, n, _ in found])),
            "refused": 1 - len(costs) / cohorts,
            "share": round(float(np.median(costs)), 4) if costs else "",
            "share_needed": round(float(share[np.argmax(truth >= least)]), 4),
        })  # fmt: skip
    return rows


def main() -> None:
    """Simulate, print and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cohorts", type=int, default=1000)
    parser.add_argument("-o", "--output", type=Path, default=OUT)
    options = parser.parse_args()
    rows = []
    for reach in REACHES:
        pool = draw_pool(1, 1500, reach)
        for slides in GROUPS:
            for row in measure(pool, slides, options.cohorts, slides):
                rows.append({k: (row | {"reach_mm": reach})[k] for k in COLUMNS})
                print(*rows[-1].values(), file=sys.stderr, flush=True)
    with options.output.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
