"""Cost and kappa of every contender: Markdown and a plot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wsikd.core.intervals import MIN_GROUPS
from wsikd.core.output.markdown import table_lines
from wsikd.grade.bench.sequence import seen_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

_COLOURS = {"teacher": "#aa3377", "student": "#228833", "escalated": "#4477aa"}


def trade_lines(record: dict[str, Any]) -> list[str]:
    """The table of costs and kappas as Markdown, with the choice if a margin was given."""
    asked = any(p["kind"] == "escalated" for p in record["points"])
    units = _units(record)
    heads = [
        "reads",
        *(["fields read again"] if asked else []),
        "GMAC a field",
        "wall s",
        "CPU s",
        "CPU, teacher's",
        *(f"kappa of {unit}s [95 %]" for unit, _ in units),
    ]
    rows = [_row(p, units, asked=asked) for p in record["points"]]
    lines = [*table_lines(heads, rows, right=range(1, len(heads))), ""]
    if "compared_slides" in record:
        lines += [_slides_text(record["compared_slides"]), ""]
    again = "The teacher grades the most uncertain fields again. " if asked else ""
    lines += [
        (
            f"{_fields_text(record['compared'])}. {again}Times are medians [minimum, maximum] of "
            f"interleaved passes over the same fields."
        ),
        "",
    ]
    if record.get("choice"):
        lines += _choice_lines(record)
    for name, seen in record["seen"].items():
        if seen:
            lines += [f"**{name} was trained on {len(seen)} of these slides.**", ""]
    return lines


def _units(record: dict[str, Any]) -> list[tuple[str, str]]:
    """Each unit of kappa and the prefix of its entries; the choice is by the first."""
    slides = [("slide", "slide_")] if "compared_slides" in record else []
    return [*slides, ("field", "")]


def _fields_text(what: dict[str, Any]) -> str:
    scale = "quadratic kappa" if what["quadratic"] else "kappa"
    over = (
        f"over {what['fields']} fields of {what['slides']} slide(s); "
        f"{_intervals_over(what['groups'])}"
    )
    if what["reference"] == "drawn":
        return (
            f"The {scale} of fields is that with the annotations or labels of the slides (where "
            f"a field has one class), {over}"
        )
    return (
        f"These slides have no annotations: the {scale} of fields is agreement with the teacher, "
        f"not with a reference, {over}"
    )


def _slides_text(what: dict[str, Any]) -> str:
    without = sum(row["label"] is None for row in what["grade_groups"])
    left = [
        *([f"{without} slide(s) without a label are left out"] if without else []),
        *(
            [f"{len(what['missing'])} label(s) are for slides that were not compared"]
            * bool(what["missing"])
        ),
    ]
    return (
        "The quadratic kappa of slides is that of ISUP grade groups 0 to 5 with the labels "
        f"({what['specimen']} rule), over {what['slides']} slide(s); "
        f"{_intervals_over(what['groups'])}{''.join(f'; {one}' for one in left)}."
    )


def _intervals_over(groups: int) -> str:
    if groups < MIN_GROUPS:
        return f"no intervals: {groups} slides or patients are not enough, it takes {MIN_GROUPS}"
    return f"intervals are over {groups} slides or patients"


def _row(point: dict[str, Any], units: list[tuple[str, str]], *, asked: bool) -> tuple[str, ...]:
    again = () if not asked else ("-" if point["share"] is None else f"{point['share']:.1%}",)
    times = [_spread(point[k]) for k in ("wall_s", "cpu_s")]
    kappas = [_kappa(point, start) for _, start in units]
    return point["name"], *again, _gmac(point), *times, f"{point['cpu_share']:.2f}", *kappas


def _gmac(point: dict[str, Any]) -> str:
    """Multiply-accumulates of a field; records of 0.1.0 have them for networks alone."""
    return f"{point['macs'] / 1e9:.3g}" if "macs" in point else "-"


def _kappa(point: dict[str, Any], start: str) -> str:
    value, span = point[f"{start}kappa"], point[f"{start}interval"]
    reach = f" [{span[0]:.3f}, {span[1]:.3f}]" if span else ""
    return "-" if value is None else f"{value:.3f}{reach}"


def _spread(values: dict[str, float]) -> str:
    digits = 3 if values["median"] < 1 else 2
    middle, low, high = (f"{values[k]:.{digits}f}" for k in ("median", "min", "max"))
    return f"{middle} [{low}, {high}]"


_ONE_MISSED = ", computed as if it had missed the cancer of one more slide,"


def _choice_lines(record: dict[str, Any]) -> list[str]:
    choice = record["choice"]
    seen = seen_text(choice.get("seen_without_margin", 0))
    before = [f"{seen[0].upper()}{seen[1:]}.", ""] if seen else []
    if choice["refused"]:
        return [f"**A margin of {choice['margin']:g}: {choice['refused']}.**", "", *before]
    said = (
        f"**Not inferior to the teacher by a margin of {choice['margin']:g}: "
        f"{choice['chosen'] or 'none'}.** By kappa of {choice['unit']}s: a student passes where "
        f"the one-sided {100 * choice.get('level', 0.96):g} % lower bound of its kappa less the "
        f"teacher's{_ONE_MISSED} lies above "
        f"-{choice['margin']:g}; from the highest magnification down, until one fails."
    )
    kappa = f"kappa of {choice['unit']}s less the teacher's [95 %]"
    rows = []
    for test in choice["tests"]:
        less, lower = (
            "-" if test[k] is None else f"{test[k]:+.3f}" for k in ("difference", "lower")
        )
        if span := test["interval"]:
            less += f" [{span[0]:+.3f}, {span[1]:+.3f}]"
        rows.append((test["name"], less, lower, _verdict(test)))
    table = table_lines(["student", kappa, "lower bound", ""], rows, right=(1, 2))
    return [said, "", *table, "", *before]


def _verdict(test: dict[str, Any]) -> str:
    if test["not_inferior"] is None:
        return "not tested"
    if test["not_inferior"]:
        return "not inferior"
    return "no interval" if test["lower"] is None else "not shown"


def _draw_front(axes: Axes, points: Sequence[dict[str, Any]], key: str) -> None:
    """A line through the networks that none as cheap equals."""
    best: list[dict[str, Any]] = []
    for point in sorted(points, key=lambda p: p["cpu_s"]["median"]):
        if not best or point[key] > best[-1][key]:
            best.append(point)
    axes.plot([p["cpu_s"]["median"] for p in best], [p[key] for p in best],
              color="#bbbbbb", zorder=0)  # fmt: skip


def plot_trade(record: dict[str, Any], path: Path) -> None:
    """Plot kappa over CPU time of every contender, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    unit, start = _units(record)[0]
    points = [p for p in record["points"] if p[f"{start}kappa"] is not None]
    escalated = any(p["kind"] == "escalated" for p in points)
    if escalated:
        rank = {"student": 0.0, "teacher": 1.0}
        order = sorted(points, key=lambda p: rank.get(p["kind"], p["budget"]))
        axes.plot([p["cpu_s"]["median"] for p in order], [p[f"{start}kappa"] for p in order],
                  color="#bbbbbb", zorder=0)  # fmt: skip
        axes.set_title("percentages: share of fields that the teacher grades again", fontsize=9)
    elif len(points) > 2:
        _draw_front(axes, points, f"{start}kappa")
    for number, point in enumerate(points):
        cpu, kappa = point["cpu_s"], point[f"{start}kappa"]
        low, high = point[f"{start}interval"] or (kappa, kappa)
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
            ha="right" if point["kind"] == "student" and escalated else "center",
        )  # fmt: skip
    against = "agreement with the teacher"
    if unit == "slide" or record["compared"]["reference"] == "drawn":
        against = "with the labels" if unit == "slide" else "with the annotations"
    axes.set_xlabel("CPU seconds for all slides, median and range of the passes")
    axes.set_ylabel(f"kappa of {unit}s, {against}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.15, y=0.1)
    figure.savefig(path, dpi=150)
