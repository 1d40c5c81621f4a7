"""Cores: connected pieces of tissue on a slide, each with a score of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.grade.gleason import patterns_of
from wsikd.grade.score_text import score_text
from wsikd.grade.summary import class_areas, score_columns
from wsikd.grade.verdict import conclude

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from wsikd.grade.gleason_rules import Rules
    from wsikd.grade.grademap import GradeMap
    from wsikd.grade.verdict import Verdict

    _Box = tuple[float, float, float, float]
    _Measured = tuple[NDArray[np.float64], NDArray[np.float64], _Box]

MERGE_MM = 1.0
_EDGE = 1e-6


@dataclass(frozen=True)
class Core:
    """A piece of tissue.

    Attributes:
        number: from 1, from top to bottom.
        box: level-0 (x, y, width, height).
        tissue_mm2: tissue that was graded.
        verdict: what is concluded of it.
    """

    number: int
    box: tuple[float, float, float, float]
    tissue_mm2: float
    verdict: Verdict

    @property
    def text(self) -> str:
        """The score in words, or why there is none."""
        return score_text(score_columns(self.verdict))

    def record(self) -> dict[str, Any]:
        """For ``result.json`` and ``cores.csv``."""
        box = dict(zip(("x", "y", "width", "height"), (round(v, 1) for v in self.box), strict=True))
        return {"core": self.number, **box, "tissue_mm2": self.tissue_mm2} | score_columns(
            self.verdict
        )


def cores(grade_map: GradeMap, rules: Rules, *, merge_mm: float = MERGE_MM) -> list[Core]:
    """The pieces of tissue on a slide, from top to bottom; none where nothing is graded.

    A core is held to the area that the whole slide must reach, so a slide without cancer has no
    core with cancer.

    Args:
        grade_map: the slide's grades; the classes are Gleason patterns, else there are no cores.
        rules: rules of the grading.
        merge_mm: pieces whose gap is at most so wide are one.
    """
    if patterns_of(grade_map.classes) is None:
        return []
    tissue = float(class_areas(grade_map).sum())
    least = rules.least_cancer(tissue), rules.least_expected(tissue)
    number_hw = pieces(
        grade_map.valid_hw & (grade_map.tissue_hw > 0), merge_mm * 1000 / grade_map.mpp
    )
    found = []
    for number, (areas, expected, box) in enumerate(_measured(grade_map, number_hw), 1):
        verdict = conclude(areas, grade_map.classes, rules, expected=expected, least=least)
        found.append(Core(number, box, float(areas.sum()), verdict))
    return found


def _measured(grade_map: GradeMap, number_hw: NDArray[np.int64]) -> Iterator[_Measured]:
    """Area of each class, expected area of each class, and box of each piece."""
    rows, columns = np.nonzero(number_hw)
    piece, kinds = number_hw[rows, columns] - 1, len(grade_map.classes)
    count = int(number_hw.max(initial=0))
    tissue = grade_map.tissue_hw[rows, columns].astype(np.float64) * grade_map.cell_mm2
    grade = grade_map.grade_hw[rows, columns]
    called = np.bincount(piece * kinds + grade, tissue, count * kinds).reshape(count, kinds)
    likely = [np.bincount(piece, tissue * p[rows, columns], count)
              for p in grade_map.probability_khw]  # fmt: skip
    order = np.argsort(piece, kind="stable")
    ends = np.searchsorted(piece[order], np.arange(1, count))
    for number, own in enumerate(np.split(order, ends) if count else []):
        expected = np.array([area[number] for area in likely])
        yield called[number], expected, _box(grade_map, rows[own], columns[own])


def worst_of(found: Sequence[Core]) -> Core | None:
    """The core with the highest grade group, of these the one with most cancer; None without."""
    graded = [core for core in found if core.verdict.reading]
    return max(
        graded, key=lambda c: (c.verdict.grade_group or 0, c.verdict.cancer_mm2), default=None
    )


def core_columns(found: Sequence[Core]) -> dict[str, str | float | int | None]:
    """Columns of ``summary.csv``: cores, worst_core, worst_core_score, worst_core_grade_group."""
    worst = worst_of(found)
    reading = worst.verdict.reading if worst else None
    return {
        "cores": len(found),
        "worst_core": worst.number if worst else None,
        "worst_core_score": reading.sum_text if reading else None,
        "worst_core_grade_group": reading.grade_group if reading else None,
    }


def pieces(mask_hw: NDArray[np.bool_], gap: float) -> NDArray[np.int64]:
    """Number of the piece that each cell belongs to, 0 for none: int64 (rows, columns).

    Cells that touch, also at a corner, are one piece, and pieces whose nearest edges are at most
    ``gap`` cells apart.

    Args:
        mask_hw: bool (rows, columns).
        gap: in cell sides.
    """
    import cv2

    mask = mask_hw.astype(np.uint8)
    count, label = cv2.connectedComponents(mask, connectivity=8)
    count -= 1  # without the background
    if count < 2:
        return np.asarray(label, np.int64)
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    around, edge = np.ones((3, 3), np.uint8), cv2.BORDER_CONSTANT
    border = mask_hw & (cv2.erode(mask, around, borderType=edge, borderValue=0) == 0)
    place = np.argwhere(border)
    pairs = cKDTree(place).query_pairs(gap + 2**0.5 + _EDGE, output_type="ndarray")
    apart = np.maximum(np.abs(place[pairs[:, 0]] - place[pairs[:, 1]]) - 1, 0)
    near = pairs[np.hypot(*apart.T) <= gap + _EDGE]
    own = label[tuple(place.T)] - 1
    links = coo_array((np.ones(len(near)), (own[near[:, 0]], own[near[:, 1]])), (count, count))
    _, merged = connected_components(links, directed=False)
    joined = np.where(mask_hw, merged[np.maximum(label, 1) - 1] + 1, 0)
    return _from_the_top(joined)


def _from_the_top(label: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same pieces, numbered in the order of their first cells, row by row."""
    numbers, first = np.unique(label, return_index=True)
    numbers, first = numbers[numbers > 0], first[numbers > 0]
    table = np.zeros(int(label.max(initial=0)) + 1, np.int64)
    table[numbers[np.argsort(first)]] = np.arange(1, len(numbers) + 1)
    return np.asarray(table[label], np.int64)


def _box(grade_map: GradeMap, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> _Box:
    (x, y), (width, height) = grade_map.origin_xy, grade_map.cell_px
    left, top = int(columns.min()), int(rows.min())
    wide, high = int(columns.max()) - left + 1, int(rows.max()) - top + 1
    return x + left * width, y + top * height, wide * width, high * height
