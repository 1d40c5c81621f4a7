"""``wsikd tune``: choose settings on validation."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="Train a grid of settings, choose on validation.")
@click.option(
    "-c",
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    required=True,
    metavar="CONFIG",
    help="YAML file of the run that is tuned.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="DIR",
    help="Folder for the trials, trials.csv, best.yaml and, if costs differ, cost.png. Finished "
    "trials in it are kept.",
)
@click.option(
    "--grid",
    "entries",
    multiple=True,
    required=True,
    metavar="KEY=V1,V2",
    help="A setting and its values, e.g. weights.fm=0.01,0.1,1 or student_input=x1,x2,x4. "
    "Repeatable; every combination is tried.",
)
@click.option(
    "--data",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Data in addition to those in CONFIG, as in wsikd distill. Repeatable.",
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
    help="Change a setting of every trial. Repeatable.",
)
@click.option(
    "--metric",
    default="kappa",
    show_default=True,
    metavar="NAME",
    help="Validation metric that selects the best trial: kappa, balanced_accuracy, accuracy.",
)
@click.option(
    "--storage",
    metavar="URL",
    help="Optuna storage, e.g. sqlite:///tune.db.  [default: DIR/tune.db]",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:0.")
def tune(
    config_file: Path,
    output: Path,
    entries: tuple[str, ...],
    data: tuple[Path, ...],
    teachers: tuple[Path, ...],
    overrides: tuple[str, ...],
    metric: str,
    storage: str | None,
    seed: int,
    device: str,
) -> None:
    """Train every combination of a grid and choose the best on validation.

    Several processes may share DIR if each is started with the same command. The same command
    continues a stopped search.
    """
    import json

    from wsikd.core.errors import ConfigError
    from wsikd.core.ranks import refuse_team
    from wsikd.learn.patch.tune_plan import METRICS, Tuning, parse_grid
    from wsikd.learn.preflight import check_run

    refuse_team("wsikd tune", "start it once in each of several shells with the same -o")
    if metric not in METRICS:
        raise ConfigError(
            f"--metric {metric}", "is not known", f"choose one of {', '.join(METRICS)}"
        )
    changes = list(overrides)
    if teachers:
        changes.append(f"teacher={json.dumps([str(name) for name in teachers])}")
    tuning = Tuning(
        config_file,
        tuple(changes),
        tuple(map(str, data)),
        parse_grid(entries),
        metric,
        seed,
    )
    check_run(*(tuning.config(point) for point in tuning.points()))

    from wsikd.learn.patch import tune as engine

    result = engine.tune(tuning, output, storage=storage, device=device)
    click.echo(f"{result.finished} of {result.total} trials, in {result.trials_file}")
    for line in result.curve:
        click.echo(line)
    if result.best is not None:
        shown = ", ".join(f"{k}={v}" for k, v in result.best.items())
        click.echo(f"best on validation: {shown} ({metric} {result.value:.3f})")
    if result.best_file is not None:
        click.echo(result.best_file)
    elif result.finished < result.total:
        click.echo("other processes are still running trials: no best.yaml yet")
    else:
        click.echo("every trial diverged: no best.yaml")
