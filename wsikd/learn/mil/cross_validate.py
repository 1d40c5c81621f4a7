"""Cross-validation over bags: every patient, or slide, is tested once, by the run of its fold."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.core.errors import DataError
from wsikd.core.intervals import (
    MIN_GROUPS_AUC,
    MIN_GROUPS_AUC_DIFFERENCE,
    NO_INTERVAL,
    NO_INTERVAL_OF_DIFFERENCE,
    interval,
    leave_out,
    rate_interval,
)
from wsikd.core.output.files import check_names
from wsikd.core.output.lock import locked
from wsikd.core.output.looks import looks_text
from wsikd.core.output.markdown import table_lines
from wsikd.core.output.markers import TABLE, TABLE_FILES
from wsikd.core.run import RunDir, provenance, write_json_atomic, write_text_atomic
from wsikd.learn.engine.train import train
from wsikd.learn.mil.data import load_bags
from wsikd.learn.mil.evaluate import decide, evaluate_bags, run_network
from wsikd.learn.mil.train import BagTask, figure
from wsikd.learn.score.metrics import supports, weighted
from wsikd.learn.score.scored_run import SCORES, read_scores
from wsikd.learn.score.thresholds import with_intervals
from wsikd.models.files.bag_bundle import load_bag_network
from wsikd.models.files.bundle import CARD

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from wsikd.learn.data.settings import Split
    from wsikd.learn.mil.data import BagSet
    from wsikd.learn.mil.method import BagData, MilConfig

logger = logging.getLogger(__name__)
PREDICTIONS = "predictions.json"
ASKED_BY = "wsikd reproduce mil"
FIGURES = ("auc", "sensitivity", "specificity", "precision", "f1")


def cross_validate(
    config: MilConfig,
    out: Path,
    *,
    folds: int,
    seeds: Sequence[int],
    device: str = "auto",
    paths: Sequence[Sequence[str]] | None = None,
    load: Callable[[BagData, Split], BagSet] = load_bags,
) -> dict[str, Any]:
    """Train and test a run for every fold and seed, and pool the predictions on their test parts.

    Runs lie in ``runs/seed<S>-fold<K>``; what is finished stays.

    Args:
        config: configuration of every run; ``split.folds`` and ``split.fold`` are set here.
        out: folder of the study.
        folds: how many; they are dealt by ``split.seed``.
        seeds: seeds of the trainings.
        device: "auto", "cpu" or "cuda:0".
        paths: bags of each fold, of the same slides, where an encoder belongs to a fold; none:
            those of ``config``.
        load: what opens bags, where they are open already.

    Returns:
        By seed the figures of :func:`pool`.

    Raises:
        WsikdError: a run failed; what is finished stays for the next call.
    """
    found: dict[str, Any] = {}
    for seed in seeds:
        rows: list[dict[str, Any]] = []
        for fold in range(folds):
            split = config.split.model_copy(update={"folds": folds, "fold": fold})
            folder = out / "runs" / f"seed{seed}-fold{fold}"
            logger.info("seed %d, fold %d of %d", seed, fold + 1, folds)
            own = config.model_copy(update={"split": split})
            if paths is not None:
                data = config.data.model_copy(update={"paths": list(paths[fold])})
                own = own.model_copy(update={"data": data})
            bags = load(own.data, split)  # before a folder is made for its run
            with locked(folder):
                rows += [r | {"fold": fold} for r in _fold(own, bags, folder, seed, device)]
        found[str(seed)] = pool(rows)
    return found


def _fold(
    config: MilConfig, bags: BagSet, folder: Path, seed: int, device: str
) -> list[dict[str, Any]]:
    """Predictions of a fold's run on its test part, slide by slide."""
    run = RunDir(folder)
    if (run.student / CARD).is_file():
        run.check(config, resume=True, seed=seed)
    else:
        train(BagTask, config, folder, seed=seed, device=device, resume=True, data=bags)
    bundle = load_bag_network(folder)
    if bundle.card.data != bags.digests:
        raise DataError(folder, "was trained on other bags", "restore them, or choose another -o")
    file = folder / PREDICTIONS
    if file.is_file():
        kept: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
        return kept
    evaluate_bags(folder, "test", by=ASKED_BY, data=config.data.paths, again=True, loaded=bags)
    chosen = bags.indices("test")
    said = run_network(bundle, bags, chosen).probability
    calls = decide(said, bundle.threshold)
    rows = [
        {"slide": bags.slide[i], "group": bags.group[i], "label": int(bags.label[i]),
         "probability": p.tolist(), "decided": int(c)}
        for i, p, c in zip(chosen, said, calls, strict=True)
    ]  # fmt: skip
    write_json_atomic(file, rows)
    return rows


