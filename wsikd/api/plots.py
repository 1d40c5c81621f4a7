"""Axes for ``plot()`` of slides, stores, grade maps, runs and comparisons."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from wsikd.slides.base import SlideInfo


def new_axes() -> Axes:
    """Axes of a new figure, which notebooks show by themselves."""
    import matplotlib.pyplot as plt

    axes: Axes = plt.subplots()[1]
    return axes


def show(
    axes: Axes,
    rgb: NDArray[np.uint8],
    info: SlideInfo,
    box_xywh: tuple[float, float, float, float],
) -> None:
    """Draw a picture of a level-0 box, with axes in mm where the resolution is known, else in px.

    Args:
        axes: where.
        rgb: uint8 (height, width, 3).
        info: metadata of the slide.
        box_xywh: level-0 (x, y, width, height) that the picture covers.
    """
    scale: tuple[float, float] = (1.0, 1.0)
    unit = "level-0 px"
    if info.mpp is not None:
        scale, unit = (info.mpp.x / 1000, info.mpp.y / 1000), "mm"
    x, y, width, height = box_xywh
    left, right = x * scale[0], (x + width) * scale[0]
    top, bottom = y * scale[1], (y + height) * scale[1]
    axes.imshow(rgb, extent=(left, right, bottom, top), interpolation="nearest")
    axes.set_xlabel(f"x [{unit}]")
    axes.set_ylabel(f"y [{unit}]")


def legend(axes: Axes, entries: list[tuple[str, tuple[int, int, int]]]) -> None:
    """Name colours beside a picture.

    Args:
        axes: where.
        entries: (text, R, G, B of 0 to 255) each.
    """
    from matplotlib.patches import Patch

    handles: list[Any] = []
    for text, (red, green, blue) in entries:
        handles.append(Patch(color=(red / 255, green / 255, blue / 255), label=text))
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.02, 1.0), frameon=False)
