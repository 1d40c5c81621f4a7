"""Measure the coverage of every interval that wsikd prints: a CSV, and the page's tables.

``python -m benchmarks.studies.coverage.run FILE.csv`` takes a quarter of an hour on one core;
``--cohorts 200 --rounds 3`` shows that it runs.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmarks.studies.coverage.cohort import Errors
from benchmarks.studies.coverage.figures import (
    field_pool,
    measure_fields,
    measure_grade_groups,
    measure_seeds,
    measure_slides,
)
from benchmarks.studies.coverage.shares import measure_shares
from benchmarks.studies.coverage.slides import (
    measure_folds,
    measure_grade_differences,
    measure_more_slides,
    measure_rates,
)
from wsikd.core.output.files import aside

if TYPE_CHECKING:
    from collections.abc import Iterator

GROUPS = (3, 5, 10, 20, 30, 100)
REACH_MM = (0.5, 1.0, 4.0)
COLUMNS = ("figure", "reach_mm", "groups", "shown", "cohorts", "defined", "coverage", "error",
           "width", "of_oracle", "bound_misses")  # fmt: skip


def measure(cohorts: int, rounds: int, slides: int) -> Iterator[dict[str, Any]]:
    """Rows of the table.

    Args:
        cohorts: for each figure.
        rounds: validations for shares.
        slides: of the pools.
    """
    for reach in REACH_MM:
        pool = field_pool(1, slides, Errors(reach_mm=reach))
        for groups in GROUPS:
            for row in measure_fields(pool, groups, cohorts, seed=groups):
                yield row | {"reach_mm": reach}
    for groups in GROUPS:
        for patients in (False, True):
            yield from measure_slides(groups, cohorts, seed=groups, patients=patients)
        yield measure_grade_groups(groups, cohorts, seed=groups)
        yield from measure_more_slides(groups, cohorts, seed=groups)
        yield from measure_rates(groups, cohorts, seed=groups)
        yield measure_folds(groups, cohorts, seed=groups)
        yield measure_grade_differences(groups, cohorts, seed=groups)
    for seeds in (3, 5):
        yield measure_seeds(seeds, 10 * cohorts, seed=seeds)
    for reach in REACH_MM:
        for count in (10, 20, 30, 100):
            for row in measure_shares(Errors(reach_mm=reach), count, fields=None, rounds=rounds):
                yield row | {"reach_mm": reach}
    for count in (20, 100):
        for row in measure_shares(Errors(), count, fields=40, rounds=rounds):
            yield row | {"reach_mm": 1.0, "figure": f"{row['figure']}, few labelled fields"}


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--cohorts", default=2000, show_default=True)
@click.option("--rounds", default=60, show_default=True)
@click.option("--slides", default=2000, show_default=True)
def main(file: Path, cohorts: int, rounds: int, slides: int) -> None:
    """Write the table to FILE."""
    with aside(file) as part, part.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        for row in measure(cohorts, rounds, slides):
            text = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()}
            writer.writerow(text)
            click.echo(", ".join(f"{k} {text.get(k, '')}" for k in COLUMNS))


if __name__ == "__main__":
    main()
