"""The evidence on real tissue: docs/decisions/0025, run by run.

python -m benchmarks.studies.real.run -o DIR --set colon=FOLDER --set prostate=FOLDER
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

if not __package__:  # run as a file: its folder is on the path, the checkout is not
    sys.path[0] = str(Path(__file__).resolve().parents[3])

from benchmarks.studies.command import CHANGES, OUTPUT, study

if TYPE_CHECKING:
    from collections.abc import Sequence

OPTIONS = (
    click.Option(
        ["--only"], multiple=True, metavar="PATTERN",
        help="Runs to train, by name (e.g. 'T/*', 'A/kd/*'). Repeatable.",
    ),
    click.Option(
        ["--budget-minutes"], type=click.FloatRange(min=0), metavar="N",
        help="Begin no run after so many minutes.",
    ),
    click.Option(
        ["--cpu-hours"], type=click.FloatRange(min=0), default=18.0, show_default=True,
        help="Begin no run once the study has taken so many CPU-hours.",
    ),
    click.Option(
        ["--processes"], type=click.IntRange(1, 2), default=1, show_default=True,
        help="Runs at a time, one thread each.",
    ),
    click.Option(["--list", "listing"], is_flag=True, help="Print where each run stands, and end."),
    click.Option(
        ["--record"], type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
        help="Write tables and picture of finished blocks as FILE.md, .json and .png, and end.",
    ),
)  # fmt: skip


@study(OUTPUT, CHANGES, *OPTIONS)
def main(
    output: Path,
    overrides: tuple[str, ...],
    only: tuple[str, ...],
    budget_minutes: float | None,
    cpu_hours: float,
    processes: int,
    listing: bool,
    record: Path | None,
) -> None:
    """Train and score the runs of the protocol, in its order.

    Give the same command again to continue where it stopped.
    """
    from benchmarks.studies.real.loop import Limits, listed, prepare, work

    plan, labels = prepare(output, overrides)
    if listing:
        click.echo("\n".join(listed(plan)))
        return
    if record is not None:
        from benchmarks.studies.real.page import write_record

        click.echo(write_record(plan, record), nl=False)
        return
    until = None if budget_minutes is None else time.monotonic() + 60 * budget_minutes
    others = [_another() for _ in range(processes - 1)]
    try:
        work(plan, labels, Limits(tuple(only), until, cpu_hours))
    finally:
        for other in others:
            other.wait()
    click.echo(listed(plan)[-1])


def _another() -> subprocess.Popen[bytes]:
    """The same command in a process of its own, with one run at a time."""
    module = "benchmarks.studies.real.run"
    return subprocess.Popen([sys.executable, "-m", module, *one_at_a_time(sys.argv[1:])])


def one_at_a_time(arguments: Sequence[str]) -> list[str]:
    """Arguments of a command without ``--processes``."""
    kept, skip = [], False
    for text in arguments:
        if not skip and not text.startswith("--processes"):
            kept.append(text)
        skip = text == "--processes"
    return kept


if __name__ == "__main__":
    main()
