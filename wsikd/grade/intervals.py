"""How far a slide's numbers can be trusted: intervals from calibrated probabilities.

A calibrated field with probability 0.7 of G4 is G4 in seven cases of ten. Slides are drawn that
agree with all fields, and what is read off each draw gives the interval. Neighbouring fields err
together: all fields in a block of ``BLOCK_MM`` share one random number, blocks are independent. A
field takes the class at which its cumulative probability, in the order of the classes, passes that
number. Sharing widens the intervals; were fields drawn one by one, a slide of a thousand of them
would seem to be known almost exactly.

Not counted: that the temperature itself is estimated, and that a slide may be unlike the training.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.grade.gleason import grade_slide, patterns_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from wsikd.grade.gleason import GleasonReading
    from wsikd.grade.gleason_rules import Rules
    from wsikd.grade.grademap import GradeMap

DRAWS = 1000
BLOCK_MM = 4.0
LEVEL = 0.95
_STEPS = 200
_AT_ONCE = 1 << 18


@dataclass(frozen=True)
class Intervals:
    """What the draws of a slide came to.

    Attributes:
        area_mm2: float64 (draws, classes), area of each class.
        readings: the Gleason reading of each draw, None where no pattern counts; empty where the
            classes are not Gleason patterns.
    """

    area_mm2: NDArray[np.float64]
    readings: tuple[GleasonReading | None, ...]

    @property
    def share(self) -> NDArray[np.float64]:
        """Share of the graded tissue, float64 (draws, classes)."""
        return np.asarray(self.area_mm2 / self.area_mm2.sum(1, keepdims=True), np.float64)

    @property
    def grade_groups(self) -> NDArray[np.int64]:
        """ISUP grade group of each draw, 0 where no pattern counts: int64 (draws,)."""
        return np.array([r.grade_group if r else 0 for r in self.readings], np.int64)

    @property
    def share_limits(self) -> tuple[list[float], list[float]]:
        """Lower and upper end of each class's share."""
        low, high = limits(self.share)
        return low.round(6).tolist(), high.round(6).tolist()

    @property
    def grade_group_limits(self) -> tuple[int, int]:
        """Lower and upper end of the grade group, 0 where no pattern counts."""
        low, high = limits(self.grade_groups)
        return int(low), int(high)

    def record(self, classes: tuple[str, ...]) -> dict[str, Any]:
        """For ``result.json``: low, mean and high of every class, and how often each reading."""
        found: dict[str, Any] = {"level": LEVEL, "draws": len(self.area_mm2), "block_mm": BLOCK_MM}
        for name, values in (("area_mm2", self.area_mm2), ("share", self.share)):
            low, high = limits(values)
            table = np.stack([low, values.mean(0), high], 1).round(6).tolist()
            found[name] = dict(zip(classes, table, strict=True))
        if self.readings:
            found["grade_group"] = _rates(str(group) for group in self.grade_groups.tolist())
            found["gleason_score"] = _rates(r.sum_text if r else "none" for r in self.readings)
        return found


def _rates(values: Iterable[str]) -> dict[str, float]:
    counts = Counter(values)
    return {value: counts[value] / counts.total() for value in sorted(counts)}


def limits(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Lower and upper end of the interval over the first axis, values that were drawn."""
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(values, (tail, 1 - tail), axis=0, method="inverted_cdf")
    return low, high


def intervals(grade_map: GradeMap, rules: Rules) -> Intervals | None:
    """Draw slides that agree with a calibrated map; the same map gives the same draws.

    Args:
        grade_map: the slide's grades.
        rules: specimen, thresholds and contested choices; see ``grade_slide``.

    Returns:
        None where the map is not calibrated, or holds no tissue.
    """
    valid = grade_map.valid_hw
    if grade_map.temperature is None or not grade_map.tissue_hw[valid].any():
        return None
    area = _draw(
        grade_map.probability_khw[:, valid],
        grade_map.tissue_hw[valid].astype(np.float64) * grade_map.cell_mm2,
        _blocks(grade_map),
    )
    readings: tuple[GleasonReading | None, ...] = ()
    if patterns_of(grade_map.classes) is not None:
        readings = tuple(grade_slide(row, grade_map.classes, rules) for row in area.tolist())
    return Intervals(area, readings)


def _blocks(grade_map: GradeMap) -> NDArray[np.int64]:
    """Number of the block that each valid cell lies in, from 0, row by row: int64 (N,)."""
    side = max(1, round(BLOCK_MM * 1000 / grade_map.mpp))
    rows, columns = np.nonzero(grade_map.valid_hw)
    place = (rows // side) * (grade_map.valid_hw.shape[1] // side + 1) + columns // side
    return np.asarray(np.unique(place, return_inverse=True)[1], np.int64)


def _draw(
    probability_kn: NDArray[np.float32], area: NDArray[np.float64], block: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Area of each class in every draw: float64 (draws, classes).

    The shared number of a block is one of 200 equal steps, so that the area of each class at
    each step is added up once for all draws.
    """
    count = int(block.max()) + 1
    cumulative = np.cumsum(probability_kn, 0, dtype=np.float64)
    step = np.random.default_rng(0).integers(_STEPS, size=(DRAWS, count))
    parts = np.array_split(step, min(DRAWS, -(-step.size // _AT_ONCE)))
    below = np.zeros(DRAWS)
    found = []
    for line in cumulative[:-1]:
        passed = np.clip(np.ceil(line * _STEPS - 0.5), 0, _STEPS).astype(np.int64)
        table = np.bincount(
            block * (_STEPS + 1) + passed, weights=area, minlength=count * (_STEPS + 1)
        ).reshape(count, _STEPS + 1)
        reached = table[:, ::-1].cumsum(1)[:, ::-1][:, 1:]  # cells whose line lies above a step
        at_most = np.concatenate([reached[np.arange(count), part].sum(1) for part in parts])
        found.append(at_most - below)
        below = at_most
    found.append(area.sum() - below)
    return np.maximum(np.stack(found, 1), 0.0)
