"""Comparison of grade maps with annotations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from wsikd.core.agreement import balanced_accuracy, confusion, kappa, kappas
from wsikd.core.classes import pattern_of
from wsikd.core.intervals import interval, leave_out
from wsikd.tiles.labels import label_fields

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from wsikd.grade.grademap import GradeMap
    from wsikd.slides.annotations.base import Region


@dataclass(frozen=True)
class Score:
    """Agreement of predicted with drawn classes.

    ``kappa_plain`` is unweighted (Cohen 1960); ``kappa`` is quadratic if the classes are grades
    (Cohen 1968), with its 95 % interval over slides, None for few of them; ``confusion`` counts
    (drawn, predicted).
    """

    fields: int
    kappa: float
    kappa_plain: float
    interval: tuple[float, float] | None
    slides: int
    balanced_accuracy: float
    accuracy: float
    confusion: NDArray[np.int64]
    classes: tuple[str, ...]


def truth_map(
    grade_map: GradeMap, regions: Sequence[Region], *, min_cover: float = 0.5
) -> GradeMap:
    """The drawn regions on the grid of ``grade_map``: probability 1 for the drawn class.

    A cell is valid if one class covers at least the share ``min_cover`` of it.
    """
    rows, columns = np.nonzero(grade_map.valid_hw)
    label, _ = label_fields(grade_map.boxes(), regions, grade_map.classes, min_cover=min_cover)
    known = label >= 0
    valid = np.zeros_like(grade_map.valid_hw)
    valid[rows[known], columns[known]] = True
    probability = np.full_like(grade_map.probability_khw, np.nan)
    probability[:, valid] = np.eye(len(grade_map.classes), dtype=np.float32)[label[known]].T
    return replace(grade_map, probability_khw=probability, valid_hw=valid, seconds={})


def score_maps(truth: Sequence[GradeMap], found: Sequence[GradeMap]) -> Score:
    """Compare maps with drawn ones over the cells of all slides that are valid in both."""
    pairs = [(t.valid_hw & f.valid_hw, t, f) for t, f in zip(truth, found, strict=True)]
    a = np.concatenate([t.grade_hw[both] for both, t, _ in pairs])
    b = np.concatenate([f.grade_hw[both] for both, _, f in pairs])
    slide = np.repeat(np.arange(len(pairs)), [int(both.sum()) for both, _, _ in pairs])
    return score_labels(a, b, truth[0].classes, slide)


def score_labels(
    truth: NDArray[np.integer],
    found: NDArray[np.integer],
    classes: tuple[str, ...],
    slide: NDArray[np.integer],
) -> Score:
    """Compare class indices ``truth`` and ``found``; ``slide``: index of each one's slide, (N,)."""
    count = len(classes)
    ordinal = all(pattern_of(name) is not None for name in classes)
    _, group = np.unique(slide, return_inverse=True)
    slides = int(group.max(initial=-1)) + 1
    pairs = np.asarray(truth, np.int64) * count + np.asarray(found, np.int64)
    flat = np.bincount(group * count**2 + pairs, minlength=slides * count**2)
    tables = np.tensordot(leave_out(slides), flat.reshape(slides, count, count), 1)
    table = confusion(truth, found, count)
    return Score(
        fields=len(truth),
        kappa=kappa(table, quadratic=ordinal),
        kappa_plain=kappa(table, quadratic=False),
        interval=interval(kappas(tables, quadratic=ordinal), "kappa"),
        slides=slides,
        balanced_accuracy=balanced_accuracy(table),
        accuracy=float((truth == found).mean()) if len(truth) else float("nan"),
        confusion=table,
        classes=classes,
    )
