"""From area per class to Gleason score and ISUP grade group.

Grade groups: Epstein et al., Am J Surg Pathol 2016;40:244-252 (ISUP 2014 consensus). Primary,
secondary and minor patterns: Epstein et al. 2005;29:1228-1242 and van Leenders et al.
2020;44:e87-e99 (ISUP 2005 and 2019). The rules as written here await confirmation by a
pathologist.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wsikd.core.classes import pattern_of
from wsikd.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

SPECIMENS = ("biopsy", "prostatectomy")
MINOR_SHARE = 0.05
_TOLERANCE = 1e-9  # sums of cell areas carry rounding


@dataclass(frozen=True)
class GleasonReading:
    """Patterns of one slide; ``minor`` is a higher pattern left out of the score, if any."""

    primary: int
    secondary: int
    minor: int | None = None

    @property
    def score(self) -> int:
        """Sum of primary and secondary pattern."""
        return self.primary + self.secondary

    @property
    def grade_group(self) -> int:
        """ISUP grade group, 1 to 5."""
        return grade_group(self.primary, self.secondary)

    @property
    def sum_text(self) -> str:
        """The score as it is written, such as ``3+4=7``."""
        return f"{self.primary}+{self.secondary}={self.score}"

    @property
    def text(self) -> str:
        """Score, grade group and minor pattern in words."""
        minor = f", minor pattern {self.minor}" if self.minor else ""
        return f"{self.sum_text} (grade group {self.grade_group}){minor}"


def grade_group(primary: int, secondary: int) -> int:
    """ISUP grade group of two Gleason patterns (Epstein et al. 2016).

    >>> [grade_group(*p) for p in ((3, 3), (3, 4), (4, 3), (4, 4), (3, 5), (4, 5))]
    [1, 2, 3, 4, 4, 5]

    Raises:
        ValueError: a pattern is not 1 to 5.
    """
    if not {primary, secondary} <= {1, 2, 3, 4, 5}:
        raise ValueError(f"Gleason patterns are 1 to 5, not {primary} and {secondary}")
    score = primary + secondary
    if score <= 6:
        return 1
    if score == 7:
        return 2 if primary < secondary else 3
    return 4 if score == 8 else 5


def patterns_of(classes: Sequence[str]) -> dict[int, int] | None:
    """Which classes are Gleason patterns.

    ``G3``, ``GP3``, ``Gleason 3`` and ``gleason_3`` are pattern 3, whatever the case; ``NC``,
    ``benign``, ``normal``, ``non-cancer``, ``stroma`` and ``0`` are no cancer.

    Returns:
        Class index -> pattern; None if no class is a pattern, or one is neither pattern nor
        free of cancer, so that the classes are not a Gleason grading.
    """
    found = [pattern_of(name) for name in classes]
    if None in found or not any(found):
        return None
    return {index: pattern for index, pattern in enumerate(found) if pattern}


def grade_slide(
    area_mm2_by_class: Sequence[float] | NDArray[np.float64],
    classes: Sequence[str],
    *,
    specimen: str,
    min_area_mm2: float,
) -> GleasonReading | None:
    """Read a slide's Gleason patterns from their areas.

    Biopsy: the most extensive pattern, then the highest remaining one, however small. A single
    pattern is doubled. Prostatectomy: the two most extensive; a pattern higher than the primary
    that covers at most 5 % of the cancer is left out of the score, even where it would be second.
    ``minor`` is the highest pattern left out, where it is higher than both that were scored.

    A third pattern above 5 % is reported as ``minor`` too, although ISUP 2014 and 2019 practice
    may promote it to secondary; and the ISUP 2005 advice to ignore a *lower* pattern below 5 %
    of a high-grade cancer is not applied. Both are marked for confirmation by a pathologist.
    Of two patterns of equal extent the higher comes first.

    Args:
        area_mm2_by_class: area of each class in mm2, in the order of ``classes``.
        classes: class names; see ``patterns_of``.
        specimen: ``"biopsy"`` or ``"prostatectomy"``.
        min_area_mm2: area a pattern must reach to count at all; the 5 % are of what counts.

    Returns:
        The reading, or None when no pattern counts: no cancer, no score.

    Raises:
        ConfigError: the specimen is unknown, or the classes are not Gleason patterns.
        ValueError: an area is negative or not finite, or areas and classes differ in number.
    """
    if specimen not in SPECIMENS:
        raise ConfigError(specimen, "no such specimen", f"--specimen: {' or '.join(SPECIMENS)}")
    patterns = patterns_of(classes)
    if patterns is None:
        raise ConfigError(", ".join(classes), "not Gleason patterns", "name them NC, G3, G4, G5")
    areas = [float(area) for area in area_mm2_by_class]
    if len(areas) != len(classes) or not all(math.isfinite(a) and a >= 0 for a in areas):
        raise ValueError(f"{len(classes)} finite areas of 0 mm2 or more expected, not {areas}")
    extent = dict.fromkeys(patterns.values(), 0.0)
    for index, pattern in patterns.items():
        extent[pattern] += areas[index]
    extent = {p: a for p, a in extent.items() if a > 0 and a >= min_area_mm2 - _TOLERANCE}
    if not extent:
        return None
    return _biopsy(extent) if specimen == "biopsy" else _prostatectomy(extent)


def _by_extent(extent: dict[int, float]) -> list[int]:
    return sorted(extent, key=lambda pattern: (-extent[pattern], -pattern))


def _biopsy(extent: dict[int, float]) -> GleasonReading:
    primary = _by_extent(extent)[0]
    return GleasonReading(primary, max(set(extent) - {primary}, default=primary))


def _prostatectomy(extent: dict[int, float]) -> GleasonReading:
    limit = (MINOR_SHARE + _TOLERANCE) * sum(extent.values())
    primary, *others = _by_extent(extent)
    scored = [p for p in others if p < primary or extent[p] > limit]
    secondary = scored[0] if scored else primary
    minor = max(set(others) - {secondary}, default=0)
    return GleasonReading(primary, secondary, minor if minor > max(primary, secondary) else None)
