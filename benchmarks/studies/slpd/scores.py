"""What region encoders are judged by, beside the slide's network: clusters, neighbours, vectors."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from wsikd.core.errors import DataError
from wsikd.core.intervals import interval, leave_out
from wsikd.core.leak_hashes import hashes, seen_hash
from wsikd.learn.data.splits import groups_of
from wsikd.learn.mil.cross_validate import pool
from wsikd.learn.mil.data import load_bags
from wsikd.learn.slpd.cluster_epoch import make_table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from wsikd.bags.region_table import RegionTable
    from wsikd.learn.data.settings import Split
    from wsikd.learn.mil.data import BagSet
    from wsikd.learn.mil.method import BagData
    from wsikd.learn.slpd.method import Prototypes
    from wsikd.learn.slpd.prototypes import PrototypeTable
    from wsikd.models.files.region_bundle import LoadedRegionEncoder


def bottleneck_of(
    encoder: LoadedRegionEncoder, table: RegionTable, *, batch: int = 64
) -> NDArray[np.float32]:
    """Unit vectors of all regions by their middle, as the training clusters them: (R, width)."""
    from wsikd.learn.slpd.data import centre

    parts = []
    with torch.inference_mode():
        for start in range(0, len(table), batch):
            grids = torch.from_numpy(table.read(np.arange(start, min(start + batch, len(table)))))
            parts.append(encoder.bottleneck(centre(grids, encoder.shape.table)).numpy())
    return np.concatenate(parts)


def mean_tiles_of(table: RegionTable, *, batch: int = 64) -> NDArray[np.float32]:
    """Means over tiles of all regions, less their mean, at length 1: float32 (R, D)."""
    found = np.concatenate([
        table.read(np.arange(start, min(start + batch, len(table)))).mean((2, 3))
        for start in range(0, len(table), batch)
    ])  # fmt: skip
    found = found - found.mean(0)
    length = np.linalg.norm(found, axis=1, keepdims=True)
    return np.asarray(found / np.maximum(length, 1e-12), np.float32)


def score_clusters(
    features: NDArray[np.float32],
    table: RegionTable,
    settings: Prototypes,
    labels: Mapping[str, str],
    truth: Mapping[str, NDArray[np.int64]] | None,
) -> dict[str, dict[str, Any]]:
    """Cluster every slide, compare with what is known, and find the most similar slide of each.

    Args:
        features: float32 (R, D), of length 1.
        table: the regions.
        settings: of the prototypes.
        labels: class of each slide; those without one are not judged and no neighbours.
        truth: type of each region by slide; none: unknown.

    Returns:
        By slide: ``group`` (patient, else slide), ``rand`` (adjusted Rand index of its clusters
        against the truth), ``nearest`` and ``right`` (the most similar slide of another patient by
        prototypes, and whether its class is the same), ``chance`` (share of the same class among
        those it could be). None where a slide has too few regions, or no other is left.
    """
    from sklearn.metrics import adjusted_rand_score

    known = [i for i, slide in enumerate(table.slides) if slide in labels]
    rows = np.isin(table.slide_index, known)
    own = table.only(known)
    made = make_table(features[rows], own, settings)
    found: dict[str, dict[str, Any]] = {}
    groups = groups_of(own.slides, own.patients, "auto")
    for index, slide in enumerate(own.slides):
        assigned = made.assignment[made.slide_index == index]
        one: dict[str, Any] = dict.fromkeys(("rand", "nearest", "right", "chance"))
        one["group"] = groups[index]
        if made.valid[index]:
            if truth is not None:
                one["rand"] = float(adjusted_rand_score(truth[slide], assigned))
            one |= _nearest(made, index, labels)
        found[slide] = one
    return found


def _nearest(made: PrototypeTable, index: int, labels: Mapping[str, str]) -> dict[str, Any]:
    """The most similar slide of another patient, and what chance would give."""
    similar = made.similar(index, len(made))
    if not similar:
        return {}
    own = labels[made.slides[index]]
    nearest = made.slides[similar[0].slide]
    same = [labels[made.slides[s.slide]] == own for s in similar]
    return {"nearest": nearest, "right": same[0], "chance": float(np.mean(same))}


def nearest_means(bags: BagSet) -> dict[str, dict[str, Any]]:
    """The slide of another patient whose mean vector is nearest (Euclidean), see above."""
    means = mean_vectors(bags)
    groups, found = np.array(bags.group), {}
    for index, slide in enumerate(bags.slide):
        others = np.flatnonzero(groups != groups[index])
        distance = np.linalg.norm(means[others] - means[index], axis=1)
        nearest = int(others[distance.argmin()])
        found[slide] = {
            "group": bags.group[index], "nearest": bags.slide[nearest],
            "right": bool(bags.label[nearest] == bags.label[index]),
            "chance": float((bags.label[others] == bags.label[index]).mean()),
        }  # fmt: skip
    return found


def mean_vectors(bags: BagSet) -> NDArray[np.float64]:
    """Mean over the regions of each bag: float64 (N, D)."""
    every = [bags.features(i).double().mean(0).numpy() for i in range(len(bags))]
    return np.stack(every)


def mean_of(found: Mapping[str, Mapping[str, Any]], key: str) -> dict[str, Any]:
    """Mean over slides with its interval over groups: {"value", "interval", "slides"}."""
    kept = [one for one in found.values() if one.get(key) is not None]
    if not kept:
        return {"value": None, "interval": None, "slides": 0}
    value = np.array([float(one[key]) for one in kept])
    known, group = np.unique([one["group"] for one in kept], return_inverse=True)
    weight = leave_out(len(known))[:, group]
    with np.errstate(invalid="ignore"):
        means = (weight * value).sum(1) / weight.sum(1)
    spread = interval(means, "kappa" if key == "rand" else "slides")
    return {
        "value": float(value.mean()), "interval": None if spread is None else list(spread),
        "slides": len(kept),
    }  # fmt: skip


def nearest_neighbours(
    data: Sequence[BagData],
    split: Split,
    folds: int,
    neighbours: int,
    *,
    load: Callable[[BagData, Split], BagSet] = load_bags,
) -> list[dict[str, Any]]:
    """Classify the test slides of every fold by the nearest mean vectors of its training slides.

    Args:
        data: bags of each fold, of the same slides.
        split: of the folds; ``share`` of the training slides is asked.
        folds: how many.
        neighbours: how many are asked; all, where there are fewer.
        load: what opens bags, where they are open already.

    Returns:
        Rows as :func:`~wsikd.learn.mil.cross_validate.pool` takes them.
    """
    from sklearn.neighbors import KNeighborsClassifier

    rows: list[dict[str, Any]] = []
    for fold in range(folds):
        bags = load(data[fold], split.model_copy(update={"folds": folds, "fold": fold}))
        means, train, test = mean_vectors(bags), bags.indices("train"), bags.indices("test")
        model = KNeighborsClassifier(min(neighbours, len(train)))
        model.fit(means[train], bags.label[train])
        said = np.zeros((len(test), len(bags.classes)))
        said[:, model.classes_] = model.predict_proba(means[test])
        rows += [
            {"slide": bags.slide[i], "group": bags.group[i], "label": int(bags.label[i]),
             "probability": p.tolist(), "decided": int(p.argmax()), "fold": fold}
            for i, p in zip(test.tolist(), said, strict=True)
        ]  # fmt: skip
    return rows


def figures(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Figures of :mod:`wsikd.learn.mil.cross_validate`, with the AUC's deviation over folds."""
    found = pool(rows)
    folds = [v for v in found["auc"]["folds"] if v is not None]
    found["auc"]["std"] = float(np.std(folds)) if folds else None
    return found


def check_left_out(encoder: LoadedRegionEncoder, names: Sequence[str]) -> None:
    """Refuse a region encoder that learnt from what is to be tested.

    Args:
        encoder: with the record of what it has seen.
        names: "slide NAME" and "patient NAME" of the test part.

    Raises:
        DataError: one was seen, or the card does not say.
    """
    records = encoder.card.seen
    if not isinstance(records, list) or not records:
        raise DataError(encoder.path, "does not say what it has seen", "train it again")
    for record in records:
        seen = hashes(str(record["train"]["names"]))
        for name in names:
            if seen_hash(name, str(record["salt"])) in seen:
                raise DataError(
                    name, f"is in the test part, but {encoder.path} learnt from it",
                    "leave it out of the pre-training, or ask for the transductive protocol",
                )  # fmt: skip


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Rows of ``predictions.json`` of a fold, or of a file of ours. Raises DataError."""
    try:
        found: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(file, "cannot be read", "remove it and run again") from error
    return found
