"""From area per class to Gleason score and ISUP grade group.

The rules, their sources and examples that are tests: ``docs/gleason.md``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wsikd.core.classes import pattern_of
from wsikd.core.errors import ConfigError
from wsikd.grade.gleason_rules import MINOR_SHARE, Rules

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

_TOLERANCE = 1e-9  # sums of cell areas carry rounding
_NEAR = 1e-7  # to a threshold: more than tolerance and rounding come to


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
    ``benign``, ``normal``, ``non-cancer``, ``stroma`` and ``0`` mean no cancer.

    Returns:
        Class index -> pattern; None if no class is a pattern, or one is neither pattern nor
        free of cancer, so that the classes are not a Gleason grading.
    """
    found = [pattern_of(name) for name in classes]
    if None in found or not any(found):
        return None
    return {index: pattern for index, pattern in enumerate(found) if pattern}


def pattern_areas(
    area_mm2_by_class: Sequence[float] | NDArray[np.float64], classes: Sequence[str]
) -> dict[int, float]:
    """Area of each Gleason pattern, in mm2.

    Raises:
        ConfigError: the classes are not Gleason patterns.
        ValueError: an area is negative or not finite, or areas and classes differ in number.
    """
    return _pattern_areas(area_mm2_by_class, classes, _known_patterns(classes))


def _known_patterns(classes: Sequence[str]) -> dict[int, int]:
    patterns = patterns_of(classes)
    if patterns is None:
        raise ConfigError(", ".join(classes), "not Gleason patterns", "name them NC, G3, G4, G5")
    return patterns


def _pattern_areas(
    area_mm2_by_class: Sequence[float] | NDArray[np.float64],
    classes: Sequence[str],
    patterns: Mapping[int, int],
) -> dict[int, float]:
    areas = [float(area) for area in area_mm2_by_class]
    if len(areas) != len(classes) or not all(0 <= a < math.inf for a in areas):
        raise ValueError(f"{len(classes)} finite areas of 0 mm2 or more expected, not {areas}")
    extent = dict.fromkeys(patterns.values(), 0.0)
    for index, pattern in patterns.items():
        extent[pattern] += areas[index]
    return extent


def grade_slide(
    area_mm2_by_class: Sequence[float] | NDArray[np.float64],
    classes: Sequence[str],
    rules: Rules,
) -> GleasonReading | None:
    """Read a slide's Gleason patterns from their areas; see ``docs/gleason.md`` for the rules.

    Whether there is cancer is decided on the summed area of all patterns, which patterns there are
    on their shares of the cancer.

    Args:
        area_mm2_by_class: area of each class in mm2, in the order of ``classes``.
        classes: class names; see ``patterns_of``.
        rules: specimen, thresholds and contested choices.

    Returns:
        The reading, or None where the cancer does not reach its least area.

    Raises:
        ConfigError: the specimen is unknown, or the classes are not Gleason patterns.
        ValueError: an area is negative or not finite, or areas and classes differ in number.
    """
    return grade_rows([[float(area) for area in area_mm2_by_class]], classes, rules)[0]


def grade_rows(
    rows: Sequence[Sequence[float]] | NDArray[np.float64], classes: Sequence[str], rules: Rules
) -> list[GleasonReading | None]:
    """As :func:`grade_slide`, for many rows of areas; rows equal for every rule are read once.

    Args:
        rows: (N, classes), areas in mm2.
        classes: as there.
        rules: as there.
    """
    rules.check()
    patterns = _known_patterns(classes)
    table = np.asarray(rows, np.float64)
    many = len(table) > 1 and np.isfinite(table).all()
    alike = _alike(table, patterns, rules).tolist() if many else [-1] * len(table)
    found: dict[int, GleasonReading | None] = {}
    readings = []
    for areas, key in zip(table.tolist(), alike, strict=True):
        if key < 0 or key not in found:
            extent = _pattern_areas(areas, classes, patterns)
            enough = sum(extent.values()) >= rules.least_cancer(sum(areas)) - _TOLERANCE
            found[key] = read_patterns(extent, rules) if enough else None
        readings.append(found[key])
    return readings


