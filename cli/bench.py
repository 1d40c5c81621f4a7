"""``wsikd bench``: the teacher at 10x against the student at 2.5x."""

from __future__ import annotations

from pathlib import Path

import click

from .common import (
    Batch,
    engine_option,
    input_option,
    progress,
    slide_options,
    tissue_options,
)
from .sections import Sectioned


@click.command(
    cls=Sectioned,
    short_help="Compare teacher and students: times, kappa, and which one to use.",
    sections={
        "Networks to compare": "teacher students budgets margin arch magnifications patch_size",
        "Reference labels": "annotations label_map labels specimen",
        "Reading": "max_fields tissue min_tissue slide_mpp series accept_grey reader",
        "Hardware": "repeats batch_size device engine threads",
    },
)
@input_option
@click.option("--teacher", type=click.Path(path_type=Path), help="Run folder or bundle at 10x.")
@click.option(
    "--student",
    "students",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Run folder or bundle at 2.5x. Repeat it to compare magnifications.",
)
@click.option(
    "--margin",
    type=click.FloatRange(0, 1, min_open=True),
    metavar="KAPPA",
    help="Choose the cheapest student whose kappa is not inferior to the teacher's by this margin, "
    "such as 0.2 with 30 slides, 0.1 with 100.",
)
@click.option(
    "--budget",
    "budgets",
    type=click.FloatRange(0, 1),
    multiple=True,
    metavar="SHARE",
    help="With one student: share of its fields that the teacher grades again. Repeatable.  "
    "[default: 0.02, 0.05, 0.1 and 0.2]",
)
@click.option(
    "--annotations",
    type=click.Path(path_type=Path, exists=True),
    metavar="PATH",
    help="Annotations of the slides: a file, or a folder of files named after the slides, as for "
    "wsikd tile. Kappa is then computed with them.",
)
@click.option(
    "--label-map",
    multiple=True,
    metavar="SOURCE=CLASS",
    help="Classes of the annotations, as for wsikd tile. Repeatable.",
)
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    metavar="CSV",
    help="CSV of grade groups of whole slides, as for evaluate --slides (columns slide, "
    "grade_group or gleason, and optionally patient). --margin then applies to the kappa of "
    "slides.",
)
@click.option(
    "--specimen",
    type=click.Choice(["biopsy", "prostatectomy"]),
    help="With --labels: rule for the Gleason score.  [default: biopsy]",
)
@click.option(
    "--arch",
    metavar="NAME",
    help="Instead of --teacher and --student: one untrained network of this name at both "
    "magnifications (vgg16, resnet18, ...). Times only.",
)
@click.option(
    "--mag",
    "magnifications",
    type=click.FloatRange(0, min_open=True),
    multiple=True,
    help="With --arch: the two magnifications.  [default: 10 and 2.5]",
)
@click.option(
    "--patch-size",
    type=click.IntRange(1),
    default=512,
    show_default=True,
    help="With --arch: patch side in px at the higher magnification.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="Folder for bench.json, bench.md, bench.png and, for trained networks, kappa.png.",
)
@click.option(
    "--repeats",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Timed passes of each network over each slide.",
)
@click.option(
    "--max-fields",
    type=click.IntRange(1),
    help="Read only this many fields of each slide, evenly spaced.",
)
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:0.")
@engine_option
@tissue_options
@slide_options
def bench(
    inputs: tuple[str, ...],
    teacher: Path | None,
    students: tuple[Path, ...],
    margin: float | None,
    budgets: tuple[float, ...],
    annotations: Path | None,
    label_map: tuple[str, ...],
    labels: Path | None,
    specimen: str | None,
    arch: str | None,
    magnifications: tuple[float, ...],
    patch_size: int,
    output: Path,
    repeats: int,
    max_fields: int | None,
    batch_size: int,
    device: str,
    engine: str,
    tissue: str,
    min_tissue: float,
    slide_mpp: float | None,
    reader: str,
    series: int | None,
    accept_grey: bool,
    threads: int | None,
) -> None:
    """Compare run time and grades of teacher and students on the same tissue.

    Kappa of fields is computed with annotations or labels (in the manifest, or --annotations) if
    there are any, else with the teacher. --labels adds kappa of slides.
    """
    from wsikd.core.output.files import check_names
    from wsikd.core.output.markers import BENCH, BENCH_FILES
    from wsikd.core.workers.memory import keep_freed
    from wsikd.grade.bench.types import BUDGETS, Question
    from wsikd.grade.predict import PredictSettings
    from wsikd.grade.runs.compare_labels import read_labels
    from wsikd.models.files.peek import check_networks
    from wsikd.slides.annotations.label_map import parse_label_map
    from wsikd.slides.listing.inputs import check_slides, existing, own_tissue
    from wsikd.slides.listing.manifest import find_slides
    from wsikd.slides.listing.sidecar import tissue_method
    from wsikd.slides.threads import use_threads

    if bool(arch) == bool(teacher or students) or bool(teacher) != bool(students):
        raise click.UsageError("give --teacher and --student, or --arch alone")
    if arch and (margin is not None or budgets or labels):
        raise click.UsageError(
            "--margin, --budget and --labels are for trained networks, not --arch"
        )
    if arch and len(magnifications) not in (0, 2):
        raise click.UsageError("--arch compares two magnifications: give --mag twice")
    if labels and max_fields:
        raise click.UsageError("--labels are for whole slides: omit --max-fields")
    if specimen and not labels:
        raise click.UsageError("--specimen needs --labels")
    if budgets and len(students) > 1:
        raise click.UsageError("--budget needs exactly one --student")
    method = tissue_method(tissue)
    if teacher:
        check_networks(teacher, students)
    check_slides(inputs)
    keep_freed()  # as infer does
    settings = PredictSettings(
        tissue=method,
        min_tissue=min_tissue,
        batch_size=batch_size,
        workers=use_threads(threads),
        max_fields=max_fields,
        engine=engine,
    )
    batch = Batch(output)
    check_names(output, BENCH_FILES, BENCH)
    entries = find_slides(
        inputs,
        slide_mpp=slide_mpp,
        annotations=annotations,
        reader=reader,
        series=series,
        accept_grey=accept_grey,
    )
    entries = existing(entries, batch)
    if not entries:
        batch.finish("nothing to compare")
    question = Question(
        budgets or BUDGETS,
        margin,
        parse_label_map(label_map),
        {one.slide: one for one in read_labels(labels)} if labels else {},
        specimen or "biopsy",
    )

    from wsikd.grade.bench.compare import (
        open_students,
        open_trained,
        open_untrained,
        write_comparison,
    )
    from wsikd.grade.bench.run import run_bench

    if arch:
        question = Question()
        pair = open_untrained(arch, magnifications or (10.0, 2.5), patch_size, device, settings)
        click.echo("Untrained networks: the times are valid, the grades are meaningless.", err=True)
    else:
        assert teacher is not None
        pair = (open_trained("teacher", teacher, device, settings),
                *open_students(students, device, settings))  # fmt: skip
    entries = own_tissue(tissue, entries, batch)
    with progress("bench") as on_progress:
        record = run_bench(
            entries, *pair, question=question, repeats=repeats, on_progress=on_progress,
            on_failure=batch.failed,
        )  # fmt: skip
    if record is not None:
        click.echo(write_comparison(record, output))
    batch.finish(f"written to {output}" if record else "nothing to compare")
