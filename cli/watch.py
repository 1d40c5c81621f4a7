"""``wsikd watch``: grade what arrives in a folder."""

from __future__ import annotations

from pathlib import Path

import click

from .common import engine_option, slide_options, tissue_options


@click.command(short_help="Grade the slides that arrive in a folder.")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "-m",
    "--model",
    type=click.Path(path_type=Path),
    required=True,
    metavar="STUDENT",
    help="Run folder of wsikd distill, or a bundle (model.safetensors and card.json).",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="OUT",
    help="Folder of results, as of wsikd infer; also of watch.jsonl (log) and watch.json (state). "
    "Not inside FOLDER.",
)
@click.option(
    "--format",
    "formats",
    multiple=True,
    default=["zarr,csv,uncertain,geojson,jpeg"],
    show_default=True,
    metavar="NAMES",
    help="Files to write for each slide, as for wsikd infer. Repeatable.",
)
@click.option(
    "--specimen",
    type=click.Choice(["biopsy", "prostatectomy"]),
    default="biopsy",
    show_default=True,
    help="Rule for the Gleason score.",
)
@click.option(
    "--every",
    type=click.FloatRange(0.1),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two looks at FOLDER.",
)
@click.option(
    "--settle",
    type=click.FloatRange(0),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="A slide is complete when size and time of change of its files have stayed the same for "
    "so long.",
)
@click.option("--once", is_flag=True, help="End when no slide is waiting.")
@click.option(
    "--prometheus",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Keep metrics in FILE (.prom), for the textfile collector of Prometheus.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:0.")
@engine_option
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
    default="auto",
    show_default=True,
    help="As for wsikd infer.",
)
@tissue_options
@slide_options
@click.option(
    "--jobs",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    help="Slides processed at a time, each in its own process. 0: no extra process.",
)
@click.option(
    "--stall",
    type=click.FloatRange(0, min_open=True),
    default=10.0,
    show_default=True,
    metavar="MINUTES",
    help="Give up on a slide without progress for this many minutes.",
)
@click.option(
    "--grade-anyway",
    is_flag=True,
    help="Also grade slides that differ from the student's training.",
)
def watch(
    folder: Path,
    model: Path,
    output: Path,
    formats: tuple[str, ...],
    specimen: str,
    every: float,
    settle: float,
    once: bool,
    prometheus: Path | None,
    device: str,
    engine: str,
    precision: str,
    tissue: str,
    min_tissue: float,
    slide_mpp: float | None,
    reader: str,
    series: int | None,
    accept_grey: bool,
    threads: int | None,
    jobs: int,
    stall: float,
    grade_anyway: bool,
) -> None:
    """Grade the slides in FOLDER, then those that arrive, until SIGTERM or Ctrl-C.

    Start it again to continue: finished slides are kept, and failed ones are tried once more.
    """
    from wsikd.core.errors import ConfigError
    from wsikd.grade.engines.choose import check_names
    from wsikd.grade.predict import PredictSettings
    from wsikd.grade.runs.folder import Inputs, Running, Wanted, formats_of
    from wsikd.grade.runs.jobs import Grading
    from wsikd.grade.runs.watching import Pace, Reporter
    from wsikd.grade.runs.watching import watch as run
    from wsikd.grade.student_rules import Asked
    from wsikd.models.files.peek import peek_grader
    from wsikd.slides.listing.sidecar import tissue_method
    from wsikd.slides.threads import use_threads

    if output.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(f"-o {output}", "is inside the watched folder", "choose another -o")
    check_names(engine, precision)
    peek_grader(model, "-m")
    how = Running(jobs, use_threads(threads, jobs), stall)
    settings = PredictSettings(
        tissue=tissue_method(tissue), min_tissue=min_tissue, workers=how.threads, engine=engine,
        precision=precision,
    )  # fmt: skip
    slides = Inputs(
        slides=(str(folder),), tissue=tissue, slide_mpp=slide_mpp, reader=reader, series=series,
        accept_grey=accept_grey,
    )  # fmt: skip
    wanted = Wanted(formats_of(formats), Asked(specimen), grade_anyway=grade_anyway)
    output.mkdir(parents=True, exist_ok=True)
    run(
        slides, Grading(model, device, settings, None), wanted, how, Reporter(output, prometheus),
        Pace(every, settle, once), click.echo,
    )  # fmt: skip
