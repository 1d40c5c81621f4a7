"""Run every row of a comparison with every seed and fold, and score each once.

A row is a configuration; students take the teacher of the same seed and fold. Finished runs are
kept, interrupted ones are resumed, and other settings are refused.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.core.errors import CheckpointError, DataError
from wsikd.core.output.lock import locked
from wsikd.core.run import RunDir
from wsikd.core.softmax import softmax
from wsikd.learn.data.patches import load_patches
from wsikd.learn.engine.on_machine import cache_of
from wsikd.learn.patch.build import digests_of
from wsikd.learn.patch.train import distill
from wsikd.learn.reproduce.plan import ROW
from wsikd.learn.reproduce.plan import TEACHER as TEACHER
from wsikd.learn.reproduce.plan import Plan as Plan
from wsikd.learn.reproduce.plan import Row as Row
from wsikd.learn.reproduce.plan import Unit as Unit
from wsikd.learn.reproduce.plan import read_rows as read_rows
from wsikd.learn.score import test_record as scoring
from wsikd.learn.score.colour_baseline import histogram_baseline
from wsikd.models.device import pick_device
from wsikd.models.files.bundle import CARD, load_bundle

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from wsikd.learn.data.patches import PatchSet
    from wsikd.learn.patch.settings import RunConfig

logger = logging.getLogger(__name__)
CPU_THREADS = 2
COLOUR = "colour_histogram"
ASKED_BY = scoring.REPRODUCE


@dataclass(frozen=True)
class Predictions:
    """Predictions of a run on its test part.

    Truth int64 (N,), probability float64 (N, C), index int64 (N,) into the data, slide or patient
    of each patch, fold of the network, and which classes are benign.
    """

    truth: NDArray[np.int64]
    probability: NDArray[np.float64]
    index: NDArray[np.int64]
    group: NDArray[np.str_]
    fold: NDArray[np.int64]
    benign: tuple[int, ...] = (0,)


def run_folder(out: Path, row: str, unit: Unit) -> Path:
    """Where a run of a row lies."""
    return out / "runs" / row / unit.name


def run_all(plan: Plan, out: Path, *, device: str = "auto") -> None:
    """Train and score unfinished rows.

    Args:
        plan: what to run.
        out: folder of the table; runs lie in ``runs/<row>/<seed>``.
        device: "auto", "cpu" or "cuda:0".

    Raises:
        WsikdError: a run failed; what is finished stays for the next call.
    """
    patches, loaded = None, ""
    total = len(plan.units()) * len(plan.rows)
    for number, (unit, row) in enumerate((u, r) for u in plan.units() for r in plan.rows):
        config = _settings(row, unit, plan, out)
        key = data_key(config)
        if patches is None or key != loaded:
            patches = None  # those of one split at a time
            patches, loaded = load_patches(config.data, config.split), key
            if not len(patches.indices("test")):
                raise DataError(
                    "split", "leaves no test patches", "set split.test, or pass --folds"
                )
            patches.keep(np.arange(len(patches)), cache_of(config.data.cache_gb), CPU_THREADS)
        if row.name == plan.rows[0].name:
            keep_colour(_colour_file(out, unit), patches)
        logger.info("%s, %s: %d of %d", row.name, unit.name, number + 1, total)
        folder = run_folder(out, row.name, unit)
        with locked(folder):
            train_unit(config, folder, unit.seed, patches, device)
            score_unit(folder, patches, _colour_file(out, unit), str(pick_device(device)))


def _settings(row: Row, unit: Unit, plan: Plan, out: Path) -> RunConfig:
    """A row's settings for one unit: its fold and its teacher."""
    config = row.config
    changes: dict[str, object] = {}
    if plan.folds is not None:
        fold = {"folds": plan.folds, "fold": unit.fold, "seed": config.split.seed + unit.repeat}
        changes["split"] = config.split.model_copy(update=fold)
    if taught_by := row.taught_by:
        runs = [
            str(run_folder(out, name.removeprefix(ROW), unit)) if name.startswith(ROW) else name
            for name in config.teachers or (ROW + taught_by[0],)
        ]
        changes["teacher"] = runs if len(runs) > 1 else runs[0]
    return config.model_copy(update=changes)


def data_key(config: RunConfig) -> str:
    """The settings that decide which patches a run reads and how they are divided."""
    data = config.data.model_dump_json(
        exclude={"student_mpp", "low_source", "cache_gb", "device_gb"}
    )
    return data + config.split.model_dump_json()


def train_unit(config: RunConfig, folder: Path, seed: int, patches: PatchSet, device: str) -> None:
    """Train a run, resume it, or check that a finished one is the one that is asked for."""
    if not (RunDir(folder).student / CARD).is_file():
        distill(config, folder, seed=seed, device=device, resume=True, data=patches)
        return
    run = RunDir(folder)
    run.check(config, resume=True, seed=seed)
    made = run.read_provenance()
    teacher = digests_of([load_bundle(name) for name in config.teachers])
    for what, now in (("data", patches.digests), ("teacher_sha256", teacher)):
        if what in made and made[what] != now:
            name = "data" if what == "data" else "teacher"
            raise CheckpointError(folder, f"was made with another {name}", "choose another -o")


