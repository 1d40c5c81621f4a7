"""Pictures of a run: its losses, confusion, calibration, and the attention of both networks.

The only module of this folder that draws. Figures are made without pyplot, so nothing is kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.core.run import aside
from wsikd.learn.score.cost_curve import front

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from wsikd.learn.score.attention_maps import AttentionPair
    from wsikd.learn.score.cost_curve import Costed

DPI = 80
TINT = "#4477aa"
COLOURS = 128  # a palette keeps pictures of tissue small


def plot_curves(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Every term raw and weighted, the loss, and the figures on validation, by epoch.

    Args:
        rows: lines of ``metrics.jsonl``; those without an epoch are left out.
        file: the PNG to write.
    """
    epochs = [r for r in rows if "epoch" in r]
    number = [r["epoch"] for r in epochs]
    figure, axes = new_figure(3, (13, 3.6))
    for axis, kind in zip(axes[:2], ("raw", "weighted"), strict=True):
        for name in sorted({k for r in epochs for k in r[kind]}):
            axis.plot(number, [r[kind].get(name, np.nan) for r in epochs], label=name, marker=".")
        axis.set_title(f"terms, {kind}")
    axes[1].plot(number, [r["loss"] for r in epochs], "k--", label="sum")
    for name in ("kappa", "balanced_accuracy"):
        axes[2].plot(number, _of_val(epochs, name), label=name.replace("_", " "), marker=".")
    right = axes[2].twinx()
    right.plot(number, _of_val(epochs, "loss"), "k--", label="loss (right)")
    right.set_ylabel("loss")
    axes[2].set_title("validation")
    for axis in axes:
        axis.set_xlabel("epoch")
    if number:
        lines = [line for axis in (axes[2], right) for line in axis.get_lines()]
        axes[2].legend(lines, [line.get_label() for line in lines], fontsize=8)
        for axis in axes[:2]:
            axis.legend(fontsize=8)
    save_figure(figure, file)


def _of_val(epochs: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return [np.nan if r["val"][name] is None else r["val"][name] for r in epochs]


def plot_confusion(matrix: Sequence[Sequence[int]], classes: Sequence[str], file: Path) -> None:
    """Counts by true class (rows), shaded by their share of the row.

    Args:
        matrix: (C, C), true class first.
        classes: their names.
        file: the PNG to write.
    """
    counts = np.asarray(matrix)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure, (axis,) = new_figure(1, (4.2, 3.8))
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        dark = share[row, column] > 0.5
        axis.text(column, row, str(count), ha="center", va="center", color="w" if dark else "k")
    axis.set_xticks(range(len(classes)), classes)
    axis.set_yticks(range(len(classes)), classes)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    save_figure(figure, file)


def plot_reliability(
    probabilities: Mapping[str, NDArray[np.float64]], truth: NDArray[np.int64], file: Path
) -> None:
    """Accuracy against confidence, for each set of probabilities.

    Args:
        probabilities: title -> float64 (N, C).
        truth: int64 (N,).
        file: the PNG to write.
    """
    from wsikd.learn.score.calibrate import expected_calibration_error, reliability

    figure, axes = new_figure(len(probabilities), (3.9 * len(probabilities), 3.8))
    for axis, (title, probability) in zip(axes, probabilities.items(), strict=True):
        count, _, accuracy = reliability(probability, truth)
        edges = (np.arange(len(count)) + 0.5) / len(count)
        axis.bar(edges, np.nan_to_num(accuracy), 0.9 / len(count), color=TINT)
        axis.plot([0, 1], [0, 1], "k:")
        error = expected_calibration_error(probability, truth)
        axis.set_title(f"{title}: ECE {error:.3f}", fontsize=10)
        axis.set_xlabel("confidence")
        axis.set_ylabel("accuracy")
    save_figure(figure, file)


def plot_attention(pairs: Sequence[AttentionPair], classes: Sequence[str], file: Path) -> None:
    """Patch, teacher's and student's attention for its true class, one row a patch.

    Args:
        pairs: as ``attention.compare_attention`` gives them, one at least.
        classes: names of the classes.
        file: the PNG to write.
    """
    figure, axes = new_figure(3 * len(pairs), (6.6, 2.3 * len(pairs)), columns=3)
    for row, pair in enumerate(pairs):
        patch, teacher, student = axes[3 * row : 3 * row + 3]
        height, width = pair.image.shape[:2]
        for axis in (patch, teacher, student):
            axis.imshow(pair.image, extent=(0, width, height, 0))
            axis.set_axis_off()
        for axis, seen in ((teacher, pair.teacher), (student, pair.student)):
            axis.imshow(seen, cmap="jet", alpha=0.5, extent=(0, width, height, 0), vmin=0, vmax=1)
        patch.set_title(classes[pair.label], fontsize=9)
        teacher.set_title("teacher", fontsize=9)
        student.set_title(f"student (r = {pair.correlation:.2f})", fontsize=9)
    save_figure(figure, file)


def new_figure(panels: int, size: tuple[float, float], *, columns: int | None = None) -> Any:
    """A figure of some panels, inches wide and high, and its axes, row by row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    columns = columns or panels
    axes = figure.subplots(panels // columns, columns, squeeze=False)
    return figure, axes.ravel().tolist()


def save_figure(figure: Any, file: Path) -> None:
    """Write a figure as a PNG of few colours."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    picture = Image.fromarray(np.ascontiguousarray(pixels)).quantize(COLOURS)
    with aside(file) as part:
        picture.save(part, format="PNG", optimize=True)


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
