"""Table of fields, in the columns of WSInfer's model outputs."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

import numpy as np

from wsikd.grade.exports import aside

if TYPE_CHECKING:
    from pathlib import Path

    from wsikd.grade.grademap import GradeMap
    from wsikd.slides.base import Slide


def write(grade_map: GradeMap, path: Path, *, slide: Slide | None = None) -> None:
    """Write one row per field that was read, row by row over the slide.

    Columns: minx, miny, width, height (level-0 px; whole numbers, or up to three decimals), one
    ``prob_<class>`` per class, then tissue (share of the field) and uncertainty, all 0 to 1 with
    six decimals. The first columns are those of WSInfer (Kaczmarzyk et al., npj Precis Oncol
    2024;8:9), so that its tools read the file.

    Raises:
        OutputError: the file cannot be written.
    """
    valid = grade_map.valid_hw
    boxes = np.round(grade_map.boxes(), 3).tolist()
    values = np.column_stack(
        [
            grade_map.probability_khw[:, valid].T,
            grade_map.tissue_hw[valid],
            grade_map.uncertainty_hw[valid],
        ]
    ).tolist()
    names = [f"prob_{name}" for name in grade_map.classes]
    with aside(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["minx", "miny", "width", "height", *names, "tissue", "uncertainty"])
        for box, cell in zip(boxes, values, strict=True):
            rows.writerow([_short(v) for v in box] + [f"{v:.6f}" for v in cell])


def _short(value: float) -> str:
    return str(int(value)) if value.is_integer() else f"{value:.3f}".rstrip("0")
