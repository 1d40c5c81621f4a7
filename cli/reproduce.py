"""``wsikd reproduce``: the table of a paper, or of the user's own rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from wsikd.learn.reproduce.plan import Plan

PAPERS = {"at_plus": "sicapv2"}
"""Paper -> folder of its rows."""
MIL = "mil"
STUDIES = ("hdkd", "slpd", "ts2g")
"""Run from a checkout; not installed."""
ALWAYS = ("paper", "output", "overrides", "device")
"""Options that go with every paper."""


@click.command(short_help="Train and score every row of a paper's comparison.")
@click.argument("paper", metavar="[PAPER]", default="at_plus")
@click.option(
    "--data",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="SICAPv2 as distributed, class folders, a labels CSV or tile stores. Repeatable.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="DIR",
    help="Folder for the runs and the tables. Finished runs in it are kept.",
)
@click.option(
    "--seeds",
    default="22,32,43",
    show_default=True,
    help="Seeds of the training runs; a student uses the teacher of the same seed.",
)
@click.option(
    "--rows",
    metavar="NAMES",
    help="Rows to run, separated by commas; * is a wildcard, e.g. 'ce_*,at_plus_*'.  "
    "[default: all]",
)
@click.option(
    "--recommended", is_flag=True, help="Run the rows of wsikd's own recipe instead of the paper's."
)
@click.option(
    "--config-dir",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="DIR",
    help="Your own rows: base.yaml, and rows.yaml with each row's name and its differences from "
    "base.yaml; or files 0_teacher.yaml, 1_NAME.yaml, ...",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="[ROWS:]KEY=VALUE",
    help="Change a setting in every row, or in those named, e.g. 'fm_*:weights.fm=1'. Repeatable.",
)
@click.option(
    "--folds",
    type=click.IntRange(2),
    help="Cross-validation: divide slides or patients into this many folds; each is the test "
    "part once.",
)
@click.option(
    "--repeats",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Number of times that the folds are drawn.",
)
@click.option(
    "--redeal",
    is_flag=True,
    help="Draw new folds for each seed; a table's spread over seeds then includes the spread "
    "over folds.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:0.")
@click.pass_context
def reproduce(
    context: click.Context,
    paper: str,
    data: tuple[Path, ...],
    output: Path,
    seeds: str,
    rows: str | None,
    recommended: bool,
    config_dir: Path | None,
    overrides: tuple[str, ...],
    folds: int | None,
    repeats: int,
    redeal: bool,
    device: str,
) -> None:
    """Train and score every row of a comparison and print its table.

    PAPER is at_plus or mil. mil cross-validates slide classifiers on --data bags, in --folds (5) by
    patient. Repeat the same command to continue where it stopped; the test part is scored once per
    run. The studies of hdkd, slpd and ts2g are scripts in benchmarks/studies of a checkout.
    """
    from importlib.resources import as_file, files

    from wsikd.core.errors import ConfigError
    from wsikd.core.output.files import check_names
    from wsikd.core.output.markers import TABLE, TABLE_FILES
    from wsikd.core.ranks import refuse_team

    refuse_team("wsikd reproduce", "start it once")
    if paper in STUDIES:
        script = f"python benchmarks/studies/{paper}/run.py"
        raise ConfigError(paper, "is a study and not installed", f"run {script} in a checkout")
    check_names(output, TABLE_FILES, TABLE)
    if paper == MIL:
        _refuse_others(context, (*ALWAYS, "data", "folds", "seeds"))
        _cross_validate(data, output, overrides, folds or 5, numbers(seeds), device)
        return
    if paper not in PAPERS:
        raise ConfigError(paper, "no such paper", f"give {', '.join(PAPERS)} or {MIL}")
    place = files("wsikd.configs") / paper / PAPERS[paper]
    if config_dir is not None and recommended:
        raise ConfigError("--recommended", "does not go with --config-dir", "leave one out")
    with as_file(place / "recommended" if recommended else place) as own:
        plan = read_plan(
            config_dir or own, data, rows=rows, overrides=overrides, seeds=seeds, folds=folds,
            repeats=repeats, redeal=redeal,
        )  # fmt: skip
    from wsikd.learn.reproduce.run_rows import run_all
    from wsikd.learn.reproduce.table import make_table, write_table

    run_all(plan, output, device=device)
    click.echo(write_table(make_table(plan, output), output), nl=False)


def read_plan(
    folder: Path,
    data: tuple[Path, ...],
    *,
    rows: str | None,
    overrides: tuple[str, ...],
    seeds: str,
    folds: int | None,
    repeats: int,
    redeal: bool,
) -> Plan:
    """What the options ask for, with data that can be read.

    Args:
        folder: folder of the rows' files.
        data: what ``--data`` names, and so on for the other options.

    Raises:
        click.UsageError: there is no data, or the seeds are not numbers.
        ConfigError: a row or setting is wrong, or options do not go together.
    """
    from wsikd.core.errors import ConfigError
    from wsikd.learn.preflight import check_data
    from wsikd.learn.reproduce.plan import Plan, read_rows
    from wsikd.slides.what_is import PATCHES

    if not data:
        raise click.MissingParameter(param_hint="'--data'", param_type="option")
    wanted = [name.strip() for name in (rows or "").split(",") if name.strip()]
    paths = [str(path) for path in data]
    found = read_rows(folder, data=paths, overrides=overrides, wanted=wanted)
    if redeal and (folds is None or repeats > 1):
        raise ConfigError(
            "--redeal",
            "draws the folds once for each seed",
            "give --folds, and leave --repeats out",
        )
    plan = Plan(found, numbers(seeds), folds, repeats, redeal)
    check_data(data, *PATCHES)
    return plan


def _cross_validate(
    data: tuple[Path, ...],
    output: Path,
    overrides: tuple[str, ...],
    folds: int,
    seeds: tuple[int, ...],
    device: str,
) -> None:
    """Bag networks over folds of patients, and their table."""
    from importlib.resources import as_file, files

    from wsikd.core.config import load_config
    from wsikd.learn.mil.method import MilConfig
    from wsikd.learn.preflight import check_run

    with as_file(files("wsikd.configs") / "mil" / "mil.yaml") as file:
        config = load_config(MilConfig, file, overrides)
    paths = [*config.data.paths, *map(str, data)]
    config = config.model_copy(update={"data": config.data.model_copy(update={"paths": paths})})
    check_run(config)

    from wsikd.learn.mil.cross_validate import cross_validate, write_folds

    found = cross_validate(config, output, folds=folds, seeds=seeds, device=device)
    click.echo(write_folds(found, config, output, folds), nl=False)


def _refuse_others(context: click.Context, known: tuple[str, ...]) -> None:
    """Raise a usage error for an option that was given and would do nothing."""
    for option in context.command.params:
        name = option.name or ""
        given = context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if given and name not in known:
            raise click.UsageError(f"{option.opts[0]} does not go with {context.params['paper']}")


def numbers(text: str) -> tuple[int, ...]:
    """Seeds of "22,32,43"; raises a usage error for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts) or len(set(parts)) < len(parts):
        raise click.BadParameter(f"'{text}' is not a list of different seeds, e.g. 22,32,43")
    return tuple(map(int, parts))
