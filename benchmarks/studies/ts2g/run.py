"""TS2G-KD: detector, adapters, bag networks and the drop-in check on drawn slides.

python benchmarks/studies/ts2g/run.py -o DIR
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

if not __package__:  # run as a file: its folder is on the path, the checkout is not
    sys.path[0] = str(Path(__file__).resolve().parents[3])

from benchmarks.studies.command import CHANGES, DEVICE, OUTPUT, study


@study(OUTPUT, CHANGES, DEVICE)
def main(output: Path, overrides: tuple[str, ...], device: str) -> None:
    """Run all stages of TS2G-KD on slides that it draws and print the tables.

    Give the same command again to continue where it stopped.
    """
    from benchmarks.studies.ts2g.settings import read_study

    settings = read_study(overrides)

    from benchmarks.studies.ts2g.study import Study
    from benchmarks.studies.ts2g.table import write_table

    done = Study(settings, output, device=device)
    done.run()
    click.echo(write_table(done), nl=False)


if __name__ == "__main__":
    main()
