"""SLPD: region encoders with and without prototypes, and what each is worth.

python benchmarks/studies/slpd/run.py -o DIR [--data REGIONS]
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
from wsikd.cli.reproduce import numbers

if not __package__:  # run as a file: its folder is on the path, the checkout is not
    sys.path[0] = str(Path(__file__).resolve().parents[3])

from benchmarks.studies.command import CHANGES, DEVICE, OUTPUT, study


@study(
    click.Option(
        ["--data"],
        multiple=True,
        type=click.Path(path_type=Path),
        metavar="PATH",
        help="Region grids of wsikd embed --regions. Repeatable.  [default: drawn slides]",
    ),
    OUTPUT,
    click.Option(["--seeds"], metavar="NUMBERS", help="Seeds of the trainings, e.g. 0,1,2."),
    click.Option(["--folds"], type=click.IntRange(2), help="Folds of patients."),
    CHANGES,
    DEVICE,
)
def main(
    data: tuple[Path, ...],
    output: Path,
    seeds: str | None,
    folds: int | None,
    overrides: tuple[str, ...],
    device: str,
) -> None:
    """Compare region encoders with and without prototypes and print the tables.

    It draws its own slides unless --data names region grids. Give the same command again to
    continue where it stopped; the test part is scored once a run.
    """
    from benchmarks.studies.slpd.settings import read_study
    from wsikd.learn.preflight import check_data
    from wsikd.slides.what_is import GRIDS

    changes = [f"seeds={list(numbers(seeds))}"] if seeds is not None else []
    changes += [f"folds={folds}"] if folds else []
    settings = read_study((*overrides, *changes), own_data=bool(data))
    if data:
        check_data(data, GRIDS)

    from benchmarks.studies.slpd.study import Study
    from benchmarks.studies.slpd.table import write_table

    done = Study(settings, output, device=device, data=data)
    done.run()
    click.echo(write_table(done), nl=False)


if __name__ == "__main__":
    main()