def pool(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Figures of the test parts of all folds.

    The AUC is the mean of the folds', since their networks need not agree on a scale; decisions,
    each at the threshold that its fold chose on validation, are counted together.

    Args:
        rows: ``slide``, ``group``, ``label``, ``probability`` (C,), ``decided`` and ``fold`` each.

    Returns:
        ``slides``, ``groups``, ``accuracy`` and, with two classes, ``sensitivity`` and so on, each
        {"value", "interval"}; ``auc`` the same, with ``folds``, the value of each fold.

    Raises:
        DataError: a group is tested in two folds, or a slide twice.
    """
    names = [row["slide"] for row in rows]
    where: dict[str, int] = {}
    for row in rows:
        if where.setdefault(row["group"], row["fold"]) != row["fold"]:
            raise DataError(row["group"], "is tested in two folds", "deal folds by patient")
    if len(set(names)) < len(names):
        raise DataError("folds", "test a slide twice", "choose another -o")
    truth = np.array([row["label"] for row in rows])
    calls = np.array([row["decided"] for row in rows])
    said = np.array([row["probability"] for row in rows])
    fold = np.array([row["fold"] for row in rows])
    groups = [row["group"] for row in rows]
    known, group = np.unique(groups, return_inverse=True)

    def areas(times: Any) -> Any:
        """AUC of each fold, (folds, weightings)."""
        parts = []
        for k in np.unique(fold):
            here = fold == k
            parts.append(weighted(truth[here], said[here], group[here], times)["auc_macro"])
        return np.stack(parts)

    without = areas(leave_out(len(known)))
    each, means = without[:, 0], _mean_defined(without)
    carried = supports(truth, group, said.shape[1])["auc_macro"]
    whole = float(means[0])
    spread = interval(means, "slides", support=carried, least=MIN_GROUPS_AUC_DIFFERENCE)
    found: dict[str, Any] = {"slides": len(rows), "groups": len(known)}
    found["auc"] = {
        "value": None if np.isnan(whole) else whole,
        "interval": None if spread is None else list(spread),
        "folds": [None if np.isnan(v) else float(v) for v in each],
    }
    right = rate_interval(np.bincount(group, calls == truth), np.bincount(group))
    found["accuracy"] = {
        "value": float((calls == truth).mean()),
        "interval": None if right is None else list(right),
    }
    if said.shape[1] == 2:
        found |= with_intervals(truth == 1, calls.astype(np.float64), 0.5, groups)
    return found


def _mean_defined(values: Any) -> Any:
    """Mean over folds where an AUC is defined: (folds, n) -> (n,)."""
    defined = ~np.isnan(values)
    total = np.where(defined, values, 0).sum(0)
    return np.where(defined.any(0), total / np.maximum(defined.sum(0), 1), np.nan)


def looks_of(out: Path) -> dict[str, Any] | None:
    """The entry ``looks`` of the fold whose test part was looked at most; None without any."""
    found: list[dict[str, Any]] = []
    for file in sorted((out / "runs").glob(f"*/{SCORES}")):
        found += [s["looks"] for s in read_scores(file) if "looks" in s]
    return max(found, key=lambda looks: int(looks["looks"]), default=None)


def write_folds(found: dict[str, Any], config: MilConfig, out: Path, folds: int) -> str:
    """Write ``table.json`` and ``table.md``; returns the Markdown. Raises OutputError."""
    rows = [
        [seed, *(str(row[k]) for k in ("slides", "groups")),
         *(figure(row[k]) if k in row else "-" for k in FIGURES)]
        for seed, row in found.items()
    ]  # fmt: skip
    lines = table_lines(["seed", "slides", "groups", *FIGURES], rows)
    note = (
        f"{config.network.arch}, {folds} folds. AUC is the mean over folds; decisions are pooled, "
        "each at the threshold of its fold's validation. Intervals: 95 % over patients or slides."
    )
    groups = min(row["groups"] for row in found.values())
    few = [(MIN_GROUPS_AUC, NO_INTERVAL), (MIN_GROUPS_AUC_DIFFERENCE, NO_INTERVAL_OF_DIFFERENCE)]
    less = [t for n, why in few if groups < n for t in ("", f"{groups} slides or patients: {why}.")]
    looks = looks_of(out)
    seen = ["", f"When a fold was scored last, {looks_text(looks)}."] if looks else []
    text = "\n".join([*lines, "", note, *less, *seen]) + "\n"
    settings = config.model_dump(mode="json", exclude={"data": {"paths", "labels"}})
    check_names(out, TABLE_FILES, TABLE)
    write_json_atomic(out / "table.json", {
        "seeds": found, "folds": folds, "settings": settings, "looks": looks,
        "provenance": provenance(),
    })  # fmt: skip
    write_text_atomic(out / "table.md", text)
    return text
