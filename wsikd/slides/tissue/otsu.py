"""Stained tissue by Otsu's thresholds, without ink and without black."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from wsikd.slides.tissue.stain_density import (
    BLACK,
    COLD_DENSITY,
    DENSITY_RANGE,
    GREY_DENSITY,
    GREY_SATURATION,
    MAY_BE_INK,
    RED_DENSITY,
    SATURATION_RANGE,
    STAINED,
    hsd,
    look,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray


_CLOSE_UM = 16.0

# Hues are angles in the plane of the HSD model, in degrees: eosin lies near 122, haematoxylin at 66
# to 108. Of 10x fields of prostate and bone 99.9 % lie between 90 and 177. Blue ink lies at 42 to
# 62, teal at 0, green at 270 to 350, red at 150 to 180, where only saturation and density separate
# it from red cells. Brown (DAB, pigment) lies at 200 and is not ink. Each row: hue from, hue to,
# least saturation, least density.
_COLD = (
    (255.0, 361.0, 0.25, COLD_DENSITY),
    (0.0, 40.0, 0.25, COLD_DENSITY),
    (40.0, 63.0, 0.36, COLD_DENSITY),
    (63.0, 76.0, 0.62, COLD_DENSITY),
)
_RED = (
    (150.0, 195.0, 0.85, RED_DENSITY),
    (158.0, 195.0, 0.72, 0.42),
    (158.0, 195.0, 0.80, 0.28),
    (170.0, 195.0, 0.66, 0.30),
)
_FOREIGN_HUES = (158.0, 63.0)  # from red over green to blue
_WEAK_SATURATION = 0.30

# What is smaller is a pigment or a vessel full of red cells.
_MIN_COLD_UM2 = 5_000.0
_MIN_RED_UM2 = 10_000.0
_RED_WIDTH_UM = 16.0
_GROW_UM = 48.0
_RIM_UM = 16.0


def otsu(thumbnail: NDArray[np.uint8], mpp: float) -> NDArray[np.bool_]:
    """Stained tissue: optical density and saturation above Otsu's thresholds, no ink, no black.

    Args:
        thumbnail: uint8 (height, width, 3), R, G, B.
        mpp: um per pixel.

    Returns:
        bool (height, width), gaps up to 16 um closed.

    Source: Otsu 1979; optical density after Beer and Lambert.
    """
    smooth = np.asarray(cv2.GaussianBlur(thumbnail, (3, 3), 0), np.uint8)
    seen = look(smooth)
    stained = (seen.marks & STAINED).view(np.bool_)
    stained &= seen.density > _otsu_cut(seen.density, DENSITY_RANGE)
    stained &= seen.saturation > _otsu_cut(seen.saturation, SATURATION_RANGE)
    ink = _ink(smooth, seen.marks, mpp)
    if ink is not None:
        stained &= ~ink
    closed = cv2.morphologyEx(stained.view(np.uint8), cv2.MORPH_CLOSE, _disc(_CLOSE_UM, mpp))
    found = np.asarray(closed).view(np.bool_)
    return found if ink is None else found & ~ink


def ink_and_black(rgb: NDArray[np.uint8], mpp: float) -> NDArray[np.bool_]:
    """Strokes of blue, green, red and black pens, and black borders, with their rims.

    Taken are colours of hues that neither stain has, and reds too strong for eosin, where they
    cover more than a vessel does; blue nuclei and red cells stay.

    Args:
        rgb: uint8 (height, width, 3).
        mpp: um per pixel.

    Returns:
        bool (height, width).

    Source: van der Laak et al. 2000, hue-saturation-density model.
    """
    found = _ink(rgb, look(rgb).marks, mpp)
    return np.zeros(rgb.shape[:2], np.bool_) if found is None else found


def _ink(rgb: NDArray[np.uint8], marks: NDArray[np.uint8], mpp: float) -> NDArray[np.bool_] | None:
    """Find ink, None if there is none; hues are computed only where there may be ink."""
    pixels = np.ascontiguousarray(rgb).reshape(-1, 1, 3)
    places = np.flatnonzero((marks & MAY_BE_INK) > 0)
    density, saturation, hue = _hsd_of(pixels, places)
    grey = (density > GREY_DENSITY) & (saturation < GREY_SATURATION)
    chill, glow = (_within(colours, hue, saturation, density) for colours in (_COLD, _RED))
    black = (marks & BLACK) > 0
    if not (black.any() or grey.any() or chill.any() or glow.any()):
        return None
    cold, red = np.zeros_like(black), np.zeros_like(black)
    for plane, values in ((black, black.reshape(-1)[places] | grey), (cold, chill), (red, glow)):
        plane.reshape(-1)[places] = values
    strong = without_small(cold | black, _MIN_COLD_UM2 / mpp**2)
    if red.any():
        strong |= without_small(_opened(red, _RED_WIDTH_UM / 2, mpp), _MIN_RED_UM2 / mpp**2)
    if not strong.any():
        return None
    # Thin layers at a stroke's side have its hue at a lower density.
    near = (cv2.dilate(strong.view(np.uint8), _disc(_GROW_UM, mpp)) > 0) & ~strong
    places = np.flatnonzero(near)
    _, saturation, hue = _hsd_of(pixels, places)
    foreign = (hue > _FOREIGN_HUES[0]) | (hue < _FOREIGN_HUES[1])
    whole = strong | (near & black)
    whole.reshape(-1)[places] |= foreign & (saturation > _WEAK_SATURATION)
    return np.asarray(cv2.dilate(whole.view(np.uint8), _disc(_RIM_UM, mpp))).view(np.bool_)


def _hsd_of(
    pixels: NDArray[np.uint8], places: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Density, saturation and hue of some of (N, 1, 3) pixels: float32 (n,) each."""
    if not places.size:
        empty = np.empty(0, np.float32)
        return empty, empty, empty
    density, saturation, hue = hsd(pixels[places])
    return density.ravel(), saturation.ravel(), hue.ravel()


