"""How often ``bench --margin`` errs: simulated cohorts, judged by the product's own bound.

    python -m benchmarks.studies.margin.run [--cohorts 5000] [-o CSV]

A cohort is drawn from a population in which the student loses exactly the margin (then a pass is a
type-I error), or nothing (then the passes are the power). The truth is that of a population of
100,000 slides of fields, or a million grade groups, drawn by the same law and scored by the
definition of kappa, not by the product's code.

Fields: 4 classes, 150 fields a slide. Each slide has its own mix of classes (Dirichlet), its own
difficulty (errors of teacher and student rise together) and its own bias of the student. Slides:
grade groups 0 to 5, one a slide; a share of slides is hard, and there both networks err more. Rarer
errors are larger, for fields and for grade groups: a student that guesses on some slides, or misses
the cancer of some, and is as good as its teacher on all others.
"""

from __future__ import annotations

import argparse
import csv
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.core.intervals import MIN_GROUPS
from wsikd.grade.bench.margin_bound import bounds_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

FIELDS = 150
GROUPS = (3, 5, 10, 30, 100)
POPULATION = {"field": 100_000, "slide": 1_000_000}
CHUNK = 500
ROOT = Path(__file__).parents[3]
OUT = ROOT / "benchmarks" / "results" / "margin_cpu-2core_2026-11-30.csv"
COLUMNS = (
    "unit", "loss", "margin", "groups", "cohorts", "truth", "concluded", "passed", "upper_95",
)  # fmt: skip


@dataclass(frozen=True)
class Law:
    """How slides are drawn.

    Attributes:
        unit: "field" or "slide".
        teacher: its rate of errors.
        student: the rate of the student.
        spread: of the errors between slides, on the logit.
        guesses: share of slides on which the student guesses.
        misses: share of slides on which it calls any cancer benign.
    """

    unit: str
    teacher: float
    student: float
    spread: float
    guesses: float = 0.0
    misses: float = 0.0


def draw(law: Law, rng: np.random.Generator, *shape: int) -> NDArray[np.float64]:
    """Confusions of teacher and student on slides: float64 (2, *shape, C, C), truth in rows."""
    return _fields(law, rng, *shape) if law.unit == "field" else _slides(law, rng, *shape)


def _rates(law: Law, rng: np.random.Generator, *shape: int) -> list[NDArray[np.float64]]:
    """Rates of errors of both on each slide: hard for both, and a bias of each of its own."""
    hard = rng.normal(0, law.spread, shape)
    found = []
    for rate in (law.teacher, law.student):
        own = np.log(rate / (1 - rate)) + hard + rng.normal(0, law.spread / 2, shape)
        found.append(1 / (1 + np.exp(-own)))
    return found


def _fields(law: Law, rng: np.random.Generator, *shape: int) -> NDArray[np.float64]:
    mix = rng.dirichlet((0.6, 0.5, 0.5, 0.3), shape)
    truth = rng.multinomial(FIELDS, mix)
    tables = np.zeros((2, *shape, 4, 4))
    for who, rate in enumerate(_rates(law, rng, *shape)):
        for own in range(4):
            near = np.array([np.exp(-abs(own - k)) if k != own else 0.0 for k in range(4)])
            chance = rate[..., None] * near / near.sum()
            chance[..., own] = 1 - rate
            tables[who, ..., own, :] = rng.multinomial(truth[..., own], chance)
    return _failing(law, tables, rng)


