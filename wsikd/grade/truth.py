"""A grade map against what a person drew."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from wsikd.grade.gleason import pattern_of
from wsikd.tiles.labels import label_fields

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from wsikd.grade.grademap import GradeMap
    from wsikd.slides.annotations import Region


@dataclass(frozen=True)
class Score:
    """How well predicted classes fit the drawn ones.

    ``kappa`` is quadratic where the classes are grades (Cohen 1968), with a 95 % bootstrap interval
    over fields; ``confusion`` counts (drawn, predicted).
    """

    fields: int
    kappa: float
    interval: tuple[float, float]
    balanced_accuracy: float
    accuracy: float
    confusion: NDArray[np.int64]
    classes: tuple[str, ...]


def truth_map(
    grade_map: GradeMap, regions: Sequence[Region], *, min_cover: float = 0.5
) -> GradeMap:
    """The drawn regions on the grid of ``grade_map``: probability 1 for the drawn class.

    Cells of which no class covers ``min_cover`` are not valid.
    """
    rows, columns = np.nonzero(grade_map.valid_hw)
    label, _ = label_fields(grade_map.boxes(), regions, grade_map.classes, min_cover=min_cover)
    known = label >= 0
    valid = np.zeros_like(grade_map.valid_hw)
    valid[rows[known], columns[known]] = True
    probability = np.full_like(grade_map.probability_khw, np.nan)
    probability[:, valid] = np.eye(len(grade_map.classes), dtype=np.float32)[label[known]].T
    return replace(grade_map, probability_khw=probability, valid_hw=valid, seconds={})


def score_maps(truth: Sequence[GradeMap], found: Sequence[GradeMap], *, seed: int = 0) -> Score:
    """Compare maps with drawn ones over all cells valid in both, of all slides together."""
    pairs = [(t.valid_hw & f.valid_hw, t, f) for t, f in zip(truth, found, strict=True)]
    a = np.concatenate([t.grade_hw[both] for both, t, _ in pairs])
    b = np.concatenate([f.grade_hw[both] for both, _, f in pairs])
    return score_labels(a, b, truth[0].classes, seed=seed)


def score_labels(
    truth: NDArray[np.integer],
    found: NDArray[np.integer],
    classes: tuple[str, ...],
    *,
    seed: int = 0,
    resamples: int = 1000,
) -> Score:
    """Compare class indices, int (N,)."""
    count = len(classes)
    table = _confusion(truth, found, count)
    ordinal = all(pattern_of(name) is not None for name in classes)
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, max(len(truth), 1), (resamples, len(truth)))
    kappas = [_kappa(_confusion(truth[d], found[d], count), ordinal=ordinal) for d in draws]
    present = table.sum(1) > 0
    recall = np.diag(table)[present] / table.sum(1)[present]
    return Score(
        fields=len(truth),
        kappa=_kappa(table, ordinal=ordinal),
        interval=(float(np.nanquantile(kappas, 0.025)), float(np.nanquantile(kappas, 0.975))),
        balanced_accuracy=float(recall.mean()) if present.any() else float("nan"),
        accuracy=float((truth == found).mean()) if len(truth) else float("nan"),
        confusion=table,
        classes=classes,
    )


def _confusion(
    truth: NDArray[np.integer], found: NDArray[np.integer], count: int
) -> NDArray[np.int64]:
    flat = np.bincount(truth.astype(np.int64) * count + found, minlength=count * count)
    return flat.reshape(count, count)


def _kappa(table: NDArray[np.int64], *, ordinal: bool) -> float:
    """Cohen's kappa of a confusion table, weighted by squared distance where ``ordinal``."""
    index = np.arange(len(table))
    distance = np.abs(index[:, None] - index)
    weight = distance**2 if ordinal else (distance > 0).astype(np.int64)
    expected = np.outer(table.sum(1), table.sum(0)) / max(table.sum(), 1)
    chance = float((weight * expected).sum())
    return 1 - float((weight * table).sum()) / chance if chance > 0 else float("nan")
