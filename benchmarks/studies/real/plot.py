"""The picture of the study: kappa of the colon arms over what they compute."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.studies.real.arms import PRIMARY, TEACHER
from wsikd.learn.score.plots import new_figure, save_figure

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

NAMES = {
    "teacher": "teacher, 224 px, 1 um/px", "ce": "labels", "kd": "labels and answers (KD)",
    "kd_features": "KD and features", "self_kd": "self-distillation",
    "at_plus_fm": "AT+ & feature matching",
}  # fmt: skip
APART = 1.07
"""Factor between arms of equal cost, so that their intervals show."""


def plot_cost(record: dict[str, Any], file: Path) -> None:
    """Quadratic kappa over multiply-accumulates, as a share of the teacher's.

    Bars are 95 % intervals over patients. The line is the student that leaves doubtful fields to
    the teacher; it is bold where it is not inferior to the teacher. Far below are colour and the
    students from random weights, which are left out.

    Args:
        record: of ``page.make_record``, with block A.
        file: the PNG to write.
    """
    figure, (axes,) = new_figure(1, (7.6, 4.2))
    rows = {row["name"]: row for row in record["blocks"][PRIMARY]["rows"]}
    whole = rows[TEACHER]["macs"]
    _draw_arms(axes, [rows[name] for name in NAMES], whole, "o", "56 px")
    if "C" in record["blocks"]:
        others = [
            row for row in record["blocks"]["C"]["rows"] if row["name"] in ("ce", "kd", "self_kd")
        ]
        _draw_arms(axes, others, whole, "s", "112 px")
    _draw_system(axes, record["blocks"][PRIMARY]["system"], rows[TEACHER]["mean"]["kappa"])
    axes.set_xscale("log")
    ticks = (0.05, 0.1, 0.2, 0.5, 1.0)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("multiply-accumulates, as a share of the teacher's")
    axes.set_ylabel("quadratic kappa on patients not trained on")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="lower right")
    save_figure(figure, file)


def _draw_arms(
    axes: Axes, rows: list[dict[str, Any]], whole: float, marker: str, size: str
) -> None:
    """Points with their intervals; arms keep their colours over sizes."""
    colours = {name: f"C{number}" for number, name in enumerate(NAMES)}
    alike = [row for row in rows if row["name"] != TEACHER]
    for row in rows:
        mean, reach = row["mean"]["kappa"], row["interval"]["kappa"]
        place = row["macs"] / whole
        if row in alike:
            place *= APART ** (alike.index(row) - (len(alike) - 1) / 2)
        label = NAMES[row["name"]] + ("" if row["name"] == TEACHER else f", {size}")
        spread = None if reach is None else [[mean - reach[0]], [reach[1] - mean]]
        axes.errorbar(
            place, mean, yerr=spread, fmt=marker, markersize=5, capsize=2, linewidth=1.2,
            color=colours[row["name"]], label=label,
        )  # fmt: skip


def _draw_system(axes: Axes, system: dict[str, Any], teacher: float) -> None:
    """The line of shares that are read again."""

    def line(curve: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
        return (
            [entry["cost"] for entry in curve],
            [teacher + entry["comparisons"][0]["mean"] for entry in curve],
        )

    axes.plot(*line(system["curve"]), color="0.4", linewidth=1, label="KD with escalation")
    if (least := system["least"]) is not None:
        kept = [entry for entry in system["curve"] if entry["cost"] >= least["cost"]]
        axes.plot(*line(kept), color="0.2", linewidth=2.5, label="the same, not inferior")
