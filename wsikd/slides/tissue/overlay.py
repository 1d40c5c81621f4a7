"""A picture of the tissue mask."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

import cv2
import numpy as np

from wsikd.core.run import aside

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

MAX_WIDTH_PX = 2048
_OUTLINE_RGB = (0, 200, 80)
_OUTSIDE_SHADE = 0.75
_PNG_HEADER_BYTES = 33


def write_overlay(slide_thumbnail: NDArray[np.uint8], mask: NDArray[np.bool_], path: Path) -> None:
    """Draw the outline of the tissue on a thumbnail and save it as PNG.

    What is not tissue is shaded, so that a missing piece shows.

    Args:
        slide_thumbnail: uint8 (height, width, 3), R, G, B.
        mask: bool (height, width), of any size over the same area.
        path: the PNG, at most 2,048 px wide; it appears only when it is whole.

    Raises:
        OutputError: it cannot be written.
    """
    height, width = slide_thumbnail.shape[:2]
    if width > MAX_WIDTH_PX:
        height, width = max(1, round(height * MAX_WIDTH_PX / width)), MAX_WIDTH_PX
    picture = slide_thumbnail
    if slide_thumbnail.shape[1] != width:
        small = cv2.resize(slide_thumbnail, (width, height), interpolation=cv2.INTER_AREA)
        picture = np.asarray(small, np.uint8)
    tissue = np.asarray(
        cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    )
    picture = np.where(tissue[..., None] > 0, picture, picture * _OUTSIDE_SHADE).astype(np.uint8)
    outlines, _ = cv2.findContours(tissue, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    thickness = max(1, round(width / 700))
    cv2.drawContours(picture, outlines, -1, _OUTLINE_RGB, thickness)
    coded = cv2.imencode(".png", np.ascontiguousarray(picture[..., ::-1]))[1]
    with aside(path) as part:
        part.write_bytes(_signed(coded.tobytes()))


def _signed(png: bytes) -> bytes:
    """A PNG that names its maker, in a text chunk after its header."""
    chunk = b"tEXtSoftware\0wsikd"
    text = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return png[:_PNG_HEADER_BYTES] + text + png[_PNG_HEADER_BYTES:]
