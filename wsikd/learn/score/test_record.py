"""Score a run or bundle on a split, and keep account of it: the test part is for one look only.

``scores.json`` beside a run holds every scoring: when, by whom, on which data, and the figures.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.core.agreement import confusion
from wsikd.core.errors import DataError, OutputError
from wsikd.core.output.lock import locked
from wsikd.core.run import aside, write_json_atomic
from wsikd.core.softmax import softmax
from wsikd.learn.engine.leakage import check_unseen
from wsikd.learn.score import predict_patches as evaluate
from wsikd.learn.score.calibrate import calibration, fit_temperature
from wsikd.learn.score.colour_baseline import histogram_baseline
from wsikd.learn.score.looked_at import look_at_patches
from wsikd.learn.score.metrics import intervals, measure
from wsikd.learn.score.over_colour import OverColour, over_colour
from wsikd.learn.score.scored_run import (
    SCORES,
    Subject,
    numbers,
    open_subject,
    read_scores,
    teacher_beside,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from wsikd.learn.data.patches import PatchSet

__all__ = [
    "SCORES", "Scored", "Subject", "describe", "load_for", "open_subject", "read_scores",
    "save_predictions", "score",
]  # fmt: skip

logger = logging.getLogger(__name__)
PREDICTIONS = "predictions_test.npz"
EVALUATE, REPRODUCE = "wsikd evaluate", "wsikd reproduce"
COMPARED = ("kappa", "auc_cancer")


@dataclass(frozen=True)
class Scored:
    """One scoring.

    Attributes:
        record: what is kept of it, JSON values.
        logits: float32 (M, C), of the patches that were scored.
        truth: int64 (M,).
        patches: where they come from.
        indices: which of them, int64 (M,).
    """

    record: dict[str, Any]
    logits: NDArray[np.float32]
    truth: NDArray[np.int64]
    patches: PatchSet
    indices: NDArray[np.int64]


def load_for(subject: Subject, data: Sequence[str] = (), *, mpp: float | None = None) -> PatchSet:
    """The patches to score on.

    Args:
        subject: a run brings its own data and split.
        data: where they lie now, or other data; for a bundle alone, its data. Other data than the
            run's are not divided again: without a split, all of them count as test.
        mpp: um per pixel of a bundle's data; None: what the network reads.

    Raises:
        DataError: there is no data, or it cannot be used, or a run's own have changed.
    """
    from wsikd.learn.data.patches import load_patches
    from wsikd.learn.data.settings import Data, Split

    spec = subject.bundle.spec
    if subject.config is None:
        benign = subject.bundle.card.benign or None
        own = Data(paths=list(data), mpp=mpp or spec.mpp, classes=list(spec.classes), benign=benign)
        return load_patches(own, Split(), undivided="test")
    found = subject.config.data
    made = subject.bundle.card.data
    if not data:
        patches = load_patches(found, subject.config.split)
        if made is not None and patches.digests != made:
            raise DataError(
                subject.place,
                "its data have changed since it was trained, and so would its split",
                "restore them, or give other data with --data that it was not trained on",
            )
        return patches
    found = found.model_copy(update={"paths": list(data)})
    same = load_patches(found, subject.config.split)
    if same.digests == made:
        return same  # the run's own data, moved
    return load_patches(found, Split(), undivided="test")


def score(
    subject: Subject,
    patches: PatchSet,
    split: str,
    *,
    by: str,
    again: bool = False,
    colour: NDArray[np.float64] | None = None,
    device: str = "cpu",
    keep: Path | None = None,
    allow_seen: bool = False,
) -> Scored:
    """Score a network on a split and record this in its folder, one process at a time.

    Args:
        subject: what to score.
        patches: at its resolution or a finer one.
        split: "val" or "test".
        by: name of the user, kept in the record.
        again: score the test part although it has been scored before.
        colour: probabilities of the colour baseline for the patches of this split; None: fitted
            here on the training part.
        device: where to compute.
        keep: file for the predictions, written before the record.
        allow_seen: score although the network or its teacher was trained on some of it; that is
            kept in the record.

    Raises:
        OutputError: the test part has been scored and ``again`` is false, or the record cannot be
            written.
        DataError: the patches do not fit the network, it has seen some, or there are none.
    """
    with locked(subject.scores_file):
        return _score(
            subject, patches, split, by=by, again=again, colour=colour, device=device, keep=keep,
            allow_seen=allow_seen,
        )  # fmt: skip


def _score(
    subject: Subject,
    patches: PatchSet,
    split: str,
    *,
    by: str,
    again: bool,
    colour: NDArray[np.float64] | None,
    device: str,
    keep: Path | None,
    allow_seen: bool,
) -> Scored:
    evaluate.check_fit(subject.bundle, patches)
    chosen = patches.indices(split)
    if not len(chosen):
        remedy = (
            "set split.test, or give data with a split"
            if split == "test"
            else "choose another --split"
        )
        raise DataError("split", f"there are no {split} patches", remedy)
    seen = check_unseen(
        subject.bundle, patches, (split,), who="the network or its teacher", allow=allow_seen,
        remedy="give data that they were not trained on, or --allow-seen, which is recorded",
    )  # fmt: skip
    before = read_scores(subject.scores_file)
    earlier = [s for s in before if s["split"] == split and s["data"] == patches.digests]
    if split == "test" and earlier and not again:
        raise OutputError(
            subject.place,
            f"its test part was scored on {earlier[-1]['time']} by {earlier[-1]['by']}",
            "use --split val for model selection, or give --again to score it once more, which "
            "is recorded",
        )
    start = {
        "split": split,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "by": by,
        "times_before": len(earlier),
        "seen_before": seen,
        "data": patches.digests,
        "sha256": subject.bundle.sha256,
    }
    if split == "test":  # whoever stops it from here on may have seen it
        start["looks"] = look_at_patches(
            patches, chosen, command=by if by == REPRODUCE else EVALUATE,
            sha256=subject.bundle.sha256,
        )  # fmt: skip
        write_json_atomic(subject.scores_file, {"scores": [*before, start]})
    logits, temperature = _logits(subject, patches, chosen, split, device)
    truth = patches.label[chosen]
    if colour is None:
        colour = histogram_baseline(patches, patches.indices("train"), chosen)
    record = {
        **start,
        **describe(truth, softmax(logits), patches, chosen),
        "colour_histogram": None
        if colour is None
        else numbers(measure(truth, colour, benign=patches.benign)),
        "over_colour": None
        if colour is None
        else over_colour(
            truth,
            softmax(logits),
            colour,
            [patches.group[i] for i in chosen],
            ordered=patches.ordered,
        ).record(),
        "calibration": _calibration(subject, patches, chosen, split, logits, temperature),
        "macs": subject.bundle.card.macs,
        "mpp": subject.bundle.spec.mpp,
        "input": subject.bundle.spec.student_input,
        "teacher": teacher_beside(subject, patches, split, device=device),
    }
    if keep is not None:
        save_predictions(logits, patches, chosen, keep)
    write_json_atomic(subject.scores_file, {"scores": [*before, record]})
    _warn(record)
    return Scored(record, logits, truth, patches, chosen)


def _calibration(
    subject: Subject,
    patches: PatchSet,
    chosen: NDArray[np.int64],
    split: str,
    logits: NDArray[np.float32],
    temperature: float | None,
) -> dict[str, Any] | None:
    """Errors of the probabilities; cross-fitted on the patches that the temperature is from."""
    if temperature is None:
        return None
    card = subject.bundle.card
    own = split == "val" and (card.temperature is None or card.data == patches.digests)
    slides = [patches.slide[i] for i in chosen]
    return calibration(logits, patches.label[chosen], temperature, slides, cross_fit=own)


def _logits(
    subject: Subject, patches: PatchSet, chosen: NDArray[np.int64], split: str, device: str
) -> tuple[NDArray[np.float32], float | None]:
    """Logits, and the temperature: the card's, else fitted on the validation part."""
    bundle, network = subject.bundle, subject.bundle.network().to(device)

    def of(indices: NDArray[np.int64]) -> NDArray[np.float32]:
        return evaluate.predict(network, patches, indices, mpp=bundle.spec.mpp, device=device)

    logits = of(chosen)
    if bundle.temperature is not None:
        return logits, bundle.temperature
    val = patches.indices("val")
    if not len(val):
        return logits, None
    slides = [patches.slide[i] for i in val]
    fitted = fit_temperature(logits if split == "val" else of(val), patches.label[val], slides)
    return logits, fitted


