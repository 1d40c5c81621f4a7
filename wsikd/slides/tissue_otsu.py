"""Stained tissue by Otsu's thresholds, without ink and without black."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


# Mean optical density over the three channels. Clean glass stays below the lower bound, even the
# palest H&E stroma lies above the upper one; Otsu decides only in between, so that a slide of
# nothing but tissue, or of nothing but glass, is not split in two. Likewise for saturation.
_DENSITY_RANGE = (0.04, 0.10)
_SATURATION_RANGE = (0.03, 0.06)
_MIN_CHROMA = 8
_CLOSE_UM = 16.0
_DENSITY_OF = -np.log10((np.arange(256, dtype=np.float32) + 1) / 256)
_STRIP_PX = 256

# Hues are angles in the plane of the HSD model, in degrees: eosin lies near 122, haematoxylin at 66
# to 108. Of 10x fields of prostate and bone 99.9 % lie between 90 and 177. Blue ink lies at 42 to
# 62, teal at 0, green at 270 to 350, red at 150 to 180, where only saturation and density tell it
# from red cells. Brown (DAB, pigment) lies at 200 and is no ink. Each row: hue from, hue to, least
# saturation, least density.
_COLD = (
    (255.0, 361.0, 0.25, 0.12),
    (0.0, 40.0, 0.25, 0.12),
    (40.0, 63.0, 0.36, 0.12),
    (63.0, 76.0, 0.62, 0.12),
)
_RED = (
    (150.0, 195.0, 0.85, 0.25),
    (158.0, 195.0, 0.72, 0.42),
    (158.0, 195.0, 0.80, 0.28),
    (170.0, 195.0, 0.66, 0.30),
)
_FOREIGN_HUES = (158.0, 63.0)  # from red over green to blue
_WEAK_SATURATION = 0.30
_GREY_DENSITY = 0.30
_GREY_SATURATION = 0.12
_BLACK = 50

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
    density, saturation = (np.empty(smooth.shape[:2], np.uint8) for _ in range(2))
    stained = np.empty(smooth.shape[:2], np.bool_)
    for rows in _strips(smooth):
        red, green, blue = cv2.split(smooth[rows])
        top = np.maximum(np.maximum(red, green), blue)
        chroma = top - np.minimum(np.minimum(red, green), blue)
        mean = (_density(red) + _density(green) + _density(blue)) / np.float32(3)
        density[rows] = _scaled(mean, _DENSITY_RANGE)
        share = chroma / np.maximum(top, 1).astype(np.float32)
        saturation[rows] = _scaled(share, _SATURATION_RANGE)
        stained[rows] = chroma >= _MIN_CHROMA
    stained &= density > _otsu_cut(density, _DENSITY_RANGE)
    stained &= saturation > _otsu_cut(saturation, _SATURATION_RANGE)
    ink = ink_and_black(smooth, mpp)
    kernel = _disc(_CLOSE_UM, mpp)
    closed = cv2.morphologyEx((stained & ~ink).view(np.uint8), cv2.MORPH_CLOSE, kernel)
    return (np.asarray(closed) > 0) & ~ink


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
    black, cold, red, weak = (np.empty(rgb.shape[:2], np.bool_) for _ in range(4))
    for rows in _strips(rgb):
        density, saturation, hue = hsd(rgb[rows])
        grey = (density > _GREY_DENSITY) & (saturation < _GREY_SATURATION)
        black[rows] = grey | (np.maximum.reduce(cv2.split(rgb[rows])) < _BLACK)
        cold[rows] = _within(_COLD, hue, saturation, density)
        red[rows] = _within(_RED, hue, saturation, density)
        foreign = (hue > _FOREIGN_HUES[0]) | (hue < _FOREIGN_HUES[1])
        weak[rows] = foreign & (saturation > _WEAK_SATURATION)
    red = _opened(red, _RED_WIDTH_UM / 2, mpp)
    strong = without_small(cold | black, _MIN_COLD_UM2 / mpp**2)
    strong |= without_small(red, _MIN_RED_UM2 / mpp**2)
    if not strong.any():
        return strong
    # Thin layers at a stroke's side have its hue at a lower density.
    near = cv2.dilate(strong.view(np.uint8), _disc(_GROW_UM, mpp)) > 0
    whole = strong | (near & (weak | black))
    return np.asarray(cv2.dilate(whole.view(np.uint8), _disc(_RIM_UM, mpp)) > 0)


def _strips(image: NDArray[np.uint8]) -> list[slice]:
    """Rows a few at a time: the planes of floats of a whole slide would fill the memory."""
    return [slice(top, top + _STRIP_PX) for top in range(0, len(image), _STRIP_PX)]


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


def hsd(
    rgb: NDArray[np.uint8],
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Mean optical density, saturation, and hue in degrees (0 to 360): float32 (height, width).

    Density does not change the other two, as lightness does in HSV.

    Source: van der Laak et al. 2000, eqs. 3 to 7.
    """
    red, green, blue = (_density(plane) for plane in cv2.split(rgb))
    mean = (red + green + blue) / np.float32(3)
    safe = np.maximum(mean, np.float32(1e-3))
    x, y = red / safe - 1, (green - blue) / (np.sqrt(np.float32(3)) * safe)
    size, angle = cv2.cartToPolar(x, y, angleInDegrees=True)
    return np.asarray(mean), np.asarray(size, np.float32), np.asarray(angle, np.float32)


def _density(values: Any) -> NDArray[np.float32]:
    return np.asarray(cv2.LUT(values, _DENSITY_OF), np.float32)


def _scaled(values: NDArray[np.floating], bounds: tuple[float, float]) -> NDArray[np.uint8]:
    """From 0 to twice the upper bound in 255 steps."""
    return np.asarray(np.clip(values / bounds[1] * 127.5, 0, 255), np.float32).astype(np.uint8)


def _otsu_cut(levels: NDArray[np.uint8], bounds: tuple[float, float]) -> float:
    """Otsu's threshold of scaled values, kept within the bounds: the highest level below it."""
    threshold, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    low, high = (bound / bounds[1] * 127.5 for bound in bounds)
    return float(np.clip(threshold, low, high))


def _opened(mask: NDArray[np.bool_], um: float, mpp: float) -> NDArray[np.bool_]:
    """What of a mask holds a disc of this radius; beyond the image it goes on."""
    reach = _reach(um, mpp)
    padded = np.pad(mask.astype(np.uint8), reach, mode="edge")
    opened = np.asarray(cv2.morphologyEx(padded, cv2.MORPH_OPEN, _disc(um, mpp)))
    return np.asarray(opened[reach:-reach, reach:-reach] > 0)


def without_small(mask: NDArray[np.bool_], min_px: float) -> NDArray[np.bool_]:
    """Drop components (8-connected) of fewer than ``min_px`` pixels: bool (height, width)."""
    pixels = mask.astype(np.uint8)
    if cv2.countNonZero(pixels) < min_px:
        return np.zeros(mask.shape, np.bool_)
    # Counted here: OpenCV takes six times as long where it also makes boxes and centres.
    count, labels = cv2.connectedComponents(pixels, connectivity=8)
    keep = np.bincount(labels.ravel(), minlength=count) >= min_px
    keep[0] = False
    return np.asarray(keep[labels])


def _reach(um: float, mpp: float) -> int:
    return max(1, round(um / mpp))


def _disc(um: float, mpp: float) -> NDArray[np.uint8]:
    """A disc of this radius."""
    side = 2 * _reach(um, mpp) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)
