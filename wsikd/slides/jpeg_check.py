"""Damage within JPEG tiles and strips, which other decoders fill up in silence."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import simplejpeg
import tifffile

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

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

    def __init__(self, path: Path, dimensions: Sequence[tuple[int, int]]) -> None:
        """Find the tiles of a TIFF's largest image; ``dimensions`` of its levels in px."""
        self._lock = threading.Lock()
        with tifffile.TiffFile(path) as tiff:
            found = {
                (level.keyframe.imagewidth, level.keyframe.imagelength): [
                    plane for page in level.pages for plane in _planes(page)
                ]
                for level in largest_series(tiff).levels
            }
        self._planes = [found.get(size, []) for size in dimensions]
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


def largest_series(tiff: tifffile.TiffFile) -> tifffile.TiffPageSeries:
    """The image of a TIFF that is the slide, not its label or thumbnail."""
    return max(tiff.series, key=lambda one: one.keyframe.imagelength * one.keyframe.imagewidth)


def _planes(page: tifffile.TiffPage | tifffile.TiffFrame | None) -> list[_Segments]:
    """The planes of a page: one, or one a colour; none where they are not 8-bit JPEG."""
    key = page.keyframe if page else None
    if page is None or key is None:
        return []
    apart = key.planarconfig == _APART
    colour = _COLOURS.get(1 if apart else key.samplesperpixel)
    # NDPI's tiles lack their headers; OpenSlide reads it.
    if key.compression != _JPEG or key.bitspersample != 8 or key.jpegheader or not colour:
        return []
    tiled = key.is_tiled
    size = (key.tilewidth, key.tilelength) if tiled else (key.imagewidth, key.rowsperstrip)
    columns, rows = -(-key.imagewidth // size[0]), -(-key.imagelength // size[1])
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
