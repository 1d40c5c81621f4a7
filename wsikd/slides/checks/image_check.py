"""Images of patches, and damage in them that OpenCV would fill up while its libraries print."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np
import simplejpeg

from wsikd.core.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_COLOURS = {"Gray": "GRAY", "CMYK": "CMYK", "YCCK": "CMYK"}
_EIGHTH = 8
MOST_PX = 1 << 28


def read_image(file: Path, *, check: bool = True) -> NDArray[np.uint8]:
    """Pixels of an image file: uint8 (height, width, 3), BGR.

    Args:
        file: JPEG, PNG, TIFF or whatever OpenCV reads.
        check: look for damage first.

    Raises:
        DataError: it cannot be read, or is damaged.
    """
    import cv2

    remedy = "replace or drop it"
    try:
        data = file.read_bytes()
        if check:
            check_image(data)
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    except (OSError, ValueError, MemoryError, cv2.error) as error:
        fault = f"cannot be decoded as an image ({error})"
        raise DataError(file, fault, remedy) from error
    if image is None:
        raise DataError(file, "cannot be decoded as an image", remedy)
    return np.asarray(image, np.uint8)


def check_image(data: bytes) -> None:
    """Look for damage in an image file; formats other than JPEG and PNG are not looked at.

    A JPEG is decoded at an eighth of its size, which goes through every coded bit; a PNG has
    checksums.

    Raises:
        ValueError: it is damaged or truncated, or claims more pixels than a patch has.
    """
    if data.startswith(_JPEG):
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        _check_size(width, height)
        simplejpeg.decode_jpeg(
            data, _COLOURS.get(colours, "RGB"), min_height=1, min_width=1, min_factor=_EIGHTH
        )
    elif data.startswith(_PNG):
        _check_png(data)


def _check_png(data: bytes) -> None:
    place, packed, kind = len(_PNG), [], b""
    while kind != b"IEND":
        if place + 12 > len(data):
            raise ValueError("the PNG is truncated")
        size, kind = struct.unpack_from(">I4s", data, place)
        body = data[place + 8 : place + 8 + size]
        place += 12 + size
        if place > len(data) or zlib.crc32(kind + body).to_bytes(4) != data[place - 4 : place]:
            raise ValueError(f"a checksum of the PNG is wrong ({kind!r})")
        if kind == b"IHDR":
            if size != 13:
                raise ValueError("the PNG has no header")
            _check_size(*struct.unpack_from(">II", body))
        elif kind == b"IDAT":
            packed.append(body)
    _check_packed(b"".join(packed))


def _check_packed(packed: bytes) -> None:
    """Unpack without keeping; raises ValueError."""
    stream = zlib.decompressobj()
    try:
        while packed and not stream.eof:
            stream.decompress(packed, 1 << 20)
            packed = stream.unconsumed_tail
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if not stream.eof:
        raise ValueError("the PNG is truncated")


def _check_size(width: int, height: int) -> None:
    if not 0 < width * height <= MOST_PX:
        raise ValueError(f"claims {width} x {height} px")