def _failing(
    law: Law, tables: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """The tables of fields with the slides on which the student guesses or misses all cancer."""
    shape, truth = tables.shape[1:-2], tables[0].sum(-1).astype(np.int64)
    if law.guesses:
        guessed = rng.multinomial(truth, np.full(4, 0.25))
        tables[1] = np.where(_some(law.guesses, rng, shape), guessed, tables[1])
    if law.misses:
        missed = truth[..., None] * np.eye(4)[0]
        tables[1] = np.where(_some(law.misses, rng, shape), missed, tables[1])
    return tables


def _some(share: float, rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    return (rng.random(shape) < share)[..., None, None]


def _slides(law: Law, rng: np.random.Generator, *shape: int) -> NDArray[np.float64]:
    mix = np.array([0.35, 0.2, 0.15, 0.1, 0.1, 0.1])
    truth = rng.choice(6, shape, p=mix)
    tables = np.zeros((2, *shape, 6, 6))
    luck = rng.random(shape)  # partly shared: what is hard is hard for both
    for who, rate in enumerate(_rates(law, rng, *shape)):
        own = np.where(rng.random(shape) < 0.5, luck, rng.random(shape))
        step = np.where(rng.random(shape) < 0.75, 1, 2) * np.where(rng.random(shape) < 0.5, 1, -1)
        said = np.clip(truth + np.where(own < rate, step, 0), 0, 5)
        if who == 0:
            teachers = said
        elif law.guesses or law.misses:
            said = np.where(rng.random(shape) < law.guesses, rng.integers(0, 6, shape), teachers)
            said = np.where(rng.random(shape) < law.misses, 0, said)
        np.put_along_axis(tables[who].reshape(*shape, 36), (truth * 6 + said)[..., None], 1.0, -1)
    return tables


def lower_bounds(tables: NDArray[np.float64], unit: str) -> NDArray[np.float64]:
    """The product's one-sided bounds of many cohorts, NaN where it gives none."""
    if tables.shape[-3] < MIN_GROUPS:
        return np.full(tables.shape[1:-3], np.nan)
    return bounds_of(tables, unit)


def truth_of(law: Law) -> float:
    """The difference of kappas in the population, by the definition of kappa."""
    total = np.zeros((2, *([6, 6] if law.unit == "slide" else [4, 4])))
    rng = np.random.default_rng(1)
    for _ in range(10):
        total += draw(law, rng, POPULATION[law.unit] // 10).sum(1)
    values = []
    for table in total:
        place = np.arange(len(table))
        apart = (place[:, None] - place[None]) ** 2
        chance = np.outer(table.sum(1), table.sum(0)) / table.sum()
        values.append(1 - (apart * table).sum() / (apart * chance).sum())
    return float(values[1] - values[0])


LAWS = {
    ("field", "margin"): Law("field", 0.12, 0.22, 0.7),
    ("field", "margin, slides apart"): Law("field", 0.12, 0.22, 1.2),
    ("field", "margin, small"): Law("field", 0.12, 0.15, 0.7),
    ("field", "margin, guesses on 5 %"): Law("field", 0.12, 0.12, 0.7, guesses=0.05),
    ("field", "margin, guesses on 15 %"): Law("field", 0.12, 0.12, 0.7, guesses=0.15),
    ("field", "margin, guesses on 30 %"): Law("field", 0.12, 0.12, 0.7, guesses=0.3),
    ("field", "margin, cancer missed on 5 %"): Law("field", 0.12, 0.12, 0.7, misses=0.05),
    ("field", "margin, cancer missed on 10 %"): Law("field", 0.12, 0.12, 0.7, misses=0.1),
    ("field", "margin, cancer missed on 20 %"): Law("field", 0.12, 0.12, 0.7, misses=0.2),
    ("field", "margin, cancer missed on 30 %"): Law("field", 0.12, 0.12, 0.7, misses=0.3),
    ("slide", "margin"): Law("slide", 0.2, 0.4, 0.7),
    ("slide", "margin, large"): Law("slide", 0.2, 0.7, 0.7),
    ("slide", "margin, small"): Law("slide", 0.2, 0.3, 0.7),
    ("slide", "margin, guesses on 15 %"): Law("slide", 0.2, 0.2, 0.7, guesses=0.15),
    ("slide", "margin, guesses on 30 %"): Law("slide", 0.2, 0.2, 0.7, guesses=0.3),
    ("slide", "margin, cancer missed on 5 %"): Law("slide", 0.2, 0.2, 0.7, misses=0.05),
    ("slide", "margin, cancer missed on 10 %"): Law("slide", 0.2, 0.2, 0.7, misses=0.1),
}
POWER = {
    ("field", "none, margin 0.1"): (Law("field", 0.12, 0.12, 0.7), 0.1),
    ("field", "none, margin 0.15"): (Law("field", 0.12, 0.12, 0.7), 0.15),
    ("field", "none, margin 0.2"): (Law("field", 0.12, 0.12, 0.7), 0.2),
    ("slide", "none, margin 0.1"): (Law("slide", 0.2, 0.2, 0.7), 0.1),
    ("slide", "none, margin 0.2"): (Law("slide", 0.2, 0.2, 0.7), 0.2),
}


def passes(law: Law, margin: float, groups: int, cohorts: int, seed: int) -> tuple[int, int]:
    """How many cohorts have a bound, and in how many of them the student passes."""
    rng, bounds = np.random.default_rng(seed), []
    for begin in range(0, cohorts, CHUNK):
        tables = draw(law, rng, min(CHUNK, cohorts - begin), groups)
        bounds.append(lower_bounds(tables, law.unit))
    found = np.concatenate(bounds)
    return int(np.isfinite(found).sum()), int((found > -margin).sum())


def upper(passed: int, cohorts: int) -> float:
    """Upper end of Clopper's and Pearson's two-sided 95 % interval of a share."""
    from scipy.stats import beta

    return 1.0 if passed == cohorts else float(beta.ppf(0.975, passed + 1, cohorts - passed))


def simulate(cohorts: int, groups: tuple[int, ...] = GROUPS) -> list[dict[str, Any]]:
    """All rows of the table."""
    rows = []
    for (unit, name), law in LAWS.items():
        rows += _rows(unit, name, law, None, groups, cohorts)
    for (unit, name), (law, margin) in POWER.items():
        rows += _rows(unit, name, law, margin, groups, cohorts)
    return rows


def _rows(
    unit: str, name: str, law: Law, margin: float | None, groups: tuple[int, ...], cohorts: int
) -> list[dict[str, Any]]:
    truth = truth_of(law)
    stated = -truth if margin is None else margin
    rows = []
    for number in groups:
        bounded, passed = passes(law, stated, number, cohorts, number)
        values = (
            unit, name, round(stated, 4), number, cohorts, round(truth, 4), bounded / cohorts,
            passed / cohorts, round(upper(passed, cohorts), 4),
        )  # fmt: skip
        rows.append(dict(zip(COLUMNS, values, strict=True)))
        print(*values, file=sys.stderr, flush=True)
    return rows


def main() -> None:
    """Simulate, print and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cohorts", type=int, default=5000)
    parser.add_argument("-o", "--output", type=Path, default=OUT)
    options = parser.parse_args()
    rows = simulate(options.cohorts)
    with options.output.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
