"""``wsikd infer``: slides and a student become grade maps."""

from __future__ import annotations

import json
import logging
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .common import (
    Batch,
    SlideBar,
    engine_option,
    input_option,
    slide_options,
    tissue_options,
)
from .sections import Sectioned

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wsikd.core.errors import WsikdError
    from wsikd.core.output.batch import Named


@click.command(
    cls=Sectioned,
    short_help="Grade whole slides: maps, overlays and a summary.",
    sections={
        "Reading": "stride dense exact tissue min_tissue slide_mpp series accept_grey reader",
        "Conclusions": "specimen min_area min_pattern sensitivity minor_4 minor_5 grade_anyway",
        "Escalation to the teacher": "escalate budget agreement kappa",
        "Hardware": "batch_size device engine precision threads jobs stall",
    },
)
@input_option
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
    type=click.Path(path_type=Path),
    required=True,
    metavar="OUT",
    help="Folder for one folder per slide, and summary.csv.",
)
@click.option(
    "--format",
    "formats",
    multiple=True,
    default=["zarr,csv,uncertain,geojson,jpeg"],
    show_default=True,
    metavar="NAMES",
    help="Files to write for each slide: zarr (OME-Zarr), ome-tiff (pyramid), csv (fields), "
    "uncertain (fields near a decision boundary), geojson (grade regions for QuPath), "
    "geojson-tiles (a QuPath tile per field), jpeg, png or webp (overlay), dicom-seg (DICOM slides "
    "only), those that installed packages add, or all (every format that suits the slide). "
    "Repeatable.",
)
@click.option(
    "--specimen",
    type=click.Choice(["biopsy", "prostatectomy"]),
    default="biopsy",
    show_default=True,
    help="Rule for the Gleason score.",
)
@click.option(
    "--min-area",
    type=click.FloatRange(0),
    metavar="MM2",
    help="Least area of cancer, all patterns together, for a slide to have cancer; it replaces all "
    "other thresholds.  [default: the student's thresholds, at most 0.5 in biopsies]",
)
@click.option(
    "--min-pattern",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="Least share of the cancer for a pattern to count.  [default: the student's, at most "
    "0.05]",
)
@click.option(
    "--sensitivity",
    type=click.FloatRange(0, 1),
    default=0.95,
    show_default=True,
    metavar="SHARE",
    help="Share of slides with cancer that the student's thresholds must find on its validation "
    "slides.",
)
@click.option(
    "--minor-4",
    type=click.Choice(["secondary", "minor"]),
    default="secondary",
    show_default=True,
    help="Prostatectomies: a pattern 4 below 5 % of a pattern 3 cancer makes 3+4, or is a minor "
    "pattern of 3+3.",
)
@click.option(
    "--minor-5",
    type=click.Choice(["secondary", "minor"]),
    default="secondary",
    show_default=True,
    help="Prostatectomies: a pattern 5 below 5 % outside grade groups 2 and 3 makes 4+5, or is a "
    "minor pattern of 4+4.",
)
@click.option(
    "--stride",
    type=click.IntRange(1),
    help="Step between fields in px at the student's resolution.  [default: its patch]",
)
@click.option("--dense", is_flag=True, help="Not supported: it would change classes. Use --stride.")
@click.option(
    "--exact",
    is_flag=True,
    help="Decode JPEG at full size. By default a slide without a level near the student's "
    "resolution is downscaled in the JPEG decoder (within 1.5 grey levels RMSE).",
)
@click.option(
    "--escalate",
    type=click.Path(path_type=Path),
    metavar="TEACHER",
    help="Let the teacher (run folder or bundle) grade the student's most uncertain fields again.",
)
@click.option(
    "--budget",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="With --escalate: largest share of a slide's fields that the teacher grades; 1 means "
    "all.  "
    "[default: 0.1]",
)
@click.option(
    "--agreement",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="With --escalate: share of fields that must have the teacher's class, with 95 % "
    "confidence. The threshold of uncertainty follows from the bounds in the student's card.  "
    "[default: 0.95]",
)
@click.option(
    "--kappa",
    type=click.FloatRange(-1, 1),
    metavar="KAPPA",
    help="With --escalate, instead of --agreement: quadratic kappa with the labels that student "
    "and teacher must reach together, with 95 % confidence.",
)
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:0.")
@engine_option
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
    default="auto",
    show_default=True,
    help="auto: bf16, or fp16 on GPUs without bf16, if a sample of fields gets the same classes as "
    "in fp32; else fp32. All slides in one output folder use the same engine and precision.",
)
@tissue_options
@slide_options
@click.option(
    "--jobs",
    type=click.IntRange(0),
    default=1,
    show_default=True,
    help="Slides processed at a time, each in its own process, so that a damaged slide does not "
    "stop the others. 0: no extra process.",
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
    help="Also grade slides that differ from the student's training. By default, their maps are "
    "written, and their grades are withheld.",
)
@click.option("--overwrite", is_flag=True, help="Grade again and replace earlier results.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON object for each slide, graded or failed, on standard output, and "
    "everything else on standard error.",
)
def infer(
    inputs: tuple[str, ...],
    model: Path,
    output: Path,
    formats: tuple[str, ...],
    specimen: str,
    min_area: float | None,
    min_pattern: float | None,
    sensitivity: float,
    minor_4: str,
    minor_5: str,
    stride: int | None,
    dense: bool,
    exact: bool,
    escalate: Path | None,
    budget: float | None,
    agreement: float | None,
    kappa: float | None,
    batch_size: int,
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
    overwrite: bool,
    as_json: bool,
) -> None:
    """Grade whole slides with a student: maps, overlays and a summary."""
    from wsikd.grade.engines.choose import check_names
    from wsikd.grade.predict import PredictSettings
    from wsikd.grade.runs.folder import Inputs, Running, Wanted, formats_of, grade_slides
    from wsikd.grade.runs.jobs import Escalation, Grading
    from wsikd.grade.student_rules import Asked
    from wsikd.slides.listing.inputs import check_slides
    from wsikd.slides.listing.sidecar import tissue_method
    from wsikd.slides.threads import use_threads

    limits = {"budget": budget, "agreement": agreement, "kappa": kappa}
    if escalate is None and any(v is not None for v in limits.values()):
        raise click.UsageError("--budget, --agreement and --kappa need --escalate TEACHER")
    if kappa is not None and (agreement is not None or budget == 1):
        other = "--agreement" if agreement is not None else "--budget 1, which reads every field"
        raise click.UsageError(f"give --kappa or {other}, not both")
    if dense:
        raise _not_dense()
    method = tissue_method(tissue)
    check_names(engine, precision)
    names = formats_of(formats)
    _check_models(model, escalate)
    check_slides(inputs)
    how = Running(jobs, use_threads(threads, jobs), stall)
    settings = PredictSettings(
        stride_px=stride,
        tissue=method,
        min_tissue=min_tissue,
        batch_size=batch_size,
        workers=how.threads,
        engine=engine,
        precision=precision,
        exact=exact,
    )
    given = {k: v for k, v in limits.items() if v is not None}
    asked = None if escalate is None else Escalation(escalate, **given)
    slides = Inputs(
        slides=inputs, tissue=tissue, slide_mpp=slide_mpp, reader=reader, series=series,
        accept_grey=accept_grey,
    )  # fmt: skip
    batch = JsonBatch(output) if as_json else Batch(output)
    rules = Asked(specimen, min_area, min_pattern, sensitivity, minor_4, minor_5)
    with JsonBar(output) if as_json else SlideBar() as bar:
        done = grade_slides(
            slides,
            Grading(model, device, settings, asked),
            Wanted(names, rules, overwrite, grade_anyway),
            how,
            output,
            batch,
            bar,
        )
    batch.finish(done.summary, done.note)


