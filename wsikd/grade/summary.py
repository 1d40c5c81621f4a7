"""The numbers of a whole slide: area of each class, Gleason reading, expected cancer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wsikd.core.errors import ConfigError
from wsikd.grade.gleason import SPECIMENS, grade_slide, patterns_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsikd.grade.grademap import GradeMap
    from wsikd.grade.intervals import Intervals


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
