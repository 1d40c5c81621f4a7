"""Is a slide what wsikd grades: stained tissue in transmitted light, in red, green and blue?

What the file states is found by :mod:`wsikd.slides.checks.stated` when it is opened. Its pixels are
judged here, on the overview that the search for tissue reads anyway.

Thresholds (8-bit levels of an overview at about 8 um/px) were chosen on mosaics of real fields
without any glass (prostate, colon, bone), made darker and paler, and on drawn slides: none of those
may be refused. A threshold is far from both sides where there are both:

* black: up to ``_BLACK``. Unscanned areas are 0; a fluorescence background is seldom below.
* light: from ``_LIGHT`` on in every channel and within ``_LIGHT_SPREAD``. Glass and lumens.
* dark: up to ``_DARK`` in every channel. Fields of real tissue are on average above 100 in their
  brightest channel, at twice the usual density still above 50.
* grey: channels within ``_GREY``. Of every stained field some pixels are coloured by 20 and more.
* vivid: saturation above ``_VIVID``. Stains absorb in all channels: even dense eosin stays below.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from wsikd.slides.checks.doubt import Doubt, refusal

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsikd.slides.base import Slide, SlideInfo

_BLACK = 8
_LIGHT, _LIGHT_SPREAD = 160, 60
_DARK = 40
_GREY, _COLOURED_SHARE, _CONTRAST = 3, 1e-4, 25
_VIVID = 0.95
_COLD, _GREEN_LEFT, _COLD_VIVID, _COLD_SHARE = 0.4, 0.8, 0.6, 0.5
_GREEN_VIVID, _GREEN_SHARE = 0.35, 0.1
_LIT_ENOUGH = 1e-3
_GLASS_ENOUGH = 0.02
_SOME_GLASS, _OTHER_GLASS, _WHITE = 5e-3, 0.02, 255
_MAGENTA, _CHROMA_STEADY = (248, 190), 0.6
_MOST_PX = 1 << 18
_GLIMPSE_PX, _BOX_PX, _BOXES = 1 << 20, 256, 4


def check_pixels(info: SlideInfo, thumbnail: NDArray[np.uint8]) -> None:
    """Refuse a slide whose pixels are not brightfield, unless the user accepts them.

    Args:
        info: metadata of the slide.
        thumbnail: uint8 (height, width, 3), its scanned box.

    Raises:
        NotBrightfieldError: it is grey everywhere, or bright on dark.
    """
    if not info.accept_grey and (reason := judge(thumbnail)):
        raise refusal(info.file, Doubt(reason))


def judge(thumbnail: NDArray[np.uint8]) -> str:
    """Why pixels are not a brightfield slide in colours; empty where they may be one.

    Args:
        thumbnail: uint8 (height, width, 3), a slide's scanned box.
    """
    if not thumbnail.size:
        return ""
    step = max(1, int(np.sqrt(thumbnail.shape[0] * thumbnail.shape[1] / _MOST_PX)))
    sample = np.ascontiguousarray(thumbnail[::step, ::step])
    if _is_plain(sample):
        return ""
    pixels = sample.reshape(-1, 3)
    low, high = _extremes(pixels)
    seen = high > _BLACK
    lit = np.count_nonzero(seen)
    if lit < _LIT_ENOUGH * high.size:
        return "its pixels are black"
    low, high = low[seen], high[seen]
    spread = high - low
    if (spread > _GREY).mean() < _COLOURED_SHARE and _is_grey(thumbnail):
        return "its pixels are grey (R = G = B)"
    if mistaken := _mistaken(pixels[seen]):
        return mistaken
    if _light_share(low, high) >= _GLASS_ENOUGH:
        return ""
    if np.median(high) <= _DARK:
        return "its pixels are bright on a dark background"
    if _is_vivid(pixels[seen], low, high):
        return "its pixels are of pure colours without any bright background"
    return ""


def _is_plain(sample: NDArray[np.uint8]) -> bool:
    """Whether there is glass beyond all doubt, and some colour: what nearly every slide has."""
    red, green, blue = cv2.split(sample)
    low = cv2.min(cv2.min(red, green), blue)
    high = cv2.max(cv2.max(red, green), blue)
    spread = cv2.subtract(high, low)
    glass = cv2.bitwise_and(
        cv2.inRange(low, _LIGHT, _WHITE - 1), cv2.inRange(spread, 0, _LIGHT_SPREAD)
    )
    magenta = cv2.inRange(sample, (_MAGENTA[0], 0, _MAGENTA[0]), (255, _MAGENTA[1], 255))
    lit = cv2.countNonZero(cv2.inRange(high, _BLACK + 1, 255))
    enough = max(_GLASS_ENOUGH * lit, _LIT_ENOUGH * high.size)
    return bool(
        cv2.countNonZero(cv2.inRange(spread, _GREY + 1, 255)) > _COLOURED_SHARE * high.size
        and cv2.countNonZero(glass) >= enough > cv2.countNonZero(magenta)
    )


def _is_vivid(pixels: NDArray[np.uint8], low: NDArray[np.uint8], high: NDArray[np.uint8]) -> bool:
    """Whether colours are those of emitted light: pure, and many neither red nor purple."""
    saturation = (high - low) / high.astype(np.float32)
    red, green_level = pixels[:, 0], pixels[:, 1].astype(np.float32)
    cold = (red < _COLD * high) & (green_level > _GREEN_LEFT * red)
    green = (pixels[:, 1] == high) & (pixels[:, 1] > pixels[:, 0])
    return bool(
        np.median(saturation) > _VIVID
        or (cold & (saturation > _COLD_VIVID)).mean() > _COLD_SHARE
        or (green & (saturation > _GREEN_VIVID)).mean() > _GREEN_SHARE
    )


def _mistaken(pixels: NDArray[np.uint8]) -> str:
    """Whether YCbCr was taken for RGB or the reverse: pixels (N, 3).

    Grey glass then shows as (Y, 128, 128) or as magenta. Of stained tissue the green channel varies
    most, of YCbCr the first. Pure white may be what was never scanned, and does not count.
    """
    pixels = pixels[pixels.min(1) < _WHITE]
    if not len(pixels):
        return ""
    red, green, blue = (pixels[:, n] for n in range(3))
    magenta = (np.minimum(red, blue) >= _MAGENTA[0]) & (green <= _MAGENTA[1])
    if magenta.mean() >= _OTHER_GLASS:
        return "its pixels look like RGB taken for YCbCr"
    if _light_share(*_extremes(pixels)) >= _SOME_GLASS:
        return ""
    varied = red.std() * _CHROMA_STEADY
    if green.std() > varied or blue.std() > varied:
        return ""
    turned = cv2.cvtColor(np.ascontiguousarray(pixels[None, :, (0, 2, 1)]), cv2.COLOR_YCrCb2RGB)
    if _light_share(*_extremes(np.asarray(turned[0], np.uint8))) < _OTHER_GLASS:
        return ""
    return "its pixels look like YCbCr taken for RGB"


def _light_share(low: NDArray[np.uint8], high: NDArray[np.uint8]) -> float:
    """Share of pixels that are as light and as nearly grey as glass."""
    return float(((low >= _LIGHT) & (high - low <= _LIGHT_SPREAD)).mean())


def _extremes(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Lowest and highest channel of pixels (N, 3): uint8 (N,) each."""
    red, green, blue = pixels[:, 0], pixels[:, 1], pixels[:, 2]
    low = np.minimum(np.minimum(red, green), blue)
    return low, np.maximum(np.maximum(red, green), blue)


