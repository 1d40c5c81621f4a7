"""Small pictures of slides and of parts of them, with their exact position and scale."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsikd.slides.base import Slide

PICTURE_PX = 1200
"""Longest side of the picture of a slide under its map."""
_BLOCK_PX = 2048


@dataclass(frozen=True)
class View:
    """A picture of part of a slide.

    Attributes:
        rgb: uint8 (height, width, 3).
        origin_xy: level-0 (x, y) of its upper left corner.
        scale: picture px per level-0 px, (x, y).
    """

    rgb: NDArray[np.uint8]
    origin_xy: tuple[float, float]
    scale: tuple[float, float]


def thumbnail(slide: Slide, max_px: int) -> tuple[NDArray[np.uint8], tuple[float, float]]:
    """Picture of a whole slide and its scale.

    Args:
        slide: an open slide.
        max_px: longest side of the picture; a smaller slide is not enlarged.

    Returns:
        uint8 (height, width, 3), and picture px per level-0 px as (x, y).

    Raises:
        RegionReadError: the slide is damaged.
    """
    seen = view(slide, (0, 0, *slide.info.dimensions), max_px)
    return seen.rgb, seen.scale


def view(slide: Slide, box_xywh: tuple[float, float, float, float], max_px: int) -> View:
    """Picture of a level-0 box of a slide.

    It is read from the coarsest level that still gives half of ``max_px``, since a finer one takes
    four times the decoding. Blocks are read and averaged one by one, so that memory stays bounded
    on slides that store level 0 only. The picture starts at the level pixel that holds the box's
    corner, and may exceed the box on the other sides by less than a picture pixel.

    Args:
        slide: an open slide.
        box_xywh: level-0 (x, y, width, height).
        max_px: greatest side of the picture; it is not enlarged beyond its level.

    Raises:
        RegionReadError: the slide is damaged.
    """
    level, down = _level(slide, 2 * max(box_xywh[2:]) / max_px)
    x, y = (math.floor(box_xywh[i] / down[i] + 1e-6) for i in (0, 1))
    right, bottom = (math.ceil((box_xywh[i] + box_xywh[i + 2]) / down[i] - 1e-6) for i in (0, 1))
    size = (max(right - x, 1), max(bottom - y, 1))
    factor = max(max(size) / max_px, 1.0)
    small = _shrunk(slide, level, (x, y), size, int(factor))
    covered = [side * int(factor) for side in (small.shape[1], small.shape[0])]
    if factor > int(factor):
        small = _resized(small, [max(1, round(side / factor)) for side in covered])
    scale = [small.shape[1 - i] / covered[i] / down[i] for i in (0, 1)]
    return View(small, (x * down[0], y * down[1]), (scale[0], scale[1]))


def _level(slide: Slide, wanted: float) -> tuple[int, tuple[float, float]]:
    downs = slide.info.level_downsamples
    fit = [level for level, down in enumerate(downs) if max(down) <= wanted]
    level = max(fit, key=lambda level: max(downs[level]), default=0)
    return level, downs[level]


def _shrunk(
    slide: Slide, level: int, at: tuple[int, int], size: tuple[int, int], factor: int
) -> NDArray[np.uint8]:
    """A box of a level, averaged over squares of ``factor`` px: uint8 (height, width, 3).

    Squares beyond the edge of the box are filled with its last pixels.
    """
    width, height = (math.ceil(side / factor) for side in size)
    out = np.empty((height, width, 3), np.uint8)
    step = max(_BLOCK_PX // factor, 1)
    for top in range(0, height, step):
        for left in range(0, width, step):
            w, h = min(step, width - left), min(step, height - top)
            x, y = left * factor, top * factor
            real = (min(w * factor, size[0] - x), min(h * factor, size[1] - y))
            block = slide.read_level(level, (at[0] + x, at[1] + y), real)
            beyond = ((0, h * factor - real[1]), (0, w * factor - real[0]), (0, 0))
            block = np.pad(block, beyond, mode="edge")
            out[top : top + h, left : left + w] = _resized(block, [w, h])
    return out


def _resized(rgb: NDArray[np.uint8], size: list[int]) -> NDArray[np.uint8]:
    import cv2

    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