def _alike(
    table: NDArray[np.float64], patterns: Mapping[int, int], rules: Rules
) -> NDArray[np.int64]:
    """A number for each row: rows with the same number are on the same side of every threshold.

    Negative for a row near a threshold, or one that does not hold areas: it is read by itself.
    """
    by_pattern: dict[int, NDArray[np.float64]] = {}
    for index, pattern in patterns.items():
        by_pattern[pattern] = by_pattern.get(pattern, 0.0) + table[:, index]
    extent = np.stack([*by_pattern.values()], 1)
    cancer = extent.sum(1)
    least = np.maximum(rules.min_area_mm2, rules.cancer_share * table.sum(1))
    if rules.area_cap_mm2 is not None:
        least = np.minimum(least, rules.area_cap_mm2)
    shares = extent / np.maximum(cancer, _TOLERANCE)[:, None]
    one, other = np.triu_indices(shares.shape[1], 1)
    none, no_cancer = shares == 0, cancer == 0
    sides = [
        ((cancer - least)[:, None], (no_cancer & (least == 0))[:, None]),
        (cancer[:, None], no_cancer[:, None]),
        (shares, none),
        (shares - rules.min_pattern, none),
        (shares - MINOR_SHARE, np.zeros_like(none)),
        (shares[:, one] - shares[:, other], none[:, one] & none[:, other]),
    ]
    away, exact = (np.concatenate(parts, 1) for parts in zip(*sides, strict=True))
    clear = ((np.abs(away) > _NEAR) | exact).all(1) & (table >= 0).all(1)
    bits = (away > 0) @ (1 << np.arange(away.shape[1], dtype=np.int64))
    return np.where(clear, bits, -1)


def read_patterns(extent: Mapping[int, float], rules: Rules) -> GleasonReading | None:
    """The score of a cancer, however small.

    Args:
        extent: area of each pattern, in any unit.
        rules: see ``grade_slide``.

    Returns:
        The reading; None where every area is 0.
    """
    cancer = sum(extent.values())
    if not cancer > 0:
        return None
    shares = {p: a / cancer for p, a in extent.items()}
    least = min(rules.min_pattern, max(shares.values())) - _TOLERANCE
    shares = {p: s for p, s in shares.items() if s > 0 and s >= least}
    return _biopsy(shares) if rules.specimen == "biopsy" else _prostatectomy(shares, rules)


def _by_extent(shares: dict[int, float]) -> list[int]:
    """Patterns, the most extensive first; of two of equal extent the higher."""
    return sorted(shares, key=lambda pattern: (-round(shares[pattern], 9), -pattern))


def _is_minor(share: float) -> bool:
    return share < MINOR_SHARE - _TOLERANCE


def _biopsy(shares: dict[int, float]) -> GleasonReading:
    """The most extensive pattern, then the worst other one; a lower one from 5 % on."""
    primary, *others = _by_extent(shares)
    counted = [p for p in others if p > primary or not _is_minor(shares[p])]
    return GleasonReading(primary, max(counted, default=primary))


def _prostatectomy(shares: dict[int, float], rules: Rules) -> GleasonReading:
    primary, *others = _by_extent(shares)
    counted = [p for p in others if p > primary or not _is_minor(shares[p])]
    if primary == 5 or 5 not in counted:
        return _two_patterns(primary, counted, shares, rules)
    if not _is_minor(shares[5]):
        return GleasonReading(primary, 5)
    rest = [p for p in counted if p != 5]
    found = _two_patterns(primary, rest, shares, rules)
    if found.grade_group in (2, 3) or rules.minor_5 == "minor":
        return GleasonReading(found.primary, found.secondary, 5)
    return GleasonReading(primary, 5)


def _two_patterns(
    primary: int, others: list[int], shares: dict[int, float], rules: Rules
) -> GleasonReading:
    """The two most extensive; a pattern 4 below 5 % of a pattern 3 cancer as the rules have it."""
    secondary = others[0] if others else primary
    if secondary > primary and _is_minor(shares[secondary]) and rules.minor_4 == "minor":
        return GleasonReading(primary, primary, secondary)
    return GleasonReading(primary, secondary)