def _is_grey(thumbnail: NDArray[np.uint8]) -> bool:
    """Whether all of a thumbnail is grey and shows something; bare glass is grey as well."""
    low, high = _extremes(thumbnail.reshape(-1, 3))
    seen = high > _BLACK
    low, high = low[seen], high[seen]
    if (high - low > _GREY).mean() >= _COLOURED_SHARE:
        return False
    dark, bright = np.percentile(high, (0.5, 99.5))
    return bool(bright - dark > _CONTRAST)


def glimpse(slide: Slide) -> NDArray[np.uint8]:
    """Some of a slide where no overview is read: uint8 (N, width, 3), boxes of its coarsest level.

    All of that level where it is small; else boxes that lie evenly over the scanned box.
    """
    level = len(slide.info.level_dimensions) - 1
    down = slide.info.level_downsamples[level]
    x, y, width, height = (round(v / down[i % 2]) for i, v in enumerate(slide.info.bounds))
    if width * height <= _GLIMPSE_PX:
        return slide.read_level(level, (x, y), (max(1, width), max(1, height)))
    side = min(_BOX_PX, width, height)
    xs = np.linspace(x, x + width - side, _BOXES).astype(int).tolist()
    ys = np.linspace(y, y + height - side, _BOXES).astype(int).tolist()
    boxes = [slide.read_level(level, (left, top), (side, side)) for top in ys for left in xs]
    return np.concatenate(boxes)
