"""The end of a run: score the best student, choose its thresholds, write its bundle."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from wsikd.core.about import NOT_ASSESSED
from wsikd.core.classes import pattern_of
from wsikd.core.escalation import CONFIDENCE, doubt, trade_off
from wsikd.core.shares import fit_share_errors
from wsikd.core.softmax import softmax
from wsikd.learn.data.parts import missing_text, never_predicted, slides_text
from wsikd.learn.engine.leakage import record_seen
from wsikd.learn.patch.build import init_stream
from wsikd.learn.patch.guard import student_guard
from wsikd.learn.score import predict_patches as evaluate
from wsikd.learn.score.calibrate import calibration, fit_temperature
from wsikd.learn.score.cancer_choice import cancer_record
from wsikd.learn.score.colour_baseline import histogram_baseline
from wsikd.learn.score.over_colour import OverColour, over_colour
from wsikd.models.files.bundle import save_bundle
from wsikd.slides.appearance import Appearance, field_statistics

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from wsikd.core.run import RunDir
    from wsikd.learn.data.patches import PatchSet
    from wsikd.learn.data.views import Views
    from wsikd.learn.patch.settings import RunConfig
    from wsikd.models.files.bundle import InputSpec, StudentBundle
    from wsikd.models.graders.pooled import Grader

logger = logging.getLogger(__name__)
ABOVE = 1e-3
"""Fraction of a field that is asked beyond one, so that a single field never suffices."""
LOOKED_AT = 2000
SELECTED = ["epoch", "temperature", "thresholds of cancer", "escalation"]
"""What is chosen on the validation patches, so that figures on them are optimistic."""
_LOOK_BATCH = 32


@dataclass(frozen=True)
class RunResult:
    """The result of a run.

    Attributes:
        path: the run folder.
        bundle: the bundle in it.
        best_epoch: epoch the bundle was taken from, counted from 1.
        metrics: metrics of the bundle on the validation patches; see ``evaluate.summarise``.
        over_colour: the bundle beside colour histograms alone; None where these have one class.
        min_area_mm2: least area of cancer on a slide: a little more than one field.
        val_slides: slides that the validation patches lie on.
        missing: classes that the bundle never predicts on them.
    """

    path: Path
    bundle: Path
    best_epoch: int
    metrics: Mapping[str, Any]
    over_colour: OverColour | None
    min_area_mm2: float
    val_slides: int
    missing: tuple[str, ...]

    def text(self) -> str:
        """The result as a line."""
        kappa, over = self.metrics["kappa"], self.over_colour
        reached = "undefined" if kappa is None else f"{kappa:.3f}"
        name = "kappa" if self.metrics["kappa_weights"] == "quadratic" else "unweighted kappa"
        return (
            f"{self.bundle}: on validation {name} {reached},"
            f" balanced accuracy {self.metrics['balanced_accuracy']:.3f} (epoch {self.best_epoch},"
            f" {self.metrics['patches']} patches of {slides_text(self.val_slides)};"
            f"{_how_selected(self.metrics)}){missing_text(self.missing)}"
            f"{'' if over is None else f'; {over.summary}'}"
        )


def _how_selected(metrics: Mapping[str, Any]) -> str:
    if "epoch" in metrics["selected"]:
        return " selected on these patches, so optimistic"
    return " the last, not selected on these patches"


class Trained(NamedTuple):
    """The output of a training.

    Attributes:
        student: the best, on the device of the training.
        spec: what it is to be given.
        teachers: those of the training, empty for one without.
        logits: logits of the validation part, float64 (M, C).
        best_epoch: epoch it was taken from, counted from 1.
    """

    student: Grader
    spec: InputSpec
    teachers: tuple[StudentBundle, ...]
    logits: NDArray[np.float64]
    best_epoch: int


def write_student(
    trained: Trained,
    config: RunConfig,
    patches: PatchSet,
    views: Views,
    run: RunDir,
    *,
    seed: int,
    processes: int,
) -> RunResult:
    """Judge a student on validation, choose its thresholds of cancer, write its bundle.

    Args:
        trained: the student and its logits.
        config: configuration of the run.
        patches: patches that it was trained on and is scored on.
        views: views of the patches, as it reads them.
        run: the run folder.
        seed: seed of the run.
        processes: number of processes that trained together.
    """
    student, spec, teachers, logits, best = trained
    teacher = teachers[0] if teachers else None
    val, device = patches.indices("val"), str(views.device)
    truth, predicted = patches.label[val], logits.argmax(1)
    slides = [patches.slide[i] for i in val]
    temperature = fit_temperature(logits, truth, slides)
    matrix = evaluate.confusion(truth, predicted, len(patches.classes))
    metrics = evaluate.summarise(matrix, patches.classes, ordered=patches.ordered)
    over = _beside_colour(patches, val, softmax(logits))
    colour = over and over.colour
    selected = [what for what in SELECTED if what != "epoch" or config.optim.select != "last"]
    metrics |= {"selected": selected, "over_colour": over and over.record()}
    least = least_area(patches)
    val_slides = len({patches.slide[i] for i in val})
    missing = never_predicted(predicted, patches.classes)
    run.append_metrics({
        "event": "final", "best_epoch": best, "val": metrics,
        "temperature": temperature, "val_slides": val_slides, "never_predicted": list(missing),
        "min_area_mm2": least,
    })  # fmt: skip
    guard = student_guard(patches, spec)
    bundle = save_bundle(
        run.student, student.to("cpu"), spec, guard=guard,
        arch=config.network.arch, width=config.network.width, method=config.method,
        teacher=None if teacher is None else _named(teacher),
        **({"teachers": [_named(one) for one in teachers]} if len(teachers) > 1 else {}),
        **({"init_weights": student.origin.record()} if student.origin else {}),
        benign=[patches.classes[i] for i in patches.benign],
        **({"not_assessed": NOT_ASSESSED} if any(map(pattern_of, patches.classes)) else {}),
        seen=record_seen(patches, teachers),
        data=patches.digests, metrics={"split": "val", **metrics},
        colour_kappa=colour if over and over.metric == "kappa" else None,
        **calibrated(
            logits, truth, slides, patches.tissue[val], temperature,
            ratio=pattern_4(patches.classes),
        ),
        min_area_mm2=least, min_area_slides=val_slides,
        cancer=cancer_shares(patches, val, softmax(logits, temperature or 1.0)),
        escalation=None if teacher is None or config.teacher_reads == "low" else escalation(
            patches, val, logits, temperature or 1.0, teacher, device=device
        ),
        training={
            "seed": seed, "init": config.network.init, "init_stream": init_stream(config),
            "processes": processes, "epochs": config.optim.epochs, "best_epoch": best,
        },
        appearance=training_appearance(patches, views).as_card(),
    )  # fmt: skip
    found = (metrics, over, least, val_slides, missing)
    return RunResult(run.path, bundle, best, *found)


def _named(teacher: StudentBundle) -> dict[str, Any]:
    """A teacher's entry in the student's card."""
    return {"sha256": teacher.sha256, "arch": teacher.arch, "mpp": teacher.spec.mpp}


def calibrated(
    logits: NDArray[np.float64],
    truth: NDArray[np.int64],
    slides: list[str],
    tissue: NDArray[np.float64],
    temperature: float | None,
    *,
    ratio: tuple[int, tuple[int, ...]] | None = None,
) -> dict[str, Any]:
    """For the card: temperature, errors of the probabilities, and of the shares of classes."""
    if temperature is None:
        return {"temperature": None}
    errors = fit_share_errors(softmax(logits, temperature), truth, slides, tissue, ratio=ratio)
    made = calibration(logits, truth, temperature, slides, cross_fit=True)
    return {"temperature": temperature, "calibration": made, "shares": errors.record()}


def pattern_4(classes: Sequence[str]) -> tuple[int, tuple[int, ...]] | None:
    """The class of pattern 4 and those of all patterns; None if it is not one of several.

    >>> pattern_4(("NC", "G3", "G4", "G5"))
    (2, (1, 2, 3))
    >>> pattern_4(("NC", "G4")) is pattern_4(("benign", "tumour")) is None
    True
    """
    found = {pattern_of(name): place for place, name in enumerate(classes)}
    patterns = tuple(place for pattern, place in found.items() if pattern)
    return (found[4], patterns) if 4 in found and len(patterns) > 1 else None


def training_appearance(patches: PatchSet, views: Views, most: int = LOOKED_AT) -> Appearance:
    """Stain and focus of the training patches as the student sees a slide, not augmented.

    Args:
        patches: whose training part is looked at.
        views: views of the patches.
        most: how many to look at; of every slide about as many.
    """
    by_slide: dict[str, list[int]] = {}
    for index in patches.indices("train").tolist():
        by_slide.setdefault(patches.slide[index], []).append(index)
    each = max(1, most // len(by_slide))
    chosen: list[int] = []
    for found in by_slide.values():
        count = min(each, len(found))
        chosen += [found[i] for i in np.linspace(0, len(found) - 1, count).round().astype(int)]
    rows = []
    for images, indices in patches.batches(np.array(chosen[:most]), _LOOK_BATCH):
        seen = views.batch(images, indices, None).views["low"].round().byte()
        pixels = seen.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        rows += [field_statistics(patch) for patch in pixels]
    return Appearance.of(np.array(rows), [patches.slide[i] for i in chosen[:most]])


def escalation(
    patches: PatchSet,
    indices: NDArray[np.int64],
    logits: NDArray[Any],
    temperature: float,
    teacher: StudentBundle,
    *,
    device: str = "cpu",
) -> dict[str, Any]:
    """Cost and benefit of escalation to the teacher, for ``infer``.

    Args:
        patches: patches at the teacher's resolution.
        indices: validation patches, int64 (M,).
        logits: the student's, (M, C).
        temperature: temperature of the student.
        teacher: who is asked.
        device: where to compute.

    Returns:
        For the card: the teacher's digest, fields, slides, groups behind the bounds, and the curve
        of :func:`wsikd.core.escalation.trade_off`.
    """
    network = teacher.network().to(device)
    theirs = evaluate.predict(network, patches, indices, mpp=teacher.spec.mpp, device=device)
    curve = trade_off(
        doubt(softmax(logits, temperature)),
        logits.argmax(1),
        theirs.argmax(1),
        patches.label[indices],
        len(patches.classes),
        [patches.group[i] for i in indices],
    )
    return {
        "teacher_sha256": teacher.sha256,
        "split": "val",
        "fields": len(indices),
        "slides": len({patches.slide[i] for i in indices}),
        "groups": len({patches.group[i] for i in indices}),
        "confidence": CONFIDENCE,
        "curve": {k: [v if v is None else round(v, 9) for v in values]
                  for k, values in curve.items()},
    }  # fmt: skip


def least_area(patches: PatchSet) -> float:
    """Area in mm2 that a single stray field does not reach; 0 where the data do not say."""
    return 0.0 if patches.field_mm2 is None else (1 + ABOVE) * patches.field_mm2


def cancer_shares(
    patches: PatchSet, indices: NDArray[np.int64], probability: NDArray[np.float64]
) -> dict[str, Any] | None:
    """What the thresholds of cancer are computed from; None where no class is known as benign.

    Args:
        patches: where the fields are.
        indices: validation patches, int64 (M,).
        probability: their calibrated probabilities, float64 (M, C).
    """
    if not patches.benign:
        logger.warning("no threshold of cancer is chosen: no class is benign (data.benign)")
        return None
    truth = patches.label[indices]
    for number in sorted(set(range(len(patches.classes))) - set(truth.tolist())):
        logger.warning(
            "the threshold of cancer is chosen without class %s: no validation patch of it",
            patches.classes[number],
        )
    slides = [patches.slide[i] for i in indices]
    return cancer_record(truth, probability, slides, patches.tissue[indices], patches.benign)


def _beside_colour(
    patches: PatchSet, indices: NDArray[np.int64], probability: NDArray[np.float64]
) -> OverColour | None:
    """The network compared with colour histograms; None if these cannot be fitted."""
    colour = histogram_baseline(patches, patches.indices("train"), indices)
    if colour is None:
        return None
    groups = [patches.group[i] for i in indices]
    found = over_colour(
        patches.label[indices], probability, colour, groups, ordered=patches.ordered
    )
    if found.warning:
        logger.warning("%s", found.warning)
    return found
