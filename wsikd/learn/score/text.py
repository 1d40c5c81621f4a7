"""Figures of labelled patches as ``wsikd evaluate`` prints them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wsikd.core.intervals import MIN_GROUPS_AUC, NO_INTERVAL
from wsikd.core.output.looks import looks_text
from wsikd.learn.score.over_colour import OverColour

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def patch_text(record: Mapping[str, Any], folder: Path | None) -> str:
    """A record of scored patches as lines of a fixed width.

    Args:
        record: of ``wsikd.learn.score.test_record.score``, with the entry "report" where pictures
            were drawn.
        folder: folder of the pictures.
    """
    colour, teacher = record["colour_histogram"] or {}, record["teacher"]
    theirs = teacher["figures"] if teacher else {}
    head = (
        f"{record['split']}: {record['patches']} patches of {record['groups']} slides or patients"
    )
    columns = f"{'':<20}{'network':>8}  {'95 % interval':<16}{'colour alone':>12}"
    looks = [looks_text(record["looks"])] if "looks" in record else []
    lines = [head, *looks, columns + (f"{'teacher':>10}" if teacher else "")]

    def add(title: str, name: str, value: float | None, reach: list[float] | None) -> None:
        row = _row(title, value, reach, colour.get(name))
        lines.append(row + (f"{_three(theirs.get(name)):>10}" if teacher else ""))

    for name, value in record["figures"].items():
        title = name.replace("_", " ").replace("auc", "AUC")
        add(title, name, value, record["intervals"][name])
    for name, value in record["f1"].items():
        place = record["classes"].index(name)
        add(f"F1 {name}", f"f1_{place}", value, record["f1_intervals"][name])
    if record.get("over_colour"):
        lines.append(OverColour(**record["over_colour"]).summary)
    if record["groups"] < MIN_GROUPS_AUC:
        lines.append(NO_INTERVAL)
    lines += _cost(record)
    if not record["benign"]:
        lines.append("AUC cancer is not given: no class is known as benign; set data.benign")
    lines += ["confusion (true class in rows):", *_confusion(record)]
    if made := record["calibration"]:
        lines += _calibration(made, record["classes"])
    if "report" in record:
        agreement = record["report"]["attention_agreement"]
        if agreement is not None:
            lines.append(f"attention agrees with the teacher's: mean correlation {agreement:.3f}")
        lines.append(f"pictures: {folder}")
    return "\n".join(lines)


def _calibration(made: Mapping[str, Any], classes: Sequence[str]) -> list[str]:
    """Errors of the probabilities, of all classes and of each."""
    after = made["ece_after"]
    shown = "unknown, of a single slide" if after is None else f"{after:.3f}"
    how = " (of each slide by the others)" if made.get("cross_fitted") and after is not None else ""
    before, temperature = made["ece_before"], made["temperature"]
    lines = [f"calibration error {before:.3f}, with temperature {temperature:.2f} {shown}{how}"]
    if by_class := made.get("ece_by_class_after"):
        each = (f"{name} {error:.3f}" for name, error in zip(classes, by_class, strict=True))
        lines.append(f"calibration error by class: {', '.join(each)}")
    return lines


def _cost(record: Mapping[str, Any]) -> list[str]:
    """Multiply-accumulates of a patch for student and teacher; empty without them in the card."""
    own, teacher = record["macs"], record["teacher"]
    if own is None:
        return []
    line = (
        f"{own / 1e9:.3g} G multiply-accumulates a patch ({record['mpp']:g} um/px, "
        f"{record['input']})"
    )
    if teacher and teacher["macs"]:
        line += (
            f", {own / teacher['macs']:.3g} times the teacher's {teacher['macs'] / 1e9:.3g} G"
            f" ({teacher['mpp']:g} um/px)"
        )
    return [line]


def _row(name: str, value: float | None, reach: list[float] | None, colour: float | None) -> str:
    span = f"{reach[0]:.3f} to {reach[1]:.3f}" if reach else "-"
    return f"{name:<20}{_three(value):>8}  {span:<16}{_three(colour):>12}"


def _three(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _confusion(record: Mapping[str, Any]) -> list[str]:
    names = record["classes"]
    width = max(6, *(len(n) + 1 for n in names))
    head = " " * width + "".join(f"{n:>{width}}" for n in names)
    rows = zip(names, record["confusion"], strict=True)
    return [head, *(f"{n:<{width}}" + "".join(f"{v:>{width}}" for v in row) for n, row in rows)]
