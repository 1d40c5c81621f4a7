"""``wsikd infer``: slides and a student become grade maps."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .common import (
    Batch,
    check_tissue,
    input_option,
    progress,
    slide_options,
    tissue_options,
    use_threads,
)

if TYPE_CHECKING:
    from wsikd.grade.escalate import EscalatingPredictor
    from wsikd.grade.predict import SlidePredictor
    from wsikd.models.bundle import StudentBundle
    from wsikd.slides.manifest import SlideEntry

log = logging.getLogger(__name__)


@click.command()
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
    default="zarr,csv,uncertain,geojson,png",
    show_default=True,
    metavar="NAMES",
    help="What to write of each slide: zarr (OME-Zarr), ome-tiff (pyramid), csv (fields), "
    "uncertain (fields near a decision boundary), geojson (grade regions for QuPath), "
    "geojson-tiles (one QuPath tile a field), png (overlay), dicom-seg (DICOM slides only), or all "
    "that the slide can have.",
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
    help="Area in mm2 that a pattern must cover to count.  "
    "[default: the student's, chosen on validation]",
)
@click.option(
    "--stride",
    type=click.IntRange(1),
    help="Distance of fields in px at the student's resolution.  [default: its patch]",
)
@click.option(
    "--escalate",
    type=click.Path(path_type=Path),
    metavar="TEACHER",
    help="Have the fields that the student is unsure of read again by its teacher (run folder or "
    "bundle).",
)
@click.option(
    "--budget",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="With --escalate: share of a slide's fields to read again, at most; 1 reads all.  "
    "[default: 0.1]",
)
@click.option(
    "--agreement",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="With --escalate: share of fields that shall have the teacher's class; the doubt from "
    "which a field is read again follows from the validation curve in the student's card.  "
    "[default: 0.95]",
)
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:0.")
@click.option(
    "--engine",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="What computes: auto, torch, compile, onnx, openvino.",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16"]),
    default="auto",
    show_default=True,
    help="auto is bf16 where the processor computes in it and the first fields get the classes "
    "that they get in fp32.",
)
@tissue_options
@slide_options
@click.option("--overwrite", is_flag=True, help="Grade again, replacing what is there.")
def infer(
    inputs: tuple[str, ...],
    model: Path,
    output: Path,
    formats: str,
    specimen: str,
    min_area: float | None,
    stride: int | None,
    escalate: Path | None,
    budget: float | None,
    agreement: float | None,
    batch_size: int,
    device: str,
    engine: str,
    precision: str,
    tissue: str,
    min_tissue: float,
    slide_mpp: float | None,
    reader: str,
    threads: int | None,
    overwrite: bool,
) -> None:
    """Grade whole slides with a student: maps, overlays and a summary."""
    from wsikd.core.tables import resolve
    from wsikd.grade.engines import Network
    from wsikd.grade.exports import ALL, EXPORTERS
    from wsikd.grade.likeness import trained_on
    from wsikd.grade.predict import PredictSettings, SlidePredictor
    from wsikd.grade.results import ResultSettings, infer_slide, keep_card, write_summary
    from wsikd.models.bundle import load_bundle
    from wsikd.slides.manifest import find_slides

    if escalate is None and (budget is not None or agreement is not None):
        raise click.UsageError("--budget and --agreement go with --escalate TEACHER")
    check_tissue(tissue)
    asked = {name.strip() for name in formats.split(",")}
    for name in sorted(asked - {ALL}):
        resolve(EXPORTERS, name, kind="exporters")
    names = tuple(name for name in (*EXPORTERS, ALL) if name in asked)
    workers = use_threads(threads)
    bundle = load_bundle(model)
    entries = find_slides(inputs, slide_mpp=slide_mpp, reader=reader)
    alone = SlidePredictor(
        Network(bundle.network, bundle.spec.patch_px, bundle.key),
        bundle.spec,
        device=device,
        settings=PredictSettings(
            stride_px=stride,
            tissue=tissue,
            min_tissue=min_tissue,
            batch_size=batch_size,
            workers=workers,
            engine=engine,
            precision=precision,
        ),
    )
    teacher = None if escalate is None else load_bundle(escalate)
    predictor = alone if teacher is None else _escalating(alone, bundle, teacher, budget, agreement)
    settings = ResultSettings(
        formats=names,
        specimen=specimen,
        min_area_mm2=bundle.min_area_mm2 if min_area is None else min_area,
        temperature=bundle.temperature,
        teacher_temperature=None if teacher is None else teacher.temperature,
    )
    training = trained_on(bundle)
    if bundle.temperature is None:
        log.warning("the student's card holds no temperature: probabilities are not calibrated")
    output.mkdir(parents=True, exist_ok=True)
    keep_card(output, bundle)
    counts = {"graded": 0, "already there": 0}

    def work(entry: SlideEntry) -> str:
        with progress(entry.name) as on_progress:
            row, made = infer_slide(
                predictor, entry, output, settings,
                student=bundle.sha256[:16], trained_on=training, overwrite=overwrite,
                on_progress=on_progress,
            )  # fmt: skip
        counts["graded" if made else "already there"] += 1
        write_summary(output)
        return _line(row, output / entry.name, made=made)

    batch = Batch(output)
    batch.run(entries, work)
    batch.finish(", ".join(f"{n} {what}" for what, n in counts.items()))


def _escalating(
    student: SlidePredictor,
    bundle: StudentBundle,
    teacher: StudentBundle,
    budget: float | None,
    agreement: float | None,
) -> EscalatingPredictor:
    """The student with its teacher standing by; tells the rule."""
    from wsikd.grade import escalate
    from wsikd.grade.engines import Network
    from wsikd.grade.predict import SlidePredictor

    escalate.check_comparable(teacher.spec, bundle.spec, "--escalate")
    rule = escalate.rule_of(
        bundle,
        teacher,
        budget=escalate.BUDGET if budget is None else budget,
        agreement=escalate.AGREEMENT if agreement is None else agreement,
    )
    click.echo(f"escalation: {rule.told}", err=True)
    again = SlidePredictor(
        Network(teacher.network, teacher.spec.patch_px, teacher.key),
        teacher.spec,
        device=student.place,
        settings=escalate.teacher_settings(student.settings, bundle.spec, teacher.spec),
    )
    return escalate.EscalatingPredictor(student, again, rule, teacher_sha256=teacher.sha256)


def _line(row: dict[str, Any], folder: Path, *, made: bool) -> str:
    shares = [
        f"{key.removesuffix('_share')} {value:.0%}"
        for key, value in row.items()
        if key.endswith("_share") and value
    ]
    score = ""
    if "gleason_score" in row:
        found = row["gleason_score"]
        score = f"{found}, grade group {row['isup_grade_group']}; " if found else "no score; "
    asked = ""
    if row.get("share_escalated") is not None:
        share, took = row["share_escalated"], row["escalation_seconds"]
        asked = f", teacher asked about {share:.0%} ({took:.1f} s)"
    place = f"{'in' if made else 'already in'} {folder}"
    return f"{row['fields']} fields, {score}{' '.join(shares) or 'no tissue'}{asked}, {place}"
