"""Train one run by ``wsikd.distill``, keep its validation predictions, score the rest once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.studies.real.plan import ABOUT, TEST, VAL
from wsikd.api.training import distill
from wsikd.core.run import RunDir, write_json_atomic
from wsikd.core.softmax import softmax
from wsikd.learn.data.patches import load_patches
from wsikd.learn.patch.settings import load_grading
from wsikd.learn.reproduce.run_rows import keep_colour, read_predictions
from wsikd.learn.score import predict_patches as evaluate
from wsikd.learn.score import test_record as scoring
from wsikd.learn.score.metrics import measure
from wsikd.learn.score.scored_run import numbers
from wsikd.models.files.bundle import CARD, load_bundle

if TYPE_CHECKING:
    from benchmarks.studies.real.plan import Job, Plan
    from wsikd.learn.data.patches import PatchSet

BASE = Path(__file__).with_name("base.yaml")
ASKED_BY = "benchmarks/studies/real"


def do(plan: Plan, job: Job, labels: Path) -> None:
    """Train a run that is ready, or continue it, and predict its inner validation part.

    Args:
        plan: where it lies, and its settings.
        job: the run.
        labels: CSV of its set.

    Raises:
        WsikdError: it failed; what is finished stays.
    """
    folder, teacher = plan.run_folder(job), plan.teacher(job)
    if not (RunDir(folder).student / CARD).is_file():
        distill(
            BASE, data=labels, teacher=None if teacher is None else plan.run_folder(teacher),
            out=folder, settings=plan.settings(job), seed=job.seed, device="cpu", resume=True,
        )  # fmt: skip
    keep_validation(folder, plan.kept(job), _patches(folder))


def _patches(folder: Path) -> PatchSet:
    config = load_grading(RunDir(folder).config_file)
    return load_patches(config.data, config.split)


def keep_validation(folder: Path, kept: Path, patches: PatchSet) -> None:
    """Predictions of the inner validation part and what the tables need of the run's card."""
    bundle, chosen = load_bundle(folder), patches.indices("val")
    logits = evaluate.predict(bundle.network(), patches, chosen, mpp=bundle.spec.mpp)
    kept.mkdir(parents=True, exist_ok=True)
    scoring.save_predictions(logits, patches, chosen, kept / VAL)
    truth = patches.label[chosen]
    figures = numbers(measure(truth, softmax(logits), benign=patches.benign))
    about = {
        "validation": figures, "temperature": bundle.temperature, "macs": bundle.card.macs,
        "mpp": bundle.spec.mpp, "classes": list(patches.classes),
        "trained_on": len(patches.trained_on), "labelled": len(patches.indices("train")),
    }  # fmt: skip
    write_json_atomic(kept / ABOUT, about)


def score(plan: Plan, job: Job) -> None:
    """Score the evaluation part of a finished run; its figures are read with its block's table."""
    folder, keep = plan.run_folder(job), plan.kept(job) / TEST
    subject = scoring.open_subject(folder)
    done = [s for s in scoring.read_scores(subject.scores_file) if s["split"] == "test"]
    if done and keep.is_file():
        return
    patches = _patches(folder)
    file = colour_file(plan, job)
    keep_colour(file, patches)
    scoring.score(
        subject, patches, "test", by=ASKED_BY, again=bool(done),
        colour=read_predictions(file).probability, keep=keep,
    )  # fmt: skip


def colour_file(plan: Plan, job: Job) -> Path:
    """Predictions of the colour baseline for the labels and the fold of a run."""
    block = job.block if plan.blocks[job.block].own_teacher else "A"
    return plan.out / "predictions" / block / "colour" / f"fold{job.fold}.npz"


def temperature_of(kept: Path) -> float:
    """The temperature of a run; 1 if none was fitted."""
    found = json.loads((kept / ABOUT).read_text(encoding="utf-8"))["temperature"]
    return 1.0 if found is None else float(found)


def calibrated(kept: Path, part: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Probabilities of a run's part after its temperature, float64 (N, C)."""
    with np.load(kept / part, allow_pickle=False) as file:
        return softmax(file["logits"], temperature_of(kept))
