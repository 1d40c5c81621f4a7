"""A grade map: class probabilities on a grid of fields, placed on its slide."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.core.softmax import softmax

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from wsikd.grade.reports.thumbnail import View
    from wsikd.slides.base import SlideInfo


DETAIL = 8
"""Cells of the tissue mask along each side of a cell of the map."""


@dataclass(frozen=True)
class GradeMap:
    """Class probabilities of one slide.

    Cell (row, column) covers the level-0 box that starts at
    ``origin_xy + (column, row) * cell_px`` and is ``cell_px`` large; all three are float level-0
    (x, y), so nothing drifts at fractional mpp.

    Attributes:
        probability_khw: float32 (classes, rows, columns); NaN where ``valid_hw`` is false.
        valid_hw: bool (rows, columns); cells the network read.
        tissue_hw: float32 (rows, columns); share of the cell covered by tissue, 0 to 1.
        mpp: um per cell side (a 512 px patch at 1 um/px without overlap: 512).
        origin_xy: level-0 (x, y) of the corner of cell (0, 0).
        cell_px: level-0 (width, height) of a cell.
        classes: name of each class, in order.
        slide: the slide it lies on.
        seconds: wall time by stage.
        temperature: what the logits were divided by, fitted on validation patches; None where the
            probabilities are the network's own, which nobody has calibrated.
        escalated_hw: bool (rows, columns); cells that the teacher read again, whose probabilities
            are the teacher's; None where there was no teacher.
        tissue_mask_hw: bool (DETAIL * rows, DETAIL * columns); where the tissue is within cells,
            for pictures; None where it is not known.
        caption: the score and what made the map, in words, for pictures.
        picture: of the slide's scanned part, put together from what was read to grade it; None
            where nothing was kept.
    """

    probability_khw: NDArray[np.float32]
    valid_hw: NDArray[np.bool_]
    tissue_hw: NDArray[np.float32]
    mpp: float
    origin_xy: tuple[float, float]
    cell_px: tuple[float, float]
    classes: tuple[str, ...]
    slide: SlideInfo
    seconds: Mapping[str, float] = field(default_factory=dict)
    temperature: float | None = None
    escalated_hw: NDArray[np.bool_] | None = None
    tissue_mask_hw: NDArray[np.bool_] | None = field(default=None, repr=False)
    caption: str = ""
    picture: View | None = field(default=None, repr=False, compare=False)

    def calibrated(self, temperature: float | None, teacher: float | None = None) -> GradeMap:
        """The same map with its logits divided by a temperature, which changes no grade.

        Softmax of the logarithms over the temperature; equal to dividing the logits, save where a
        probability is below 1e-45 and was rounded to none.

        Args:
            temperature: as in the student's card; None leaves the map as it is.
            teacher: the same of the teacher, for the cells that it read; None leaves those.

        Raises:
            ValueError: the map is calibrated already.
        """
        if temperature is None:
            return self
        if self.temperature is not None:
            raise ValueError(f"calibrated already, with temperature {self.temperature:g}")
        tiny = np.finfo(np.float32).smallest_subnormal
        divisor = np.full(self.valid_hw.shape, temperature)
        if self.escalated_hw is not None:
            divisor[self.escalated_hw] = 1.0 if teacher is None else teacher
        logit = np.log(np.maximum(self.probability_khw, tiny), dtype=np.float64)
        probability = softmax(logit, divisor, axis=0).astype(np.float32)
        return replace(self, probability_khw=probability, temperature=temperature)

    @property
    def grade_hw(self) -> NDArray[np.int16]:
        """Most probable class of each cell, -1 where nothing was read: int16 (rows, columns)."""
        filled = np.where(self.valid_hw[None], self.probability_khw, 0)
        return np.where(self.valid_hw, filled.argmax(0), -1).astype(np.int16)

    @property
    def uncertainty_hw(self) -> NDArray[np.float32]:
        """Entropy of the probabilities over its maximum, 0 to 1; NaN where nothing was read."""
        p = np.clip(self.probability_khw, 1e-12, 1)
        return np.asarray(-(p * np.log(p)).sum(0) / np.log(max(len(self.classes), 2)), np.float32)

    @property
    def cell_mm2(self) -> float:
        """Area of a cell in mm2."""
        return (self.mpp / 1000) ** 2

    def shown_hw(self, grade_hw: NDArray[np.int16] | None = None) -> tuple[NDArray[np.int16], int]:
        """Classes as pictures show them, on tissue only.

        Args:
            grade_hw: class of each cell, if not the most probable one.

        Returns:
            int16 (parts * rows, parts * columns), -1 where there is no tissue or nothing was read;
            and ``parts``: ``DETAIL``, or 1 where the tissue within cells is not known.
        """
        grade = self.grade_hw if grade_hw is None else grade_hw
        if self.tissue_mask_hw is None:
            return grade, 1
        fine = np.repeat(np.repeat(grade, DETAIL, 0), DETAIL, 1)
        return np.where(self.tissue_mask_hw, fine, np.int16(-1)), DETAIL

    def cells_at(
        self, axis: int, place: NDArray[np.floating[Any]], parts: int = 1
    ) -> NDArray[np.int64]:
        """Cell under level-0 positions along x (axis 0) or y (1): int64, -1 where there is none.

        ``parts`` of a cell's side are counted as cells.
        """
        index = np.floor((place - self.origin_xy[axis]) / self.cell_px[axis] * parts)
        inside = (index >= 0) & (index < self.valid_hw.shape[1 - axis] * parts)
        return np.where(inside, index, -1).astype(np.int64)

    def boxes(self) -> NDArray[np.float64]:
        """Level-0 (x, y, width, height) of the valid cells, row by row: float64 (N, 4)."""
        rows, columns = np.nonzero(self.valid_hw)
        x = self.origin_xy[0] + columns * self.cell_px[0]
        y = self.origin_xy[1] + rows * self.cell_px[1]
        size = np.broadcast_to(np.asarray(self.cell_px, np.float64), (len(x), 2))
        return np.column_stack([x, y, size])