def describe(
    truth: NDArray[np.int64],
    probability: NDArray[np.float64],
    patches: PatchSet,
    indices: NDArray[np.int64],
) -> dict[str, Any]:
    """Figures with their intervals over groups, F1 by class, and confusion, as JSON values.

    ``auc_cancer`` is among them only where a class is known as benign, ``kappa``, which has
    quadratic weights, only where the classes are in order.

    Args:
        truth: int64 (M,).
        probability: float64 (M, C).
        patches: where they come from.
        indices: which of them, int64 (M,).
    """
    classes, benign = patches.classes, patches.benign
    groups = [patches.group[i] for i in indices]
    found = measure(truth, probability, benign=benign)
    ranges = intervals(truth, probability, groups, benign=benign)
    per_class = {name: f"f1_{i}" for i, name in enumerate(classes)}
    left = {*per_class.values(), *(() if benign else ("auc_cancer",))}
    left |= set() if patches.ordered else {"kappa"}  # its weights need an order
    main = [k for k in found if k not in left]
    return {
        "patches": len(truth),
        "groups": len(set(groups)),
        "classes": list(classes),
        "benign": [classes[i] for i in benign],
        "figures": numbers({k: found[k] for k in main}),
        "intervals": {k: ranges[k] and [round(v, 6) for v in ranges[k] or ()] for k in main},
        "f1": {name: found[k] for name, k in per_class.items()},
        "f1_intervals": {
            name: ranges[k] and [round(v, 6) for v in ranges[k] or ()]
            for name, k in per_class.items()
        },
        "confusion": confusion(truth, probability.argmax(1), len(classes)).tolist(),
    }


def _warn(record: Mapping[str, Any]) -> None:
    over = record["over_colour"]
    if over is not None and (warning := OverColour(**over).warning):
        logger.warning("%s", warning)
    teacher = record["teacher"]
    if teacher is None or teacher["mpp"] >= record["mpp"]:
        return
    for name in COMPARED:
        own, finer = (side["figures"].get(name) for side in (record, teacher))
        if own is not None and finer is not None and finer <= own:
            logger.warning(
                "%s %.3f of the teacher at %g um/px is no better than the %.3f at %g um/px: on "
                "these data the finer resolution gives no gain",
                name.replace("_", " "), finer, teacher["mpp"], own, record["mpp"],
            )  # fmt: skip


def save_predictions(
    logits: NDArray[Any], patches: PatchSet, indices: NDArray[np.int64], file: Path
) -> None:
    """Keep logits (M, C) with truth, slide and group of each patch, as ``.npz``.

    Raises:
        OutputError: the file cannot be written.
    """
    with aside(file) as part, part.open("wb") as stream:
        np.savez_compressed(
            stream,
            logits=logits,
            truth=patches.label[indices],
            index=indices,
            slide=np.array([patches.slide[i] for i in indices]),
            group=np.array([patches.group[i] for i in indices]),
            benign=np.array(patches.benign, np.int64),
        )
