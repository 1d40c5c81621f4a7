"""HDKD: how a distilled student depends on the number of training slides.

python benchmarks/studies/hdkd/run.py --data FOLDERS -o DIR
"""

from __future__ import annotations

import sys
from importlib.resources import as_file, files
from pathlib import Path

import click
from wsikd.cli.reproduce import read_plan, reproduce

if not __package__:  # run as a file: its folder is on the path, the checkout is not
    sys.path[0] = str(Path(__file__).resolve().parents[3])

from benchmarks.studies.command import study

SHARES = click.Option(
    ["--shares"],
    default="10,25,50,100",
    show_default=True,
    help="Shares of the training slides in per cent.",
)


@study(*(p for p in reproduce.params if p.name not in ("paper", "recommended")), SHARES)
def main(
    data: tuple[Path, ...],
    output: Path,
    seeds: str,
    rows: str | None,
    config_dir: Path | None,
    overrides: tuple[str, ...],
    folds: int | None,
    repeats: int,
    redeal: bool,
    device: str,
    shares: str,
) -> None:
    """Run a comparison's rows on shares of the training slides, print the table, draw kappa.png.

    Give the same command again to continue where it stopped; the test part is scored once a run.
    """
    from wsikd.core.output.files import check_names
    from wsikd.core.output.markers import TABLE, TABLE_FILES

    check_names(output, TABLE_FILES, TABLE)
    with as_file(files("wsikd.configs") / "hdkd" / "efficiency") as own:
        plan = read_plan(
            config_dir or own, data, rows=rows, overrides=overrides, seeds=seeds, folds=folds,
            repeats=repeats, redeal=redeal,
        )  # fmt: skip
    parts = shares_of(shares)

    from benchmarks.studies.hdkd.label_efficiency import make_study, run_shares, write_study

    run_shares(plan, output, parts, device=device)
    click.echo(write_study(make_study(plan, output, parts), output), nl=False)


def shares_of(text: str) -> tuple[float, ...]:
    """Shares of "25,10", the smallest first; raises a usage error for anything else."""
    try:
        found = tuple(float(part) / 100 for part in text.split(","))
    except ValueError:
        found = ()
    if not found or len(set(found)) < len(found) or not all(0 < s <= 1 for s in found):
        raise click.BadParameter(
            f"'{text}' is not a list of different per cents, e.g. 10,25,50,100"
        )
    return tuple(sorted(found))


if __name__ == "__main__":
    main()
