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

import numpy as np

from wsikd.core.classes import pattern_of
from wsikd.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from wsikd.grade.grademap import GradeMap
    from wsikd.grade.intervals import Intervals

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


def class_areas(grade_map: GradeMap) -> NDArray[np.float64]:
    """Tissue graded as each class, in mm2: float64 (classes,).

    A cell counts with its most probable class and the share of it that is tissue.
    """
    valid = grade_map.valid_hw
    share = grade_map.tissue_hw[valid].astype(np.float64)
    count = len(grade_map.classes)
    cells = np.bincount(grade_map.grade_hw[valid], weights=share, minlength=count)
    return np.asarray(cells * grade_map.cell_mm2, np.float64)


def expected_cancer(grade_map: GradeMap) -> float | None:
    """Share of the tissue expected to be cancer: the mean probability of a pattern, by tissue.

    None without tissue, or where no class is a pattern.
    """
    patterns = patterns_of(grade_map.classes)
    valid = grade_map.valid_hw
    tissue = grade_map.tissue_hw[valid].astype(np.float64)
    if patterns is None or not tissue.sum() > 0:
        return None
    cancer = grade_map.probability_khw[list(patterns)][:, valid].sum(0, dtype=np.float64)
    return float((cancer * tissue).sum() / tissue.sum())


def summarise(
    grade_map: GradeMap, *, specimen: str, min_area_mm2: float, drawn: Intervals | None = None
) -> dict[str, str | float | int | None]:
    """One slide's row of ``summary.csv``.

    Columns, in order: slide, tissue_mm2 (tissue that was graded), then for each class its area
    ``<class>_mm2`` and its share of that tissue ``<class>_share`` (None without tissue); where the
    classes are Gleason patterns primary, secondary, minor, gleason_score, isup_grade_group (None
    without cancer), cancer_expected (see ``expected_cancer``); mean_uncertainty over the fields,
    fields, seconds. With ``drawn``, each share is followed by ``<class>_share_low`` and
    ``<class>_share_high``, and the grade group by isup_low and isup_high, 0 for no cancer.

    Args:
        grade_map: the slide's grades.
        specimen: ``"biopsy"`` or ``"prostatectomy"``; see ``grade_slide``.
        min_area_mm2: area a pattern must reach to count.
        drawn: of the same map and rule, see ``wsikd.grade.intervals``.

    Raises:
        ConfigError: the specimen is unknown.
    """
    if specimen not in SPECIMENS:
        raise ConfigError(specimen, "no such specimen", f"--specimen: {' or '.join(SPECIMENS)}")
    areas = class_areas(grade_map)
    total = float(areas.sum())
    row: dict[str, str | float | int | None] = {"slide": grade_map.slide.name, "tissue_mm2": total}
    for index, (name, area) in enumerate(zip(grade_map.classes, areas.tolist(), strict=True)):
        row[f"{name}_mm2"] = area
        row[f"{name}_share"] = area / total if total > 0 else None
        if drawn:
            for end, values in zip(("low", "high"), drawn.share_limits, strict=True):
                row[f"{name}_share_{end}"] = values[index]
    if patterns_of(grade_map.classes) is not None:
        reading = grade_slide(
            areas, grade_map.classes, specimen=specimen, min_area_mm2=min_area_mm2
        )
        row["primary"] = reading.primary if reading else None
        row["secondary"] = reading.secondary if reading else None
        row["minor"] = reading.minor if reading else None
        row["gleason_score"] = reading.sum_text if reading else None
        row["isup_grade_group"] = reading.grade_group if reading else None
        if drawn:
            row["isup_low"], row["isup_high"] = drawn.grade_group_limits
        row["cancer_expected"] = expected_cancer(grade_map)
    uncertainty = grade_map.uncertainty_hw[grade_map.valid_hw]
    row["mean_uncertainty"] = float(uncertainty.mean()) if uncertainty.size else None
    row["fields"] = int(grade_map.valid_hw.sum())
    row["seconds"] = float(sum(grade_map.seconds.values()))
    return row


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
