"""``wsikd distill``: batches become a student."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

import click

from .common import progress, together


@click.command(short_help="Train a teacher, or a student from its teacher.")
@click.option(
    "-c",
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    required=True,
    metavar="CONFIG",
    help="YAML file; wsikd init writes one to start from.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="RUN",
    help="Folder of the run: settings, metrics, checkpoints, student.",
)
@click.option(
    "--data",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Tile stores, class folders, a labels CSV, bags or regions, in addition to those in "
    "CONFIG. Repeatable.",
)
@click.option(
    "--teacher",
    "teachers",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Run folder or bundle of the teacher. Repeatable: probabilities are averaged.",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a setting, e.g. weights.fm=0.1. Repeatable.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:0.")
@click.option("--name", metavar="TEXT", help="Name of the network, as wsikd name gives it.")
@click.option("--version-label", metavar="TEXT", help="Version of that name.")
@click.option("--resume", is_flag=True, help="Continue the run in RUN.")
@click.option(
    "--logger",
    "loggers",
    multiple=True,
    metavar="NAME",
    help="In addition to metrics.jsonl and metrics.csv: tensorboard (in RUN/tensorboard), or a "
    "logger that "
    "an installed package adds. Repeatable.",
)
def distill(
    config_file: Path,
    output: Path,
    data: tuple[Path, ...],
    teachers: tuple[Path, ...],
    overrides: tuple[str, ...],
    seed: int,
    device: str,
    name: str | None,
    version_label: str | None,
    resume: bool,
    loggers: tuple[str, ...],
) -> None:
    """Train a network: a teacher (method: supervised), a student (at_plus, hdkd), a slide
    classifier on bags (mil), an embedder (ts2g), a lesion detector (detector), or, without labels,
    a region encoder (slpd).

    On several GPUs or processes: torchrun --nproc-per-node N -m wsikd distill ...
    """
    from wsikd.core.errors import WsikdError
    from wsikd.core.output.lock import locked
    from wsikd.core.ranks import processes, rank
    from wsikd.learn.engine.loggers import check_loggers
    from wsikd.learn.engine.runs import load_run
    from wsikd.models.files.naming import check_name, name_bundle

    if version_label is not None and name is None:
        raise click.UsageError("--version-label needs --name")
    try:
        if name is not None:
            check_name(name, version_label)
        check_loggers(loggers)
        run = load_run(config_file, overrides, data=data, teachers=teachers)
    except WsikdError as error:
        if rank() > 0:  # the first process reports it
            sys.exit(error.exit_code)
        raise

    def train() -> None:
        with ExitStack() as stack:
            on_step, on_cost = None, None
            if rank() == 0:
                stack.enter_context(locked(output))
                on_cost = _note
                on_step = stack.enter_context(progress("training"))
            result = run.train(
                run.config, output, seed=seed, device=device, resume=resume, loggers=loggers,
                on_step=on_step, on_cost=on_cost,
            )  # fmt: skip
            if rank() == 0 and name is not None:
                name_bundle(output, name, version_label)
        if rank() == 0:
            click.echo(result.text())

    if processes() == 1:
        train()
    else:
        together(train, first=rank() == 0)


def _note(line: str) -> None:
    """Print how long the training will take, above the bar."""
    click.echo(line, err=True)
