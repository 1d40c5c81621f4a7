"""A grade map against what a person drew."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from wsikd.core.agreement import balanced_accuracy, confusion, kappa
from wsikd.core.classes import pattern_of
from wsikd.tiles.labels import label_fields

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from wsikd.grade.grademap import GradeMap
    from wsikd.slides.annotations.base import Region


@dataclass(frozen=True)
class Score:
    """How well predicted classes fit the drawn ones.

    ``kappa_plain`` is unweighted (Cohen 1960); ``kappa`` is quadratic where the classes are grades
    (Cohen 1968), with a 95 % bootstrap interval over fields; ``confusion`` counts (drawn,
    predicted).
    """

    fields: int
    kappa: float
    kappa_plain: float
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
    table = confusion(truth, found, count)
    ordinal = all(pattern_of(name) is not None for name in classes)
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, max(len(truth), 1), (resamples, len(truth)))
    resampled = [kappa(confusion(truth[d], found[d], count), quadratic=ordinal) for d in draws]
    kappas = [k for k in resampled if math.isfinite(k)] or [math.nan]
    return Score(
        fields=len(truth),
        kappa=kappa(table, quadratic=ordinal),
        kappa_plain=kappa(table, quadratic=False),
        interval=(float(np.quantile(kappas, 0.025)), float(np.quantile(kappas, 0.975))),
        balanced_accuracy=balanced_accuracy(table),
        accuracy=float((truth == found).mean()) if len(truth) else float("nan"),
        confusion=table,
        classes=classes,
    )
