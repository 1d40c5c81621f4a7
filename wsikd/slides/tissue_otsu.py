"""Stained tissue by Otsu's thresholds, without ink and without black."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


# Mean optical density over the three channels. Clean glass stays below the lower bound, even the
# palest H&E stroma lies above the upper one; Otsu decides only in between, so that a slide of
# nothing but tissue, or of nothing but glass, is not split in two. Likewise for saturation.
_DENSITY_RANGE = (0.04, 0.10)
_SATURATION_RANGE = (0.03, 0.06)
_MIN_CHROMA = 8
_CLOSE_UM = 16.0
_DENSITY_OF = -np.log10((np.arange(256, dtype=np.float32) + 1) / 256)
_STRIP_PX = 1 << 16

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
# Half planes in which the hues of a table lie, with a degree to spare: 2 R - G - B is at least, or
# at most, so many times G - B, all densities.
_COLD_SIDES = tuple(math.sqrt(3) / math.tan(math.radians(hue)) for hue in (77, 74))
_RED_SIDE = math.sqrt(3) / math.tan(math.radians(149))
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
    inks = _Inks(smooth)
    for rows in _strips(smooth):
        optical = _optical(smooth[rows])
        inks.find(rows, optical)
        top = optical.top
        chroma = top - cv2.min(cv2.min(*optical.rgb[:2]), optical.rgb[2])
        share = chroma / np.maximum(top, 1).astype(np.float32)
        density[rows] = _scaled(optical.mean, _DENSITY_RANGE)
        saturation[rows] = _scaled(share, _SATURATION_RANGE)
        stained[rows] = chroma >= _MIN_CHROMA
    stained &= density > _otsu_cut(density, _DENSITY_RANGE)
    stained &= saturation > _otsu_cut(saturation, _SATURATION_RANGE)
    ink = inks.whole(mpp)
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
    inks = _Inks(rgb)
    for rows in _strips(rgb):
        inks.find(rows, _optical(rgb[rows]))
    return inks.whole(mpp)


class _Optical(NamedTuple):
    """Planes of a few rows: R, G, B; their densities; the means of these; the greatest value."""

    rgb: Sequence[NDArray[np.uint8]]
    densities: Sequence[NDArray[np.float32]]
    mean: NDArray[np.float32]
    top: NDArray[np.uint8]


def _optical(rgb: NDArray[np.uint8]) -> _Optical:
    planes: Any = cv2.split(rgb)
    densities = [_density(plane) for plane in planes]
    top: Any = cv2.max(cv2.max(planes[0], planes[1]), planes[2])
    return _Optical(planes, densities, _mean(*densities), top)


class _Inks:
    """Pixels of the colours of pens. Hues are computed only of those that may be of one."""

    def __init__(self, rgb: NDArray[np.uint8]) -> None:
        self.rgb = rgb
        self.black, self.cold, self.red = (np.zeros(rgb.shape[:2], np.bool_) for _ in range(3))

    def find(self, rows: slice, seen: _Optical) -> None:
        """Look at some rows."""
        black, near = seen.top < _BLACK, 1.01 * _GREY_SATURATION
        red, green, blue = seen.densities
        x, y = 2 * red - green - blue, green - blue
        may = (x <= _RED_SIDE * y) & (seen.mean > _RED[0][3])
        may |= ((x >= _COLD_SIDES[0] * y) | (x >= _COLD_SIDES[1] * y)) & (seen.mean > _COLD[0][3])
        greyish = (np.abs(x) < 3 * near * seen.mean) & (np.abs(y) < math.sqrt(3) * near * seen.mean)
        may |= greyish & (seen.mean > _GREY_DENSITY)
        places = np.flatnonzero(may)
        if places.size:
            some = self.rgb[rows].reshape(-1, 1, 3)[places]
            density, saturation, hue = (values.ravel() for values in hsd(some))
            grey = (density > _GREY_DENSITY) & (saturation < _GREY_SATURATION)
            black.flat[places] |= grey
            self.cold[rows].flat[places] = _within(_COLD, hue, saturation, density)
            self.red[rows].flat[places] = _within(_RED, hue, saturation, density)
        self.black[rows] = black

    def whole(self, mpp: float) -> NDArray[np.bool_]:
        """What is ink or black for good, once all rows are seen: bool (height, width)."""
        strong = without_small(self.cold | self.black, _MIN_COLD_UM2 / mpp**2)
        if self.red.any():
            red = _opened(self.red, _RED_WIDTH_UM / 2, mpp)
            strong |= without_small(red, _MIN_RED_UM2 / mpp**2)
        if not strong.any():
            return strong
        # Thin layers at a stroke's side have its hue at a lower density.
        near = cv2.dilate(strong.view(np.uint8), _disc(_GROW_UM, mpp)) > 0
        near &= ~strong
        places = np.flatnonzero(near)
        _, saturation, hue = (v.ravel() for v in hsd(self.rgb.reshape(-1, 1, 3)[places]))
        foreign = (hue > _FOREIGN_HUES[0]) | (hue < _FOREIGN_HUES[1])
        whole = strong.copy()
        whole.flat[places] = foreign & (saturation > _WEAK_SATURATION)
        whole |= near & self.black
        return np.asarray(cv2.dilate(whole.view(np.uint8), _disc(_RIM_UM, mpp)) > 0)


def _strips(image: NDArray[np.uint8]) -> list[slice]:
    """Rows a few at a time, whose planes of floats stay in the processor's cache."""
    height, width = image.shape[:2]
    step = max(1, _STRIP_PX // max(1, width))
    return [slice(top, top + step) for top in range(0, height, step)]


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
    mean = _mean(red, green, blue)
    safe = np.maximum(mean, np.float32(1e-3))
    x, y = red / safe - 1, (green - blue) / (np.sqrt(np.float32(3)) * safe)
    size, angle = cv2.cartToPolar(x, y, angleInDegrees=True)
    return np.asarray(mean), np.asarray(size, np.float32), np.asarray(angle, np.float32)


def _mean(
    red: NDArray[np.float32], green: NDArray[np.float32], blue: NDArray[np.float32]
) -> NDArray[np.float32]:
    total = red + green
    total += blue
    total /= np.float32(3)
    return total


def _density(values: Any) -> NDArray[np.float32]:
    return np.asarray(cv2.LUT(values, _DENSITY_OF), np.float32)


def _scaled(values: NDArray[np.floating], bounds: tuple[float, float]) -> NDArray[np.uint8]:
    """From 0 to twice the upper bound in 255 steps."""
    scaled = np.asarray(values / bounds[1], np.float32)
    scaled *= 127.5
    return np.clip(scaled, 0, 255, out=scaled).astype(np.uint8)


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
    pixels = np.ascontiguousarray(mask).view(np.uint8)
    if cv2.countNonZero(pixels) < min_px:
        return np.zeros(mask.shape, np.bool_)
    # Counted here: OpenCV takes six times as long where it also makes boxes and centres.
    count, labels = cv2.connectedComponents(pixels, connectivity=8)
    keep = _sizes(labels, count) >= min_px
    keep[0] = False
    return np.asarray(np.take(keep, labels))


def _sizes(labels: Any, count: int) -> NDArray[Any]:
    """Pixels of each label below ``count``."""
    if not 1 < count < 1 << 16 or labels.size > 1 << 24:  # OpenCV counts in float32
        return np.bincount(labels.ravel(), minlength=count)
    return cv2.calcHist([labels.astype(np.uint16)], [0], None, [count], [0, count]).ravel()


def _reach(um: float, mpp: float) -> int:
    return max(1, round(um / mpp))


def _disc(um: float, mpp: float) -> NDArray[np.uint8]:
    """A disc of this radius."""
    side = 2 * _reach(um, mpp) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)
