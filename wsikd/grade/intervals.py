"""How far a slide's numbers can be trusted: intervals from the errors of validation slides.

The student's card keeps how far the shares of the classes were off on each validation slide, see
:mod:`wsikd.core.shares`. The intervals of the shares hold all classes of 95 % of such slides at
once. What is read off the shares, as the grade group, is read off all shares that these intervals
allow, so that it is held at least as often. Pattern 4's share of the cancer has errors of its own;
that of pattern 5 has no interval, since it is nearly zero in grade groups 2 and 3. A card that
rests on too few slides, or on errors that say nothing, gives no interval.

Not counted: that a slide may be unlike those of the validation.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.core.shares import LEVEL
from wsikd.grade.gleason import grade_rows, patterns_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsikd.core.shares import ShareErrors
    from wsikd.grade.gleason import GleasonReading
    from wsikd.grade.gleason_rules import Rules
    from wsikd.grade.grademap import GradeMap

UNKNOWN = "the student's card holds no errors of shares"


@dataclass(frozen=True)
class Intervals:
    """What the errors of validation slides come to on a slide.

    Attributes:
        share: float64 (classes,), estimated share of the graded tissue.
        low: float64 (classes,), lower end of the share of each class.
        high: float64 (classes,), upper end.
        area_mm2: float64 (cases, classes), areas that these intervals allow, the estimate first.
        readings: the Gleason reading of each case, None where no pattern counts; empty where the
            classes are not Gleason patterns.
        patterns: class -> Gleason pattern; empty where the classes are none.
        slides: validation slides that this rests on.
        of_cancer: pattern 4 -> lower and upper end of its share of the cancer; empty where too few
            validation slides had a mixture of patterns.
    """

    share: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    area_mm2: NDArray[np.float64]
    readings: tuple[GleasonReading | None, ...]
    patterns: dict[int, int]
    slides: int
    of_cancer: dict[int, tuple[float, float]]

    @property
    def share_limits(self) -> tuple[list[float], list[float]]:
        """Lower and upper end of each class's share."""
        return self.low.round(6).tolist(), self.high.round(6).tolist()

    @property
    def grade_group_limits(self) -> tuple[int, int]:
        """Lower and upper end of the grade group, 0 where no pattern counts."""
        groups = [r.grade_group if r else 0 for r in self._different]
        return min(groups), max(groups)

    @cached_property
    def _different(self) -> list[GleasonReading | None]:
        """The readings, each object once: equal rows share one, and to hash them takes longer."""
        return list({id(reading): reading for reading in self.readings}.values())

    @property
    def cancer_limits(self) -> tuple[float, float]:
        """Lower and upper end of the share of the tissue that is cancer."""
        found = self.area_mm2[:, list(self.patterns)].sum(1) / self.area_mm2.sum(1)
        return round(float(found.min()), 6), round(float(found.max()), 6)

    def record(self, classes: tuple[str, ...]) -> dict[str, Any]:
        """For ``result.json``: low, estimate and high of every class, and of the cancer."""
        total = float(self.area_mm2[0].sum())
        shares = np.stack([self.low, self.share, self.high], 1)
        found: dict[str, Any] = {"level": LEVEL, "validation_slides": self.slides}
        for name, table in (("area_mm2", shares * total), ("share", shares)):
            found[name] = dict(zip(classes, table.round(6).tolist(), strict=True))
        if self.patterns:
            low, high = self.cancer_limits
            middle = float(self.share[list(self.patterns)].sum())
            found["cancer_mm2"] = [round(v * total, 6) for v in (low, middle, high)]
            found["grade_group"] = list(self.grade_group_limits)
            scores = {r.sum_text if r else "none" for r in self._different}
            found["gleason_scores"] = sorted(scores)
        return found


def fault_of(grade_map: GradeMap, errors: ShareErrors | None) -> str | None:
    """Why a map has no intervals; None where it has.

    Args:
        grade_map: the slide's grades.
        errors: errors of the student's card, None where it holds none.
    """
    valid = grade_map.valid_hw
    if grade_map.temperature is None:
        return "the probabilities are not calibrated"
    if errors is None:
        return UNKNOWN
    if errors.fault:
        return errors.fault
    if grade_map.escalated_hw is not None and grade_map.escalated_hw.any():
        return "a teacher read some fields, and the errors of both together are not known"
    return None if float(grade_map.tissue_hw[valid].sum()) > 0 else "no tissue was graded"


def basis(grade_map: GradeMap, errors: ShareErrors | None) -> str:
    """The basis of a map's intervals, or why there are none, in a few words."""
    fault = fault_of(grade_map, errors)
    if errors is None or fault:
        return f"none: {fault}"
    return f"{LEVEL:.0%} from {errors.slides} validation slides"


def intervals(grade_map: GradeMap, errors: ShareErrors | None, rules: Rules) -> Intervals | None:
    """The intervals of a calibrated map.

    Args:
        grade_map: the slide's grades.
        errors: errors of the student's card.
        rules: specimen, thresholds and contested choices; see ``grade_slide``.

    Returns:
        None where :func:`fault_of` says why.
    """
    if errors is None or fault_of(grade_map, errors):
        return None
    valid, classes = grade_map.valid_hw, grade_map.classes
    area = grade_map.tissue_hw[valid].astype(np.float64) * grade_map.cell_mm2
    share = errors.estimate(grade_map.probability_khw[:, valid].T, area)
    fields = int(valid.sum())
    cases = errors.corners(share, fields) * area.sum()
    patterns = patterns_of(classes) or {}
    readings: tuple[GleasonReading | None, ...] = ()
    if patterns:
        readings = tuple(grade_rows(cases, classes, rules))
    low, high = errors.limits(share, fields)
    ends = errors.ratio_limits(share, fields) if patterns else None
    of_cancer = {4: (round(ends[0], 6), round(ends[1], 6))} if ends else {}
    return Intervals(share, low, high, cases, readings, patterns, errors.slides, of_cancer)
