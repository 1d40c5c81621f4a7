"""The picture of a study of HDKD."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wsikd.learn.score.plots import new_figure, save_figure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def plot_shares(points: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Quadratic kappa against the share of training slides, one line a row, with every run.

    Bars reach one deviation over seeds either way; rows stand a little apart so that they show.

    Args:
        points: as ``label_efficiency.make_study`` gives them, one at least.
        file: the PNG to write.
    """
    figure, (axis,) = new_figure(1, (7.6, 4.6))
    names = list(dict.fromkeys(p["row"] for p in points))
    for number, name in enumerate(names):
        own = [p for p in points if p["row"] == name and p["mean"]["kappa"] is not None]
        apart = 1.03 ** (number - (len(names) - 1) / 2)
        place = [100 * p["share"] * apart for p in own]
        mean = [p["mean"]["kappa"] for p in own]
        style = {"teacher": ":", "colour_histogram": "--"}.get(name, "-")
        line = axis.errorbar(
            place, mean, yerr=[p["deviation"]["kappa"] or 0.0 for p in own],
            label=name.replace("_", " "),
            linestyle=style, marker="o", markersize=4, capsize=2, linewidth=1.4,
        )  # fmt: skip
        for x, point in zip(place, own, strict=True):
            each = [v for v in point["each"]["kappa"] if v is not None]
            axis.plot([x] * len(each), each, ".", color=line[0].get_color(), alpha=0.35)
    shares = sorted({100 * p["share"] for p in points})
    axis.set_xscale("log")
    axis.set_xticks(shares, [f"{s:g}" for s in shares])
    axis.set_xticks([], minor=True)
    axis.set_xlabel("training slides, % of each class (one at least)")
    axis.set_ylabel("quadratic kappa on the test part")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    save_figure(figure, file)
