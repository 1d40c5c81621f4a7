"""Do a slide's colours look like light through glass?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LIGHT = 160
_GREY_SPREAD = 60
_GLASS_ENOUGH = 0.005
_WHITE_ENOUGH = 0.05
_BRIGHTEST = 0.05
_FAR_SPREAD = 90


def odd_white(thumbnail: NDArray[np.uint8]) -> tuple[int, int, int] | None:
    """The colour of a slide's brightest part, where nothing on it looks like glass.

    Every stained slide shows light grey somewhere: glass, lumens, cracks. Files that call their
    YCbCr pixels RGB show glass as (250, 128, 128), pink. Pure white may be what was never scanned,
    so it counts as glass only where it is more than 5 % of the slide.

    Args:
        thumbnail: uint8 (height, width, 3), a whole slide.

    Returns:
        Median (red, green, blue) of the 5 % of pixels with the brightest channel, where that is
        far from grey (by more than 90) and less than 0.5 % of the pixels are light (all channels
        from 160 on) and nearly grey (within 60); None where all is well.
    """
    pixels = thumbnail.reshape(-1, 3)
    white = (pixels == 255).all(1)
    if not len(pixels) or white.mean() > _WHITE_ENOUGH:
        return None
    pixels = pixels[~white]
    low, high = pixels.min(1), pixels.max(1)
    if ((low >= _LIGHT) & (high - low <= _GREY_SPREAD)).mean() >= _GLASS_ENOUGH:
        return None
    brightest = pixels[high >= np.quantile(high, 1 - _BRIGHTEST)]
    red, green, blue = (round(float(v)) for v in np.median(brightest, 0))
    far = max(red, green, blue) - min(red, green, blue) > _FAR_SPREAD
    return (red, green, blue) if far else None