class JsonBatch(Batch):
    """Prints failed slides as JSON, and the last line on standard error."""

    def say(self, line: str) -> None:
        """Do nothing: ``JsonBar`` prints the slide."""

    def failed(self, entry: Named, error: WsikdError) -> None:
        """Record a failure, and print it."""
        super().failed(entry, error)
        kind = type(error).__name__
        told = {"error": kind, "fault": error.fault, "remedy": error.remedy}
        click.echo(json.dumps({"slide": entry.name, "status": "failed", **told}))

    def finish(self, done: str, note: str = "") -> None:
        """Sum up on standard error; exits as the other does."""
        with redirect_stdout(sys.stderr):
            super().finish(done, note)


class JsonBar(SlideBar):
    """Prints finished slides as JSON."""

    def __init__(self, out: Path) -> None:
        super().__init__()
        self.out = out

    def graded(self, name: str, row: Mapping[str, Any], *, made: bool, took_s: float) -> None:
        """Print a slide with the entries of its ``result.json``."""
        about = {
            "slide": name, "status": "graded" if made else "already there",
            "seconds": round(took_s, 2), "folder": str(self.out / name),
        }  # fmt: skip
        click.echo(json.dumps({**about, "summary": dict(row)}))


def _check_models(model: Path, teacher: Path | None) -> None:
    """Check the cards, so that mistakes are found before PyTorch is imported."""
    from wsikd.models.files.peek import check_pair, peek_grader, teacher_note

    student = peek_grader(model, "-m")
    if teacher is not None:
        right = f"give -m {teacher} --escalate {model}"
        check_pair(peek_grader(teacher, "--escalate"), student, right)
    elif note := teacher_note(student):
        log.warning("%s", note)


def _not_dense() -> WsikdError:
    from wsikd.core.errors import ConfigError

    fault = (
        "a student sees each patch with zeros around it, which one pass over a region does not "
        "repeat (it changes classes)"
    )
    return ConfigError("--dense", fault, "give --stride N, which reads the patches themselves")
