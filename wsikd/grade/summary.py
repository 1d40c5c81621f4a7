"""The numbers of a whole slide: area of each class, Gleason reading, expected cancer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wsikd.grade.gleason import patterns_of
from wsikd.grade.verdict import conclude

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from wsikd.grade.gleason_rules import Rules
    from wsikd.grade.grademap import GradeMap
    from wsikd.grade.intervals import Intervals
    from wsikd.grade.verdict import Verdict


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


def expected_areas(grade_map: GradeMap) -> NDArray[np.float64]:
    """Expected area of each class, in mm2: the sum of its probabilities, by tissue."""
    valid = grade_map.valid_hw
    tissue = grade_map.tissue_hw[valid].astype(np.float64)
    found = grade_map.probability_khw[:, valid].astype(np.float64) @ tissue
    return np.asarray(found * grade_map.cell_mm2, np.float64)


def verdict_of(grade_map: GradeMap, rules: Rules) -> Verdict | None:
    """What is concluded of a map; None where the classes are not Gleason patterns."""
    if patterns_of(grade_map.classes) is None:
        return None
    areas, expected = class_areas(grade_map), expected_areas(grade_map)
    return conclude(areas, grade_map.classes, rules, expected=expected)


def summarise(
    grade_map: GradeMap,
    rules: Rules,
    *,
    drawn: Intervals | None = None,
    of_cancer: Mapping[int, tuple[float, float]] | None = None,
    withheld: str | None = None,
) -> dict[str, str | float | int | None]:
    """One slide's row of ``summary.csv``.

    Columns, in order: slide, tissue_mm2 (tissue that was graded), then for each class its area
    ``<class>_mm2`` and its share of that tissue ``<class>_share`` (None without tissue); where the
    classes are Gleason patterns those of :func:`score_columns`; mean_uncertainty over the fields,
    fields, seconds. With ``drawn``, each share is followed by ``<class>_share_low`` and
    ``<class>_share_high``, the grade group by isup_low and isup_high, 0 for no cancer, and
    cancer_expected by cancer_expected_low and cancer_expected_high.

    Args:
        grade_map: the slide's grades.
        rules: specimen, thresholds and contested choices.
        drawn: intervals of the same map and rules, see ``wsikd.grade.intervals``.
        of_cancer: pattern -> interval of its share of the cancer, where one is known.
        withheld: why the slide gets no grade group, e.g. ``verdict.UNLIKE``.

    Raises:
        ConfigError: the specimen is unknown.
    """
    rules.check()
    areas = class_areas(grade_map)
    total = float(areas.sum())
    row: dict[str, str | float | int | None] = {"slide": grade_map.slide.name, "tissue_mm2": total}
    for index, (name, area) in enumerate(zip(grade_map.classes, areas.tolist(), strict=True)):
        row[f"{name}_mm2"] = area
        row[f"{name}_share"] = area / total if total > 0 else None
        if drawn:
            for end, values in zip(("low", "high"), drawn.share_limits, strict=True):
                row[f"{name}_share_{end}"] = values[index]
    found = verdict_of(grade_map, rules)
    if found:
        row |= score_columns(found.withheld(withheld) if withheld else found, of_cancer)
        if drawn and not withheld:
            row["isup_low"], row["isup_high"] = drawn.grade_group_limits
        row["cancer_expected"] = expected_cancer(grade_map)
        if drawn:
            row["cancer_expected_low"], row["cancer_expected_high"] = drawn.cancer_limits
    uncertainty = grade_map.uncertainty_hw[grade_map.valid_hw]
    row["mean_uncertainty"] = float(uncertainty.mean()) if uncertainty.size else None
    row["fields"] = int(grade_map.valid_hw.sum())
    row["seconds"] = float(sum(grade_map.seconds.values()))
    return row


def score_columns(
    verdict: Verdict, of_cancer: Mapping[int, tuple[float, float]] | None = None
) -> dict[str, str | float | int | None]:
    """The columns of a score.

    primary, secondary, minor, gleason_score, isup_grade_group (None without a score), grade_status,
    cancer_mm2 (all patterns together), cancer_least_mm2 (the threshold), pattern_4_of_cancer and
    pattern_5_of_cancer (shares, in grade groups 2 and 3), with ``_low`` and ``_high`` where
    ``of_cancer`` has an interval, as it has of pattern 4.
    """
    reading = verdict.reading
    row: dict[str, str | float | int | None] = {
        "primary": reading.primary if reading else None,
        "secondary": reading.secondary if reading else None,
        "minor": reading.minor if reading else None,
        "gleason_score": reading.sum_text if reading else None,
        "isup_grade_group": reading.grade_group if reading else None,
        "grade_status": verdict.status,
        "cancer_mm2": verdict.cancer_mm2,
        "cancer_least_mm2": verdict.least_mm2,
    }
    has_share = reading is not None and reading.grade_group in (2, 3)
    for pattern in (4, 5):
        name = f"pattern_{pattern}_of_cancer"
        row[name] = verdict.of_cancer.get(pattern, 0.0) if has_share else None
        if of_cancer and pattern in of_cancer:
            row[f"{name}_low"], row[f"{name}_high"] = (
                of_cancer[pattern] if has_share else (None, None)
            )
    return row
