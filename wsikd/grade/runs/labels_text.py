"""The text that ``wsikd evaluate --slides`` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wsikd.core.about import NOT_ASSESSED
from wsikd.core.intervals import MIN_GROUPS_AUC, NO_INTERVAL
from wsikd.core.output.looks import looks_text

if TYPE_CHECKING:
    from collections.abc import Mapping

_SHOWN = 5
FIGURES = {
    "kappa": "kappa (quadratic)",
    "accuracy": "accuracy",
    "auc_cancer": "AUC cancer or none",
}
"""Key of a figure in the record -> its name."""


def slides_text(record: Mapping[str, Any]) -> str:
    """The record of graded slides as lines of a fixed width."""
    lines = [
        f"{record['slides']} slides of {record['groups']} slides or patients",
        looks_text(record["looks"]),
        f"{'':<20}{'':>8}  95 % interval",
    ]
    for key, name in FIGURES.items():
        value, span = record["figures"][key], record["intervals"][key]
        shown = f"{span[0]:.3f} to {span[1]:.3f}" if span else "-"
        lines.append(f"{name:<20}{'-' if value is None else f'{value:.3f}':>8}  {shown}")
    if record["groups"] < MIN_GROUPS_AUC:
        lines.append(NO_INTERVAL)
    lines.append(f"AUC by the {record['auc_score']}")
    lines.append("grade group (the pathologist's in rows):")
    width = max(len(n) for n in record["grade_groups"]) + 2
    lines.append(" " * width + "".join(f"{n.replace('no cancer', '0'):>5}"
                                       for n in record["grade_groups"]))  # fmt: skip
    for name, row in zip(record["grade_groups"], record["confusion"], strict=True):
        lines.append(f"{name:<{width}}" + "".join(f"{v:>5}" for v in row))
    lines += _least_areas(record)
    failed = [f"{name} ({error})" for name, error in record["failed"].items()]
    for what, slides in (
        ("labelled, but failed", failed),
        ("labelled, but without a result", record["missing"]),
        ("labelled, but the grade is withheld", record["withheld"]),
        ("graded, but without a label", record["unlabelled"]),
        ("graded without an expected area of cancer (by an older wsikd)", record["without_score"]),
    ):
        if slides:
            more = f" and {len(slides) - _SHOWN} more" if len(slides) > _SHOWN else ""
            lines.append(f"{len(slides)} {what}: {', '.join(slides[:_SHOWN])}{more}")
    lines.append(NOT_ASSESSED)
    return "\n".join(lines)


def _least_areas(record: Mapping[str, Any]) -> list[str]:
    """Results with other least areas, as a table; empty if rows have no areas."""
    if not record["least_areas"]:
        return []
    names = ("sensitivity", "specificity", "kappa", "with_cancer")
    lines = [
        "least area of cancer (--min-area), on these slides alone; choose none by them:",
        f"{'mm2':>8}" + "".join(f"{name.replace('_', ' '):>13}" for name in names),
    ]
    for row in record["least_areas"]:
        cells = [row[name] for name in names]
        shown = ["-" if v is None else str(v) if isinstance(v, int) else f"{v:.3f}" for v in cells]
        lines.append(f"{row['min_area_mm2']:>8g}" + "".join(f"{v:>13}" for v in shown))
    return lines