def score_unit(folder: Path, patches: PatchSet, colour_file: Path, device: str) -> None:
    """Score the test part of a run, unless that is done and its predictions are kept."""
    subject = scoring.open_subject(folder)
    kept = [s for s in scoring.read_scores(subject.scores_file) if s["split"] == "test"]
    predictions = folder / scoring.PREDICTIONS
    if kept and predictions.is_file():
        return
    colour = read_predictions(colour_file).probability
    assert subject.config is not None
    split = subject.config.split
    scoring.score(
        subject, patches, "test", by=ASKED_BY, again=bool(kept), colour=colour, device=device,
        keep=predictions, allow_seen=not split.check_teacher,
    )  # fmt: skip


def _colour_file(out: Path, unit: Unit) -> Path:
    part = "own" if unit.fold is None else f"repeat{unit.repeat}-fold{unit.fold}"
    return out / "runs" / COLOUR / f"{part}.npz"


def keep_colour(file: Path, patches: PatchSet) -> None:
    """Keep what colour alone says of a test part. Raises DataError where it says nothing."""
    if file.is_file():
        return
    chosen = patches.indices("test")
    found = histogram_baseline(patches, patches.indices("train"), chosen)
    if found is None:
        raise DataError("split", "leaves one class for training", "add slides of another class")
    with np.errstate(divide="ignore"):
        logits = np.maximum(np.log(found), -1e3)
    file.parent.mkdir(parents=True, exist_ok=True)
    scoring.save_predictions(logits, patches, chosen, file)


def read_predictions(file: Path, fold: int = 0) -> Predictions:
    """Read what ``scoring.save_predictions`` kept. Raises DataError where it cannot be read."""
    try:
        with np.load(file, allow_pickle=False) as kept:
            truth = kept["truth"]
            return Predictions(
                truth, softmax(kept["logits"]), kept["index"], kept["group"],
                np.full(len(truth), fold, np.int64), tuple(kept["benign"].tolist()),
            )  # fmt: skip
    except (OSError, ValueError, KeyError) as error:
        raise DataError(file, "cannot be read as predictions", "remove it and run again") from error


def collect(plan: Plan, out: Path) -> dict[str, dict[tuple[int, int], Predictions]]:
    """Predictions of every row by (seed, repeat), the folds of each put together.

    Figures are then of all patches at once, but for an AUC, which is averaged over the folds.

    Args:
        plan: what was run.
        out: folder of the table.

    Returns:
        Row -> (seed, repeat) -> predictions, by index; the colour baseline is the last row.

    Raises:
        DataError: predictions are missing.
    """
    found: dict[str, dict[tuple[int, int], Predictions]] = {}
    for name in (*(row.name for row in plan.rows), COLOUR):
        parts: dict[tuple[int, int], list[Predictions]] = {}
        for unit in plan.units():
            of_colour = name == COLOUR
            folder = run_folder(out, name, unit)
            file = _colour_file(out, unit) if of_colour else folder / scoring.PREDICTIONS
            parts.setdefault((unit.seed, unit.repeat), []).append(
                read_predictions(file, unit.fold or 0)
            )
        found[name] = {key: join_folds(folds) for key, folds in parts.items()}
    for name, units in found.items():
        for key, own in units.items():
            colour = found[COLOUR][key]
            same = np.array_equal(own.index, colour.index)
            if not (same and np.array_equal(own.truth, colour.truth)):
                raise DataError(
                    f"{out}, row {name}",
                    "was scored on another test part than the colour baseline",
                    "give every row the same split, or choose another -o",
                )
    return found


def join_folds(parts: list[Predictions]) -> Predictions:
    """Predictions of several folds as one, in the order of the data."""
    index = np.concatenate([p.index for p in parts])
    order = np.argsort(index, kind="stable")
    return Predictions(
        np.concatenate([p.truth for p in parts])[order],
        np.concatenate([p.probability for p in parts])[order],
        index[order],
        np.concatenate([p.group for p in parts])[order],
        np.concatenate([p.fold for p in parts])[order],
        parts[0].benign,
    )


def read_card(out: Path, row: str, unit: Unit) -> dict[str, object]:
    """The card of a finished run's bundle."""
    file = RunDir(run_folder(out, row, unit)).student / CARD
    return dict(json.loads(file.read_text(encoding="utf-8")))


def looks_of(plan: Plan, out: Path) -> dict[str, Any] | None:
    """How often the test part had been looked at when its runs were scored last.

    Args:
        plan: what was run.
        out: folder of the table.

    Returns:
        The entry ``looks`` of the run with the most; of several test parts, as those of folds, of
        the one that was looked at most. None for runs that an earlier version scored.
    """
    found: list[dict[str, Any]] = []
    for row in plan.rows:
        for unit in plan.units():
            scores = scoring.read_scores(run_folder(out, row.name, unit) / scoring.SCORES)
            found += [s["looks"] for s in scores if "looks" in s]
    return max(found, key=lambda looks: int(looks["looks"]), default=None)
