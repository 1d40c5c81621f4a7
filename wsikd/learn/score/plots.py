"""Pictures of a run: its losses, confusion, calibration, and what both networks look at.

The only module of this folder that draws. Figures are made without pyplot, so nothing is kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.core.run import aside

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from wsikd.learn.score.attention_maps import AttentionPair

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
    figure, axes = _figure(3, (13, 3.6))
    for axis, kind in zip(axes[:2], ("raw", "weighted"), strict=True):
        for name in sorted({k for r in epochs for k in r[kind]}):
            axis.plot(number, [r[kind].get(name, np.nan) for r in epochs], label=name, marker=".")
        axis.set_title(f"terms, {kind}")
    axes[1].plot(number, [r["loss"] for r in epochs], "k--", label="sum")
    for name in ("kappa", "balanced_accuracy", "loss"):
        values = [np.nan if r["val"][name] is None else r["val"][name] for r in epochs]
        axes[2].plot(number, values, label=name.replace("_", " "), marker=".")
    axes[2].set_title("validation")
    for axis in axes:
        axis.set_xlabel("epoch")
        if number:
            axis.legend(fontsize=8)
    _save(figure, file)


def plot_confusion(matrix: Sequence[Sequence[int]], classes: Sequence[str], file: Path) -> None:
    """Counts by true class (rows), shaded by their share of the row.

    Args:
        matrix: (C, C), true class first.
        classes: their names.
        file: the PNG to write.
    """
    counts = np.asarray(matrix)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure, (axis,) = _figure(1, (4.2, 3.8))
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        dark = share[row, column] > 0.5
        axis.text(column, row, str(count), ha="center", va="center", color="w" if dark else "k")
    axis.set_xticks(range(len(classes)), classes)
    axis.set_yticks(range(len(classes)), classes)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    _save(figure, file)


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

    figure, axes = _figure(len(probabilities), (3.9 * len(probabilities), 3.8))
    for axis, (title, probability) in zip(axes, probabilities.items(), strict=True):
        count, _, accuracy = reliability(probability, truth)
        edges = (np.arange(len(count)) + 0.5) / len(count)
        axis.bar(edges, np.nan_to_num(accuracy), 0.9 / len(count), color=TINT)
        axis.plot([0, 1], [0, 1], "k:")
        error = expected_calibration_error(probability, truth)
        axis.set_title(f"{title}: ECE {error:.3f}", fontsize=10)
        axis.set_xlabel("confidence")
        axis.set_ylabel("accuracy")
    _save(figure, file)


def plot_attention(pairs: Sequence[AttentionPair], classes: Sequence[str], file: Path) -> None:
    """Patch, teacher's and student's attention for its true class, one row a patch.

    Args:
        pairs: as ``attention.compare_attention`` gives them, one at least.
        classes: names of the classes.
        file: the PNG to write.
    """
    figure, axes = _figure(3 * len(pairs), (6.6, 2.3 * len(pairs)), columns=3)
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
    _save(figure, file)


def plot_shares(points: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Quadratic kappa against the share of training slides, one line a row, with every run.

    Bars reach one deviation over seeds either way; rows stand a little apart so that they show.

    Args:
        points: as ``efficiency.make_study`` gives them, one at least.
        file: the PNG to write.
    """
    figure, (axis,) = _figure(1, (7.6, 4.6))
    names = list(dict.fromkeys(p["row"] for p in points))
    for number, name in enumerate(names):
        own = [p for p in points if p["row"] == name and p["mean"]["kappa"] is not None]
        apart = 1.03 ** (number - (len(names) - 1) / 2)
        place = [100 * p["share"] * apart for p in own]
        mean = [p["mean"]["kappa"] for p in own]
        style = {"teacher": ":", "colour_histogram": "--"}.get(name, "-")
        line = axis.errorbar(
            place, mean, yerr=[p["deviation"]["kappa"] for p in own], label=name.replace("_", " "),
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
    _save(figure, file)


def _figure(panels: int, size: tuple[float, float], *, columns: int | None = None) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    columns = columns or panels
    axes = figure.subplots(panels // columns, columns, squeeze=False)
    return figure, axes.ravel().tolist()


def _save(figure: Any, file: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    picture = Image.fromarray(np.ascontiguousarray(pixels)).quantize(COLOURS)
    with aside(file) as part:
        picture.save(part, format="PNG", optimize=True)
