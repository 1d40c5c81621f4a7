"""The same tissue out of focus, in another stain, or compressed harder: what scanners and files do.

H and W pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Image = NDArray[np.uint8]

_DENSITY = -np.log((np.arange(256) + 1) / 256)


def blurred(image: Image, sigma_px: float) -> Image:
    """Out of focus: uint8 (H, W, 3), standard deviation of the Gaussian in pixels."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma_px), np.uint8)


def stained(image: Image, gains: tuple[float, float, float]) -> Image:
    """Another stain: the optical density in red, green and blue times these."""
    table = np.empty((256, 1, 3), np.uint8)
    for channel, gain in enumerate(gains):
        table[:, 0, channel] = np.clip(np.exp(-gain * _DENSITY) * 256 - 1, 0, 255).round()
    return np.asarray(cv2.LUT(image, table), np.uint8)


def compressed(image: Image, quality: int) -> Image:
    """As a JPEG of that quality, 1 to 100, keeps it."""
    _, data = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    read = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert read is not None
    return np.asarray(read[:, :, ::-1], np.uint8)


def from_coarser(image: Image, quality: int) -> Image:
    """As a slide's level of half the resolution keeps it, enlarged again."""
    height, width = image.shape[:2]
    half = cv2.resize(
        image, (max(width // 2, 1), max(height // 2, 1)), interpolation=cv2.INTER_AREA
    )
    kept = compressed(np.asarray(half, np.uint8), quality)
    return np.asarray(cv2.resize(kept, (width, height), interpolation=cv2.INTER_NEAREST), np.uint8)