def _within(
    colours: tuple[tuple[float, float, float, float], ...],
    hue: NDArray[np.float32],
    saturation: NDArray[np.float32],
    density: NDArray[np.float32],
) -> NDArray[np.bool_]:
    """Pixels of any of these colours."""
    found = np.zeros(hue.shape, np.bool_)
    for start, end, colour, dense in colours:
        found |= (hue >= start) & (hue < end) & (saturation > colour) & (density > dense)
    return found


def _otsu_cut(levels: NDArray[np.uint8], bounds: tuple[float, float]) -> int:
    """Otsu's threshold of scaled values, kept within the bounds: the highest level below it."""
    threshold, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    low, high = (bound / bounds[1] * 127.5 for bound in bounds)
    return math.floor(min(max(threshold, low), high))


def _opened(mask: NDArray[np.bool_], um: float, mpp: float) -> NDArray[np.bool_]:
    """What of a mask holds a disc of this radius; the mask extends beyond the image."""
    reach = _reach(um, mpp)
    padded = np.pad(mask.astype(np.uint8), reach, mode="edge")
    opened = np.asarray(cv2.morphologyEx(padded, cv2.MORPH_OPEN, _disc(um, mpp)))
    return np.asarray(opened[reach:-reach, reach:-reach] > 0)


def without_small(mask: NDArray[np.bool_], min_px: float) -> NDArray[np.bool_]:
    """Drop components (8-connected) of fewer than ``min_px`` pixels: bool (height, width)."""
    pixels = np.ascontiguousarray(mask).view(np.uint8)
    if cv2.countNonZero(pixels) < max(1, min_px):
        return np.zeros(mask.shape, np.bool_)
    x, y, width, height = cv2.boundingRect(pixels)
    # A column of nothing at the right, so that no run continues in the next row.
    box = np.zeros((height, width + 1), np.uint8)
    box[:, :-1] = pixels[y : y + height, x : x + width]
    labels: Any
    count, labels = cv2.connectedComponents(box, connectivity=8)
    starts, ends = _runs(box)
    label = labels.reshape(-1)[starts]
    small = np.bincount(label, ends - starts, count) < min_px
    flat = box.reshape(-1)
    flat[_inside(starts[small[label]], ends[small[label]])] = 0
    kept = np.zeros(mask.shape, np.bool_)
    kept[y : y + height, x : x + width] = box[:, :-1]
    return kept


def _runs(box: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where runs of ones begin and end, counted row by row; the last column is zero: int64 (n,).

    Masks have a hundred times as many pixels as runs, and what is asked of the latter costs little.
    """
    flat = box.reshape(-1)
    turns = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    if flat[0]:
        turns = np.concatenate([[0], turns])
    return turns[::2], turns[1::2]


def _inside(starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """All places from each start to before its end: int64 (n,)."""
    lengths = ends - starts
    first = np.cumsum(lengths) - lengths
    places: NDArray[np.int64] = np.arange(int(lengths.sum())) + np.repeat(starts - first, lengths)
    return places


def _reach(um: float, mpp: float) -> int:
    return max(1, round(um / mpp))


def _disc(um: float, mpp: float) -> NDArray[np.uint8]:
    """A disc of this radius."""
    side = 2 * _reach(um, mpp) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)
