"""Whether a slide has cancer, and which score it has: the one object that all outputs show."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from wsikd.grade.gleason import pattern_areas, read_patterns
from wsikd.grade.gleason_rules import MINOR_SHARE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from wsikd.grade.gleason import GleasonReading
    from wsikd.grade.gleason_rules import Rules

GRADED = "graded"
NO_CANCER = "no cancer above threshold"
UNLIKE = "withheld: unlike training"
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Verdict:
    """The Gleason result of a slide or a part of it.

    Attributes:
        status: ``GRADED``, ``NO_CANCER`` or ``UNLIKE``.
        reading: the Gleason score; None where there is none.
        cancer_mm2: summed area of all patterns.
        least_mm2: the summed area that was asked for.
        expected_mm2: expected area of cancer; None where it is not known.
        of_cancer: share of the cancer that each pattern has; empty without cancer.
    """

    status: str
    reading: GleasonReading | None
    cancer_mm2: float
    least_mm2: float
    expected_mm2: float | None
    of_cancer: Mapping[int, float]

    @property
    def grade_group(self) -> int | None:
        """ISUP grade group; 0 without cancer above the threshold, None where it is withheld."""
        if self.reading:
            return self.reading.grade_group
        return 0 if self.status == NO_CANCER else None

    def withheld(self, status: str) -> Verdict:
        """The verdict without a score; ``status`` is the reason."""
        return replace(self, status=status, reading=None)


def conclude(
    areas: Sequence[float] | NDArray[np.float64],
    classes: Sequence[str],
    rules: Rules,
    *,
    expected: Sequence[float] | NDArray[np.float64] | None = None,
    least: tuple[float, float | None] | None = None,
) -> Verdict:
    """Decide on cancer by its summed and by its expected area, then read the patterns.

    Where only the expected area reaches its threshold, the patterns are those with at least 5 % of
    the expected cancer.

    Args:
        areas: area of each class in mm2, every field counting as its most probable class.
        classes: class names.
        rules: specimen, thresholds and contested choices.
        expected: expected area of each class in mm2, the sum of probabilities.
        least: summed and expected area to be reached, in mm2, instead of those of the rules.

    Raises:
        ConfigError: the specimen is unknown, or the classes are not Gleason patterns.
        ValueError: an area is negative or not finite.
    """
    rules.check()
    extent = pattern_areas(areas, classes)
    likely = None if expected is None else pattern_areas(expected, classes)
    tissue = float(sum(areas))
    by_area, by_expected = least or (rules.least_cancer(tissue), rules.least_expected(tissue))
    cancer = sum(extent.values())
    expected_mm2 = None if likely is None else sum(likely.values())
    reading = None
    if cancer >= by_area - _TOLERANCE:
        reading = read_patterns(extent, rules)
    if reading is None and likely and by_expected is not None:
        wide = replace(rules, min_pattern=max(rules.min_pattern, MINOR_SHARE))
        if sum(likely.values()) >= by_expected - _TOLERANCE:
            reading, extent = read_patterns(likely, wide), likely
    total = sum(extent.values())
    shares = {p: a / total for p, a in sorted(extent.items())} if total > 0 else {}
    status = GRADED if reading else NO_CANCER
    return Verdict(status, reading, cancer, by_area, expected_mm2, shares)
