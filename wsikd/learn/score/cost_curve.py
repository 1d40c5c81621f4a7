"""Cost against accuracy: what a patch costs, and what that buys."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from wsikd.core.output.markdown import table_lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

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
