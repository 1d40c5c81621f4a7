"""Pixels of a TIFF's directories through tifffile, tile by tile or strip by strip."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile

from wsikd.slides.readers.jpeg_colours import page_colours
from wsikd.slides.tiff.tile_tables import segment_px

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

CACHE_BYTES = 64 << 20
_APART = 2
_ABSENT = 255


class PagePixels:
    """Levels of a TIFF, each a directory of it. Threads may share them.

    A tile that the file leaves out is white. Decoded tiles and strips are kept up to
    ``CACHE_BYTES``, the last used ones at least.
    """

    def __init__(self, path: Path, levels: Sequence[tifffile.TiffPage]) -> None:
        """Open the file; see :func:`open_pages`."""
        self._pages = tuple(levels)
        self.sizes = tuple((page.imagewidth, page.imagelength) for page in levels)
        self.channels = levels[0].samplesperpixel
        self.dtype: np.dtype[Any] = np.dtype(levels[0].dtype)
        handle = levels[0].parent.filehandle
        handle.open()  # tifffile looks into a JPEG's markers when it makes its decoder
        self.colours_corrected = False
        try:
            for page in levels:
                if page_colours(path, page) == "YCbCr":  # tifffile would go by the tag
                    page.photometric = tifffile.PHOTOMETRIC.YCBCR
                    self.colours_corrected = True
            self._decode = [page.decode for page in levels]
        finally:
            handle.close()
        self._file = path.open("rb")
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[int, int], NDArray[np.uint8]] = OrderedDict()
        self._kept_bytes = 0

    def read(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Pixels (height, width, channels) of a box that lies within the level."""
        page = self._pages[level]
        wide, high = segment_px(page)
        columns, rows = -(-page.imagewidth // wide), -(-page.imagelength // high)
        out = np.full((height, width, self.channels), _ABSENT, np.uint8)
        planes = self.channels if page.planarconfig == _APART else 1
        for plane in range(planes):
            channels = slice(plane, plane + 1) if planes > 1 else slice(None)
            for row in range(y // high, -(-(y + height) // high)):
                for column in range(x // wide, -(-(x + width) // wide)):
                    index = (plane * rows + row) * columns + column
                    part = self._segment(level, index)
                    if part is not None:
                        _paste(part, (column * wide - x, row * high - y), out[..., channels])
        return out

    def close(self) -> None:
        """Release the file."""
        self._file.close()
        self._kept.clear()

    def _segment(self, level: int, index: int) -> NDArray[np.uint8] | None:
        """A decoded tile or strip: uint8 (height, width, channels); None where it is left out."""
        page, key = self._pages[level], (level, index)
        offset, count = page.dataoffsets[index], page.databytecounts[index]
        if not count:
            return None
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            self._file.seek(offset)
            data = self._file.read(count)
        if len(data) < count:
            raise ValueError("the file ends within a tile or strip")
        tables = {"jpegtables": page.jpegtables} if page.jpegtables else {}
        decoded, _, _ = self._decode[level](data, index, **tables)
        if decoded is None:
            return None
        part = np.asarray(decoded[0], np.uint8)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = part
                self._kept_bytes += part.nbytes
            while self._kept_bytes > CACHE_BYTES and len(self._kept) > 1:
                self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes
        return part


def open_pages(path: Path, levels: Sequence[tifffile.TiffPage]) -> PagePixels:
    """Levels of a TIFF, the finest first.

    Args:
        path: the file.
        levels: its directories, all of one number of samples of 8 bits.
    """
    return PagePixels(path, levels)


def _paste(part: NDArray[np.uint8], at: tuple[int, int], out: NDArray[np.uint8]) -> None:
    """Copy what of ``part``, whose corner is at (x, y) of ``out``, lies within ``out``."""
    (left, top), (height, width) = at, part.shape[:2]
    right, bottom = min(left + width, out.shape[1]), min(top + height, out.shape[0])
    x, y = max(left, 0), max(top, 0)
    if x < right and y < bottom:
        out[y:bottom, x:right] = part[y - top : bottom - top, x - left : right - left]
