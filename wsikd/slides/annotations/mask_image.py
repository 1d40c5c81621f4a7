"""An image of class values over a slide's plane, read block by block: never whole."""

from __future__ import annotations

import math
import struct
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.core.errors import AnnotationError
from wsikd.slides.resample.area import area_means

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    Wanted = Callable[[int, int, int, int], bool]

_BAND_ROWS = 1024
_MAX_BLOCK_BYTES = 1 << 28
_BYTE_CODECS = (1, 5, 8, 32773, 32946, 34925, 50000)  # none, LZW, deflate, PackBits, LZMA, Zstd
_BROKEN = (
    OSError,
    ValueError,
    RuntimeError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    SyntaxError,  # Pillow's word for a broken PNG
    struct.error,
)
_REMEDY = "give it as a tiled TIFF or a PNG of whole numbers"


@dataclass(frozen=True)
class LabelPlane:
    """A mask image: TIFF (its first page), or whatever Pillow reads.

    Of colour channels the first counts, of a palette the index.

    Attributes:
        path: the file.
        size: (width, height) in mask pixels.
    """

    path: Path
    size: tuple[int, int]

    @classmethod
    def open(cls, path: Path) -> LabelPlane:
        """Read the size of a mask.

        Raises:
            AnnotationError: the file cannot be read as a mask.
        """
        with _readable(path), _opened(path) as image:
            if _is_tiff(path):
                page = image.pages.first
                if page.dtype is None or np.dtype(page.dtype).kind not in "uib":
                    raise AnnotationError(path, f"holds {page.dtype}, no whole numbers", _REMEDY)
                return cls(path, (int(page.imagewidth), int(page.imagelength)))
            return cls(path, image.size)

    def blocks(self, wanted: Wanted | None = None) -> Iterator[tuple[int, int, NDArray[Any]]]:
        """Yield (x, y, values): integers (rows, columns) whose corner lies at mask pixel (x, y).

        Args:
            wanted: asked with (x, y, width, height) in mask pixels whether a block is required.

        Raises:
            AnnotationError: the file cannot be read as a mask.
        """
        wanted = wanted or (lambda *_: True)
        source = _tiff_blocks if _is_tiff(self.path) else _image_blocks
        with _readable(self.path), _opened(self.path) as image:
            yield from source(image, wanted)

    def cover(
        self, start: tuple[float, float], factor: tuple[float, float], size: tuple[int, int]
    ) -> NDArray[np.float32]:
        """Share of each cell of a grid whose value is not zero: float32 (rows, columns).

        Args:
            start: (x, y) of the grid's corner in mask pixels.
            factor: mask pixels per cell, (x, y).
            size: (columns, rows).

        Raises:
            AnnotationError: the file cannot be read as a mask.
        """
        total = np.zeros(size[::-1], np.float32)
        for x, y, values in self.blocks():
            if not values.any():
                continue
            at, ends = (x, y), (x + values.shape[1], y + values.shape[0])
            low = [max(0, int((at[i] - start[i]) // factor[i])) for i in (0, 1)]
            high = [min(size[i], int((ends[i] - start[i]) // factor[i]) + 1) for i in (0, 1)]
            if low[0] >= high[0] or low[1] >= high[1]:
                continue
            corner = (
                start[0] + low[0] * factor[0] - at[0],
                start[1] + low[1] * factor[1] - at[1],
            )
            cells = (high[0] - low[0], high[1] - low[1])
            part = area_means(values != 0, corner, factor, cells)
            total[low[1] : high[1], low[0] : high[0]] += part
        return np.minimum(total, 1)

    def values(self, most: int = 20) -> list[int]:
        """Different values in the mask, sorted; the search ends after ``most`` of them."""
        found: set[int] = set()
        for _, _, values in self.blocks():
            found.update(np.unique(values).tolist())
            if len(found) >= most:
                break
        return sorted(found)


def _is_tiff(path: Path) -> bool:
    return path.suffix.lower() in (".tif", ".tiff")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what libraries raise at broken files into AnnotationError."""
    try:
        yield
    except AnnotationError:
        raise
    except OSError as error:
        fault = f"cannot be read as a mask ({error.strerror or error})"
        raise AnnotationError(path, fault, _REMEDY) from error
    except (*_BROKEN, Warning) as error:
        raise AnnotationError(path, f"cannot be read as a mask ({error})", _REMEDY) from error


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if _is_tiff(path):
        import tifffile

        with tifffile.TiffFile(path) as tiff:
            yield tiff
        return
    from PIL import Image

    with warnings.catch_warnings():
        # Such an image would have to be held whole; a tiled TIFF need not be.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        image = Image.open(path)
    with image:
        yield image


def _tiff_blocks(tiff: Any, wanted: Wanted) -> Iterator[tuple[int, int, NDArray[Any]]]:
    page = tiff.pages.first
    width, height = page.imagewidth, page.imagelength
    if not page.is_tiled and page.is_memmappable:
        plane = page.asarray(out="memmap")
        yield from _bands(_first_channel(plane, page.planarconfig), wanted)
        return
    across, down = (
        (page.tilewidth, page.tilelength) if page.is_tiled else (width, page.rowsperstrip)
    )
    down = min(down, height) if not page.is_tiled else down
    planes = page.samplesperpixel if page.planarconfig == 2 else 1
    samples = page.samplesperpixel // planes
    if across * down * samples * np.dtype(page.dtype).itemsize > _MAX_BLOCK_BYTES:
        raise ValueError(f"one block of it is {across} x {down} pixels")
    columns = -(-width // across)
    count = columns * -(-height // down)  # in the first channel, where planes are separate
    counts, size = page.databytecounts, tiff.filehandle.size
    # A decoder that is given a wrong shape may take the process down.
    if {len(page.dataoffsets), len(counts)} != {count * planes} or max(counts) > size:
        raise ValueError("its directory does not fit the file")
    places = [((i % columns) * across, (i // columns) * down) for i in range(count)]
    needed = [i for i, (x, y) in enumerate(places) if wanted(x, y, across, down)]
    segments = tiff.filehandle.read_segments(
        [page.dataoffsets[i] for i in needed],
        [counts[i] for i in needed],
        indices=needed,
        sort=True,
    )
    for data, index in segments:
        x, y = places[index]
        rows, columns_here = min(down, height - y), min(across, width - x)
        stored = (down if page.is_tiled else rows, across, samples)
        block = _decoded(page, data, index, stored)
        yield x, y, block[:rows, :columns_here]


def _decoded(
    page: Any, data: bytes | None, index: int, stored: tuple[int, int, int]
) -> NDArray[Any]:
    """First channel of one tile or strip, stored as (rows, columns, samples); 0 if never written.

    Of codecs that give bytes the length is checked and the predictor undone here: the library's
    own trusts the shape that it is given, and a damaged file can take the process down with it.
    """
    import tifffile

    dtype = np.dtype(page.dtype)
    if data is None:
        return np.zeros(stored[:2], dtype)
    whole = page.bitspersample == 8 * dtype.itemsize and page.fillorder == 1
    if page.compression not in _BYTE_CODECS or not whole:
        if page.predictor != 1:
            raise ValueError(f"compressed in a way unknown here ({page.compression})")
        tables = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}
        return np.asarray(page.decode(data, index, **tables)[0][0, ..., 0])
    size = math.prod(stored) * dtype.itemsize
    plain = tifffile.TIFF.DECOMPRESSORS[page.compression](data, out=size)
    if len(plain) < size or page.predictor not in (1, 2):
        raise ValueError("one of its blocks is truncated")
    values = np.frombuffer(plain, dtype.newbyteorder(page.parent.byteorder), math.prod(stored))
    first = values.reshape(stored)[..., 0].astype(dtype)
    return np.cumsum(first, 1, dtype) if page.predictor == 2 else first


def _first_channel(plane: NDArray[Any], planes: int) -> NDArray[Any]:
    if plane.ndim == 2:
        return plane
    return plane[0] if planes == 2 else plane[..., 0]


def _image_blocks(image: Any, wanted: Wanted) -> Iterator[tuple[int, int, NDArray[Any]]]:
    values = np.asarray(image)
    if values.dtype.kind not in "uib":
        raise ValueError(f"holds {values.dtype}, no whole numbers")
    yield from _bands(values if values.ndim == 2 else values[..., 0], wanted)


def _bands(plane: NDArray[Any], wanted: Wanted) -> Iterator[tuple[int, int, NDArray[Any]]]:
    for top in range(0, plane.shape[0], _BAND_ROWS):
        band = plane[top : top + _BAND_ROWS]
        if wanted(0, top, band.shape[1], band.shape[0]):
            yield 0, top, np.ascontiguousarray(band)
