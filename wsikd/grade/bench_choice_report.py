"""What each way of reading costs and how well it grades: Markdown and a plot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

_COLOURS = {"teacher": "#aa3377", "student": "#228833", "escalated": "#4477aa"}


def trade_lines(record: dict[str, Any]) -> list[str]:
    """The table of costs and kappas, and the answer where a margin was stated, as Markdown."""
    what = record["compared"]
    scale = "quadratic kappa" if what["quadratic"] else "kappa"
    over = f"over {what['fields']} fields of {what['slides']} slide(s)"
    if what["reference"] == "drawn":
        told = f"The {scale} is that with what was drawn or said of the slides, {over}"
    else:
        told = (
            f"Nothing is drawn on these slides: the {scale} is agreement with the teacher, {over}; "
            "it does not tell who is right"
        )
    asked = any(p["kind"] == "escalated" for p in record["points"])
    again = "Fields are read again by the teacher, the most doubtful first. " if asked else ""
    lines = [
        (
            f"| reads |{' fields read again |' if asked else ''} wall s | CPU s | "
            "CPU, teacher's | kappa [95 %] |"
        ),
        f"|---|{'---:|' if asked else ''}---:|---:|---:|---:|",
        *(f"| {' | '.join(_row(p, asked=asked))} |" for p in record["points"]),
        "",
        (
            f"{told}; intervals resample {what['groups']} slides or patients. {again}Times are "
            "medians [least, greatest] of passes in turn over the same fields."
        ),
        "",
    ]
    if record.get("choice"):
        lines += _choice_lines(record)
    for name, seen in record["seen"].items():
        if seen:
            lines += [f"**{name} has learnt from {len(seen)} of these slides.**", ""]
    return lines


def _row(point: dict[str, Any], *, asked: bool) -> tuple[str, ...]:
    again = () if not asked else ("-" if point["share"] is None else f"{point['share']:.1%}",)
    kappa = "-" if point["kappa"] is None else f"{point['kappa']:.3f}"
    span = point["interval"]
    reach = f" [{span[0]:.3f}, {span[1]:.3f}]" if span else ""
    times = [_spread(point[k]) for k in ("wall_s", "cpu_s")]
    return point["name"], *again, *times, f"{point['cpu_share']:.2f}", kappa + reach


def _spread(values: dict[str, float]) -> str:
    digits = 3 if values["median"] < 1 else 2
    middle, low, high = (f"{values[k]:.{digits}f}" for k in ("median", "min", "max"))
    return f"{middle} [{low}, {high}]"


def _choice_lines(record: dict[str, Any]) -> list[str]:
    choice = record["choice"]
    answer = choice["chosen"] or "none"
    said = (
        f"**Not inferior to the teacher by a margin of {choice['margin']:g}: {answer}.** A student "
        "passes where the one-sided 95 % lower bound of its kappa less the teacher's lies above "
        f"-{choice['margin']:g}; from the highest magnification down, until one fails."
    )
    lines = [
        said,
        "",
        "| student | kappa less the teacher's | lower bound | |",
        "|---|---:|---:|---|",
    ]
    words = {True: "not inferior", False: "not shown", None: "not tested"}
    for test in choice["tests"]:
        values = ("-" if test[k] is None else f"{test[k]:+.3f}" for k in ("difference", "lower"))
        lines.append(f"| {' | '.join((test['name'], *values, words[test['not_inferior']]))} |")
    lines.append("")
    if choice["few"]:
        lines += [
            f"**{choice['groups']} slides or patients are too few: do not trust the bounds.**",
            "",
        ]
    return lines


def plot_trade(record: dict[str, Any], path: Path) -> None:
    """Kappa over CPU time of every way of reading, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    points = [p for p in record["points"] if p["kappa"] is not None]
    if any(p["kind"] == "escalated" for p in points):
        rank = {"student": 0.0, "teacher": 1.0}
        order = sorted(points, key=lambda p: rank.get(p["kind"], p["budget"]))
        axes.plot([p["cpu_s"]["median"] for p in order], [p["kappa"] for p in order],
                  color="#bbbbbb", zorder=0)  # fmt: skip
        axes.set_title("percentages: fields that the teacher reads again", fontsize=9)
    for number, point in enumerate(points):
        cpu, kappa = point["cpu_s"], point["kappa"]
        low, high = point["interval"] or (kappa, kappa)
        axes.errorbar(
            cpu["median"], kappa,
            xerr=[[cpu["median"] - cpu["min"]], [cpu["max"] - cpu["median"]]],
            yerr=[[max(0.0, kappa - low)], [max(0.0, high - kappa)]],
            fmt="o", color=_COLOURS[point["kind"]], elinewidth=0.8, capsize=2,
        )  # fmt: skip
        label = point["name"] if point["budget"] is None else f"{point['budget']:.0%}"
        above = point["budget"] is None or number % 2
        axes.annotate(
            label, (cpu["median"], max(high, kappa) if above else min(low, kappa)),
            xytext=(0, 4 if above else -12), textcoords="offset points", fontsize=8,
            ha="right" if point["kind"] == "student" else "center",
        )  # fmt: skip
    drawn = record["compared"]["reference"] == "drawn"
    axes.set_xlabel("CPU seconds for all slides, median and range of the passes")
    axes.set_ylabel("kappa with what was drawn" if drawn else "agreement with the teacher (kappa)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.15, y=0.1)
    figure.savefig(path, dpi=150)
