"""``wsikd reproduce``: the table of a paper, or of one's own."""

from __future__ import annotations

from pathlib import Path

import click

PAPERS = {"at_plus": "sicapv2", "hdkd": "efficiency"}
"""Paper -> folder of its rows."""
TS2G, MIL, SLPD = "ts2g", "mil", "slpd"
ALWAYS = ("paper", "output", "overrides", "device")
"""Options that go with every paper."""


@click.command(short_help="Train and score every row of a paper's comparison.")
@click.argument("paper", metavar="[PAPER]", default="at_plus")
@click.option(
    "--data",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="SICAPv2 as distributed, class folders, a labels CSV or tile stores. May be given again.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="DIR",
    help="Folder of the runs and of the tables. What is finished in it stays.",
)
@click.option(
    "--seeds",
    default="22,32,43",
    show_default=True,
    help="Seeds of the trainings; a student takes the teacher of its seed.",
)
@click.option(
    "--rows",
    metavar="NAMES",
    help="Rows to run, with commas; * stands for anything, e.g. 'ce_*,at_plus_*'.  [default: all]",
)
@click.option(
    "--recommended", is_flag=True, help="The rows of our recipe instead of the paper's form."
)
@click.option(
    "--config-dir",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="DIR",
    help="Rows of your own: files 0_teacher.yaml, 1_NAME.yaml, ...",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="[ROWS:]KEY=VALUE",
    help="Change a setting in every row, or in those named, e.g. 'fm_*:weights.fm=1'. May be "
    "given again.",
)
@click.option(
    "--folds",
    type=click.IntRange(2),
    help="Cross-fit: deal slides or patients into folds, each the test part once.",
)
@click.option(
    "--repeats",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="How often the folds are dealt anew.",
)
@click.option(
    "--redeal",
    is_flag=True,
    help="Deal the folds anew for each seed: a table's spread over seeds is then over both.",
)
@click.option(
    "--shares",
    default="10,25,50,100",
    show_default=True,
    help="hdkd: shares of the training slides in per cent.",
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
    shares: str,
    device: str,
) -> None:
    """Train and score every row of a comparison and print its table.

    PAPER is at_plus, hdkd, ts2g, mil or slpd. hdkd runs its rows on shares of the training slides
    and draws kappa.png. ts2g draws its own slides, so it takes only --set and --device; so does
    slpd, unless --data names region grids. mil cross-validates stage 3 of ts2g on --data bags, in
    --folds (5) by patient. Give the same command again to go on where it stopped; the test part is
    scored once a run.
    """
    from importlib.resources import as_file, files

    from wsikd.core.errors import ConfigError
    from wsikd.core.output.files import check_names
    from wsikd.core.output.markers import TABLE, TABLE_FILES
    from wsikd.core.ranks import refuse_team
    from wsikd.learn.preflight import PATCHES, check_data
    from wsikd.learn.reproduce.plan import Plan, read_rows

    refuse_team("wsikd reproduce", "start it once")
    if paper == TS2G:
        _refuse_others(context, ALWAYS)
        _reproduce_ts2g(output, overrides, device)
        return
    if paper == SLPD:
        _refuse_others(context, (*ALWAYS, "data", "folds", "seeds"))
        given = context.get_parameter_source("seeds") is click.core.ParameterSource.COMMANDLINE
        changes = [f"seeds={list(_numbers(seeds))}"] if given else []
        changes += [f"folds={folds}"] if folds else []
        _reproduce_slpd(data, output, (*overrides, *changes), device)
        return
    check_names(output, TABLE_FILES, TABLE)
    if paper == MIL:
        _refuse_others(context, (*ALWAYS, "data", "folds", "seeds"))
        _cross_validate(data, output, overrides, folds or 5, _numbers(seeds), device)
        return
    if paper not in PAPERS:
        raise ConfigError(
            paper, "no such paper", f"give {', '.join(PAPERS)}, {TS2G}, {MIL} or {SLPD}"
        )
    if not data:
        raise click.MissingParameter(param_hint="'--data'", param_type="option")
    place = files("wsikd.configs") / paper / PAPERS[paper]
    if config_dir is not None and recommended:
        raise ConfigError("--recommended", "does not go with --config-dir", "leave one out")
    with as_file(place / "recommended" if recommended else place) as own:
        wanted = [name.strip() for name in (rows or "").split(",") if name.strip()]
        found = read_rows(
            config_dir or own, data=[str(p) for p in data], overrides=overrides, wanted=wanted
        )
    if redeal and (folds is None or repeats > 1):
        raise ConfigError(
            "--redeal", "deals the folds once a seed", "give --folds, and leave --repeats out"
        )
    plan = Plan(found, _numbers(seeds), folds, repeats, redeal)
    check_data(data, *PATCHES)
    if paper == "hdkd":
        parts = _shares(shares)
        from wsikd.learn.reproduce.label_efficiency import make_study, run_shares, write_study

        run_shares(plan, output, parts, device=device)
        click.echo(write_study(make_study(plan, output, parts), output), nl=False)
        return
    from wsikd.learn.reproduce.run_rows import run_all
    from wsikd.learn.reproduce.table import make_table, write_table

    run_all(plan, output, device=device)
    click.echo(write_table(make_table(plan, output), output), nl=False)


def _reproduce_ts2g(output: Path, overrides: tuple[str, ...], device: str) -> None:
    """All stages on a generated cohort, and their tables."""
    from wsikd.learn.ts2g.study_settings import read_study

    settings = read_study(overrides)

    from wsikd.learn.ts2g.study import Study
    from wsikd.learn.ts2g.study_table import write_table

    study = Study(settings, output, device=device)
    study.run()
    click.echo(write_table(study), nl=False)


def _reproduce_slpd(
    data: tuple[Path, ...], output: Path, overrides: tuple[str, ...], device: str
) -> None:
    """Region encoders with and without prototypes, and their tables."""
    from wsikd.learn.preflight import check_data
    from wsikd.learn.slpd.study_settings import read_study
    from wsikd.slides.what_is import GRIDS

    settings = read_study(overrides, own_data=bool(data))
    if data:
        check_data(data, GRIDS)

    from wsikd.learn.slpd.study import Study
    from wsikd.learn.slpd.study_table import write_table

    study = Study(settings, output, device=device, data=data)
    study.run()
    click.echo(write_table(study), nl=False)


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
    from wsikd.learn.mil.settings import MilConfig
    from wsikd.learn.preflight import check_run

    with as_file(files("wsikd.configs") / TS2G / "3_mil.yaml") as file:
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


def _numbers(text: str) -> tuple[int, ...]:
    """Seeds of "22,32,43"; raises a usage error for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts) or len(set(parts)) < len(parts):
        raise click.BadParameter(f"'{text}' is no list of different seeds, e.g. 22,32,43")
    return tuple(map(int, parts))


def _shares(text: str) -> tuple[float, ...]:
    """Shares of "25,10", the smallest first; raises a usage error for anything else."""
    try:
        found = tuple(float(part) / 100 for part in text.split(","))
    except ValueError:
        found = ()
    if not found or len(set(found)) < len(found) or not all(0 < s <= 1 for s in found):
        raise click.BadParameter(f"'{text}' is no list of different per cents, e.g. 10,25,50,100")
    return tuple(sorted(found))
