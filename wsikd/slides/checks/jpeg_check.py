"""Damage within JPEG tiles and strips, which other decoders fill up in silence."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import simplejpeg

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import tifffile

_JPEG = 7
_COLOURS = {1: "GRAY", 3: "RGB", 4: "CMYK"}
_APART, _EIGHTH = 2, 8


@dataclass(frozen=True)
class _Segments:
    """Tiles or strips of a plane of a level, row by row; ``checked`` holds 1 for sound ones."""

    colour: str
    size: tuple[int, int]
    columns: int
    offsets: tuple[int, ...]
    counts: tuple[int, ...]
    prefix: bytes
    checked: bytearray


class JpegCheck:
    """Holds each JPEG tile or strip of a TIFF against a strict decoder, once, when it is read.

    The decoder reduces by eight: it goes through every coded bit, and computes few pixels. Threads
    may share it.
    """

    def __init__(self, path: Path, levels: Sequence[tifffile.TiffPage]) -> None:
        """Find the tiles of a TIFF's levels, each a directory of it."""
        self._lock = threading.Lock()
        self._planes = [_planes(page) for page in levels]
        self._file = path.open("rb")

    def check(self, level: int, x: int, y: int, width: int, height: int) -> None:
        """Decode what lies under a box of a level and was not decoded before.

        Raises:
            ValueError: a tile or strip is damaged.
        """
        for plane in self._planes[level]:
            wide, high = plane.size
            for row in range(y // high, -(-(y + height) // high)):
                first = row * plane.columns
                for index in range(first + x // wide, first - (-(x + width) // wide)):
                    self._segment(plane, index)

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    def _segment(self, plane: _Segments, index: int) -> None:
        if plane.checked[index] or not plane.counts[index]:
            return
        with self._lock:
            self._file.seek(plane.offsets[index])
            data = self._file.read(plane.counts[index])
        if plane.prefix:
            data = plane.prefix + data[2:]
        simplejpeg.decode_jpeg(data, plane.colour, min_height=1, min_width=1, min_factor=_EIGHTH)
        plane.checked[index] = 1


def _planes(page: tifffile.TiffPage) -> list[_Segments]:
    """The planes of a page: one, or one a colour; none where they are not 8-bit JPEG."""
    apart = page.planarconfig == _APART
    colour = _COLOURS.get(1 if apart else page.samplesperpixel)
    # NDPI's tiles lack their headers; OpenSlide reads it.
    if page.compression != _JPEG or page.bitspersample != 8 or page.jpegheader or not colour:
        return []
    tiled = page.is_tiled
    size = (page.tilewidth, page.tilelength) if tiled else (page.imagewidth, page.rowsperstrip)
    columns, rows = -(-page.imagewidth // size[0]), -(-page.imagelength // size[1])
    tables = page.jpegtables
    each = columns * rows
    return [
        _Segments(
            colour,
            size,
            columns,
            page.dataoffsets[start : start + each],
            page.databytecounts[start : start + each],
            tables[:-2] if tables else b"",
            bytearray(each),
        )
        for start in range(0, len(page.dataoffsets), each)
    ]
