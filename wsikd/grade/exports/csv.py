"""Table of fields, in the columns of WSInfer's model outputs."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from wsikd.core.output.cells import cell_text, csv_text
from wsikd.grade.exports import Exporter, aside

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from wsikd.grade.grademap import GradeMap
    from wsikd.slides.base import Slide

NEAR = 0.2


def write(grade_map: GradeMap, path: Path, *, slide: Slide | None = None) -> None:
    """Write one row per field that was read, row by row over the slide.

    Columns: minx, miny, width, height (level-0 px; whole numbers, or up to three decimals), one
    ``prob_<class>`` per class, then tissue (share of the field) and uncertainty, all 0 to 1 with
    six decimals. Maps of a student with a teacher have one more, said_by (student or teacher). The
    first columns are those of WSInfer (Kaczmarzyk et al., npj Precis Oncol 2024;8:9), so that its
    tools read the file.

    Raises:
        OutputError: the file cannot be written.
    """
    valid = grade_map.valid_hw
    values = np.column_stack(
        [
            grade_map.probability_khw[:, valid].T,
            grade_map.tissue_hw[valid],
            grade_map.uncertainty_hw[valid],
        ]
    ).tolist()
    names = [f"prob_{name}" for name in grade_map.classes]
    names += ["tissue", "uncertainty"]
    rows = [[f"{v:.6f}" for v in cell] for cell in values]
    if grade_map.escalated_hw is not None:
        names.append("said_by")
        for row, again in zip(rows, grade_map.escalated_hw[valid].tolist(), strict=True):
            row.append("teacher" if again else "student")
    _save(path, names, grade_map.boxes(), rows)


def write_uncertain(grade_map: GradeMap, path: Path, *, slide: Slide | None = None) -> None:
    """Write the fields near a decision boundary, the nearest first.

    These are the fields whose two highest probabilities differ by less than ``NEAR``. Columns:
    minx, miny, width, height as in :func:`write`, then first, second (classes), prob_first,
    prob_second and margin.

    Raises:
        OutputError: the file cannot be written.
    """
    order, pair = _two_most(grade_map)
    first, second = pair.T
    margin = first - second
    near = doubtful(grade_map)
    classes = [cell_text(name) for name in grade_map.classes]
    rows = [
        [*(classes[k] for k in order[i]), *(f"{v[i]:.6f}" for v in (first, second, margin))]
        for i in near.tolist()
    ]
    names = ["first", "second", "prob_first", "prob_second", "margin"]
    _save(path, names, grade_map.boxes()[near], rows)


def doubtful(grade_map: GradeMap) -> NDArray[np.int64]:
    """Indices in ``grade_map.boxes()`` of the fields near a boundary, the nearest first."""
    _, pair = _two_most(grade_map)
    margin = pair[:, 0] - pair[:, 1]
    near = np.argsort(margin, kind="stable")
    return near[margin[near] < NEAR]


def _two_most(grade_map: GradeMap) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The two most probable classes of each field and their probabilities, each (fields, 2)."""
    probability = grade_map.probability_khw[:, grade_map.valid_hw].T
    order = np.argsort(-probability, axis=1, kind="stable")[:, :2]
    return order, np.take_along_axis(probability, order, 1)


def _save(path: Path, names: list[str], boxes: NDArray[np.float64], rows: list[list[str]]) -> None:
    """Write cells that are text already: numbers, and quoted names."""
    with aside(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        file.write(csv_text(["minx", "miny", "width", "height", *names], ()))
        for box, row in zip(np.round(boxes, 3).tolist(), rows, strict=True):
            file.write(",".join([*map(_short, box), *row]) + "\n")


@lru_cache(maxsize=1 << 14)
def _short(value: float) -> str:
    return str(int(value)) if value.is_integer() else f"{value:.3f}".rstrip("0")


TILES = Exporter("tiles.csv", write)
UNCERTAIN = Exporter("uncertain.csv", write_uncertain)
