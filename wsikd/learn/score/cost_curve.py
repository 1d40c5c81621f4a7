"""Cost against accuracy: what a patch costs, and what that buys."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from wsikd.core.output.markdown import table_lines
from wsikd.core.run import aside

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

PICTURE = "cost.png"


class Costed(NamedTuple):
    """A network: its name, multiply-accumulates of a patch, figure, and the figure's interval."""

    name: str
    macs: float
    value: float
    interval: tuple[float, float] | None = None


def front(points: Iterable[Costed]) -> list[Costed]:
    """Those that none as cheap equals, cheapest first.

    >>> found = front([Costed("a", 2, 0.8), Costed("b", 1, 0.7), Costed("c", 4, 0.75)])
    >>> [point.name for point in found]
    ['b', 'a']
    """
    found: list[Costed] = []
    for point in sorted(points, key=lambda p: (p.macs, -p.value)):
        if not found or point.value > found[-1].value:
            found.append(point)
    return found


def has_curve(points: Sequence[Costed]) -> bool:
    """Whether there are two costs at least."""
    return len({point.macs for point in points}) > 1


def cost_lines(points: Sequence[Costed], figure: str, what: str) -> list[str]:
    """The curve as a Markdown table, cheapest first; a star marks those of :func:`front`.

    Args:
        points: networks.
        figure: name of the figure.
        what: what the networks are, the head of the first column.
    """
    best = set(front(points))
    rows = [
        (f"{p.name}{' *' if p in best else ''}", f"{p.macs / 1e9:.3g}", _value(p))
        for p in sorted(points, key=lambda p: (p.macs, -p.value))
    ]
    note = f"\\* No {what} as cheap has a higher {figure}. GMAC: 1e9 multiply-accumulates a patch."
    return [*table_lines([what, "GMAC", figure], rows, right=(1, 2)), "", note]


def _value(point: Costed) -> str:
    span = point.interval
    return f"{point.value:.3f}" + (f" ({span[0]:.3f} to {span[1]:.3f})" if span else "")


def plot_cost(points: Sequence[Costed], figure: str, path: Path) -> None:
    """Plot a figure over the cost of a patch, on a logarithmic axis, as a PNG.

    Raises:
        OutputError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(7, 4), layout="constrained")
    axes = canvas.subplots()
    best = front(points)
    axes.plot([p.macs / 1e9 for p in best], [p.value for p in best], color="#bbbbbb", zorder=0)
    for number, point in enumerate(points):
        low, high = point.interval or (point.value, point.value)
        axes.errorbar(
            point.macs / 1e9, point.value,
            yerr=[[max(0.0, point.value - low)], [max(0.0, high - point.value)]],
            fmt="o", color="#228833" if point in best else "#888888", elinewidth=0.8, capsize=2,
        )  # fmt: skip
        axes.annotate(
            point.name, (point.macs / 1e9, point.value), xytext=(5, 5 if number % 2 else -10),
            textcoords="offset points", fontsize=8,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlabel("multiply-accumulates of a patch, 1e9")
    axes.set_ylabel(figure)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.2, y=0.15)
    with aside(path, keep_suffix=True) as part:
        canvas.savefig(part, dpi=150)
