"""Tiled JPEG TIFFs read past OpenSlide: compressed tiles from the file to libjpeg-turbo.

OpenSlide stays the authority: it opens the file and reads its metadata, and what is read here must
equal its pixels in sampled tiles of every level; otherwise the slide is read through it.
"""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Self

import cv2
import numpy as np
import simplejpeg

from wsikd.core.errors import RegionReadError, SlideError, one_line
from wsikd.core.positioned import open_for_reading, read_at
from wsikd.slides.base import printable
from wsikd.slides.dicom.frames import frame_levels
from wsikd.slides.readers.direct_tiff_index import TileLevel, TileLevelError, tile_levels
from wsikd.slides.readers.openslide import DICOM
from wsikd.slides.readers.tile_cache import TileCache, tile_memory
from wsikd.slides.resample.area import shrink, shrinker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from types import TracebackType

    from numpy.typing import NDArray

    from wsikd.slides.base import Mpp, Slide
    from wsikd.slides.readers.openslide import OpenSlideReader

CACHE_BYTES = 64 << 20
_MOST_CACHE_BYTES = 192 << 20
_KEPT_ROWS = 1.3
NAME = "direct"
_BAND_PX, _BEYOND_PX = 64, 16


def direct(slide: OpenSlideReader) -> Slide:
    """A slide's direct reader, or the slide itself with the reason in ``info.reader_note``."""
    try:
        pages = slide.series.levels if slide.series else None
        filled = slide.info.vendor != "generic-tiff"
        if slide.info.vendor == DICOM:
            levels = frame_levels(slide.file, slide.info.level_dimensions)
        else:
            levels = tile_levels(slide.path, slide.info.level_dimensions, pages, filled=filled)
        reader = DirectReader(slide, levels)
        try:
            compare(reader, slide)
            reader.cache = TileCache(CACHE_BYTES)  # the samples are not later reads
            reader.show_right_colours()
        except BaseException:
            reader.release()
            raise
    except (TileLevelError, OSError, SlideError) as error:
        note = error.fault if isinstance(error, SlideError) else str(error)
        slide.info = replace(slide.info, reader_note=f"not read directly: {one_line(note)}")
        return slide
    return reader


_Window = tuple[slice, slice]


class DirectReader:
    """A tiled JPEG TIFF; the Slide protocol, and reads into arrays that the caller owns.

    All reads of a ``reduction`` of 2, 4 or 8 are in pixels of the level reduced so inside the JPEG
    decoder, which is faster than averaging and differs from it by a grey level or so.
    """

    def __init__(self, slide: OpenSlideReader, levels: Sequence[TileLevel]) -> None:
        """Use :func:`direct`."""
        between = [str(n) for n in range(len(levels)) if not _on_grid(slide, n)]
        note = "tiled JPEG; sampled tiles are OpenSlide's to the bit"
        if between:
            note += f", at level {', '.join(between)} but for its interpolation"
        self.path: Path = slide.path
        self.info = replace(slide.info, reader=NAME, reader_note=note)
        self.levels = levels
        self.absent = slide.absent
        self.cache = TileCache(CACHE_BYTES)
        self._slide = slide
        paths = [level.file or slide.path for level in levels]
        opened = {path: open_for_reading(path) for path in dict.fromkeys(paths)}
        self._files = [opened[path] for path in paths]
        self._framings = [level.claimed for level in levels]
        self._bytes = [os.fstat(file).st_size for file in self._files]
        self._background = np.asarray(slide.info.background, np.uint8)
        self._own = threading.local()

    @property
    def mpp(self) -> Mpp:
        """Resolution of level 0; raises MissingMppError."""
        return self._slide.mpp

    def read_level(
        self, level: int, location: tuple[int, int], size: tuple[int, int]
    ) -> NDArray[np.uint8]:
        """Pixels of one level: uint8 (height, width, 3); see the Slide protocol."""
        out = np.empty((size[1], size[0], 3), np.uint8)
        self.read_into(level, location, out)
        return out

    def read_into(
        self, level: int, location: tuple[int, int], out: NDArray[np.uint8], *, reduction: int = 1
    ) -> None:
        """Fill ``out``, uint8 (height, width, 3), with the pixels from ``location`` on."""
        if self._fill_with_whole(self.levels[level], level, location, 1, out, reduction):
            return
        for target, window, pixels in self._parts(level, location, out, 1, reduction):
            out[target] = pixels[window]

    def average_into(
        self,
        level: int,
        location: tuple[int, int],
        factor: int,
        out: NDArray[np.uint8],
        *,
        reduction: int = 1,
    ) -> bool:
        """Fill ``out`` with averages over squares of ``factor`` pixels from ``location`` on.

        Returns:
            Whether it was done: not where a square would lie across two tiles.
        """
        own = self.levels[level]
        sides = (own.tile_px[0] // reduction, own.tile_px[1] // reduction)
        if any(v % factor for v in (*sides, *location)):
            return False
        if self._fill_with_whole(own, level, location, factor, out, reduction):
            return True
        for target, window, pixels in self._parts(level, location, out, factor, reduction):
            shrink(pixels[window], factor, out[target])
        return True

    def _fill_with_whole(
        self,
        own: TileLevel,
        level: int,
        location: tuple[int, int],
        factor: int,
        out: NDArray[np.uint8],
        reduction: int,
    ) -> bool:
        """Fill ``out`` directly if it consists of whole tiles; returns whether it did.

        No other read wants these tiles, so they are not kept.
        """
        width, height = own.tile_px[0] // reduction, own.tile_px[1] // reduction
        x, y = location[0] // width, location[1] // height
        columns, rows = out.shape[1] * factor // width, out.shape[0] * factor // height
        aligned = (x * width, y * height) == location and (
            (rows * height, columns * width) == (out.shape[0] * factor, out.shape[1] * factor)
        )
        if not aligned or x < 0 or y < 0 or x + columns > own.grid[0] or y + rows > own.grid[1]:
            return False
        scratch = self._scratch((height, width, 3))
        high, wide = height // factor, width // factor
        place = _copier(scratch, out)
        if factor > 1:
            place = shrinker(scratch, factor, out, (wide, high))
        for row in range(rows):
            index = (y + row) * own.grid[0] + x
            for column in range(columns):
                if own.counts[index]:
                    self._fill(own, level, index, reduction, scratch)
                    place(row * high, column * wide)
                else:
                    top, left = row * high, column * wide
                    out[top : top + high, left : left + wide] = self._background
                index += 1
        return True

    def reductions(self, level: int) -> tuple[int, ...]:
        """Factors by which the JPEG decoder can reduce a level: they divide its tile sides."""
        return tuple(r for r in (2, 4, 8) if all(v % r == 0 for v in self.levels[level].tile_px))

    def show_right_colours(self) -> None:
        """From now on decode streams by their own markers, not by the file's metadata."""
        if any(level.right != level.claimed for level in self.levels):
            self._framings = [level.right for level in self.levels]
            note = f"{self.info.reader_note}; the file claims other colours than its JPEG data have"
            self.info = replace(
                self.info, reader_note=note, doubt=self._slide.stated, colours_corrected=True
            )

    def close(self) -> None:
        """Release the file."""
        self.release()
        self._slide.close()

    def release(self) -> None:
        """Release what this reader added to its slide."""
        files, self._files = set(self._files), [-1] * len(self._files)
        for file in files - {-1}:
            os.close(file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _parts(
        self,
        level: int,
        location: tuple[int, int],
        out: NDArray[np.uint8],
        factor: int,
        reduction: int,
    ) -> Iterator[tuple[_Window, _Window, NDArray[np.uint8]]]:
        """Tiles under ``out``, decoded: (place in ``out``, part of the tile, its pixels).

        What lies beyond the level is filled already.
        """
        own = self.levels[level]
        size = (out.shape[1] * factor, out.shape[0] * factor)
        tile = (own.tile_px[0] // reduction, own.tile_px[1] // reduction)
        columns, rows = (_spans(location[a], size[a], tile[a], own.grid[a], factor) for a in (0, 1))
        row_bytes = own.grid[0] * tile[0] * tile[1] * 3
        self.cache.reserve(min(int(_KEPT_ROWS * row_bytes), _MOST_CACHE_BYTES))
        covered = (sum(s[2] for s in columns), sum(s[2] for s in rows))
        if covered != size:
            out[...] = self._background
        edges = {rows[0][0], rows[-1][0]} if rows else set()
        sides = {columns[0][0], columns[-1][0]} if columns else set()
        for row, y, height, top in rows:
            for column, x, width, left in columns:
                target = (slice(top, top + height // factor), slice(left, left + width // factor))
                window = (slice(y, y + height), slice(x, x + width))
                index = row * own.grid[0] + column
                # Where reads meet within a pixel, both want the tiles along their border.
                shared = (factor == 1 and (row in edges or column in sides)) or (
                    (width, height) != tile
                )
                wanted = width * height if shared else None
                yield target, window, self._tile(level, index, wanted, reduction)

    def _tile(
        self, level: int, index: int, wanted_px: int | None, reduction: int
    ) -> NDArray[np.uint8]:
        """A decoded tile: uint8 (height, width, 3), good until this thread's next one.

        It is shared with other reads if this one wants ``wanted_px`` pixels of it; else all are
        wanted here and now.
        """
        own = self.levels[level]
        shape = (own.tile_px[1] // reduction, own.tile_px[0] // reduction, 3)
        if not own.counts[index]:
            return np.broadcast_to(self._background, shape)
        if wanted_px is not None:

            def decode() -> NDArray[np.uint8]:
                fresh = tile_memory(shape)
                self._fill(own, level, index, reduction, fresh)
                return fresh

            return self.cache.get((level, reduction, index), wanted_px, decode)
        scratch = self._scratch(shape)
        self._fill(own, level, index, reduction, scratch)
        return scratch

    def _scratch(self, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
        """This thread's memory for a tile."""
        scratch: NDArray[np.uint8] | None = getattr(self._own, "scratch", None)
        if scratch is None or scratch.shape != shape:
            scratch = self._own.scratch = tile_memory(shape)
        return scratch

    def _fill(
        self, own: TileLevel, level: int, index: int, reduction: int, out: NDArray[np.uint8]
    ) -> None:
        """Fill ``out`` with a tile, and with background beyond the level."""
        count, columns = own.counts[index], own.grid[0]
        try:
            whole = own.offsets[index] + count <= self._bytes[level]
            data = read_at(self._files[level], count, own.offsets[index]) if whole else b""
            if len(data) < count:
                raise ValueError("the file ends within the tile")
            data = self._framings[level].of(data)
            if reduction == 1:
                decoded = simplejpeg.decode_jpeg(data, "RGB", buffer=out)
            else:
                decoded = simplejpeg.decode_jpeg(
                    data,
                    "RGB",
                    min_height=out.shape[0],
                    min_width=out.shape[1],
                    min_factor=reduction,
                    buffer=out,
                )
            if decoded.shape != out.shape:
                raise ValueError(f"the tile is {decoded.shape[1]} x {decoded.shape[0]} px")
        except (ValueError, OSError) as error:
            raise self._damaged(level, index, str(error)) from error
        if (index + 1) % columns == 0 or index + columns >= len(own.counts):
            self._clear_beyond(own, index, reduction, out)

    def _clear_beyond(
        self, own: TileLevel, index: int, reduction: int, out: NDArray[np.uint8]
    ) -> None:
        """Set the encoder's padding of an edge tile, beyond the level, to background."""
        row, column = divmod(index, own.grid[0])
        width = -(-own.size[0] // reduction) - column * out.shape[1]
        height = -(-own.size[1] // reduction) - row * out.shape[0]
        if width < out.shape[1]:
            out[:, width:] = self._background
        if height < out.shape[0]:
            out[height:] = self._background

    def _damaged(self, level: int, index: int, reason: str) -> RegionReadError:
        own, down = self.levels[level], self.info.level_downsamples[level]
        row, column = divmod(index, own.grid[0])
        x, y = (
            round(column * own.tile_px[0] * down[0]),
            round(row * own.tile_px[1] * down[1]),
        )
        return RegionReadError(
            printable(self.path.name),
            f"level {level} cannot be read at level-0 x={x}, y={y} ({one_line(reason)})",
            "the file is damaged there; copy or scan it again",
        )


def _copier(tile: NDArray[np.uint8], out: NDArray[np.uint8]) -> Callable[[int, int], None]:
    """What copies a tile to (top, left) of ``out``."""
    height, width = tile.shape[:2]

    def copy(top: int, left: int) -> None:
        out[top : top + height, left : left + width] = tile

    return copy


def _spans(
    start: int, length: int, tile: int, count: int, factor: int
) -> list[tuple[int, int, int, int]]:
    """Tiles under a stretch: (tile, first pixel in it, pixels, place in the output)."""
    spans = []
    first, end = max(start, 0), min(start + length, count * tile)
    position = first
    while position < end:
        number, inside = divmod(position, tile)
        pixels = min(tile - inside, end - position)
        spans.append((number, inside, pixels, (position - start) // factor))
        position += pixels
    return spans


def compare(reader: DirectReader, slide: OpenSlideReader) -> None:
    """Hold sampled tiles of every level against OpenSlide's; raises TileLevelError."""
    for level, own in enumerate(reader.levels):
        aligned = _on_grid(slide, level)
        for index in _samples(own, first=not aligned):
            corner, size = _band(own, index)
            ours = reader.read_level(level, corner, size)
            theirs = slide.read_level(level, corner, size)
            exact = aligned or corner == (0, 0)
            if not (np.array_equal(ours, theirs) if exact else _between(ours, theirs)):
                raise TileLevelError(f"tile {index} of level {level} is not what OpenSlide shows")


def _band(own: TileLevel, index: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Corner and (width, height) of what is compared of a tile: a band over its whole width.

    Both decode the whole tile, and its last rows come from the end of its stream; but OpenSlide
    composes only what it is asked for, which takes it longer than decoding. Where the level ends
    within the tile, the band lies across that end. Tile 0 is compared whole.
    """
    row, column = divmod(index, own.grid[0])
    (width, height), top = own.tile_px, row * own.tile_px[1]
    band = min(_BAND_PX, height)
    if index == 0:
        return (0, 0), (width, height)
    end = min(height, own.size[1] - top) + _BEYOND_PX
    return (column * width, top + min(max(0, end - band), height - band)), (width, band)


def _between(ours: NDArray[np.uint8], theirs: NDArray[np.uint8]) -> bool:
    """Whether pixels are what interpolation between ours gives: none beyond its neighbours."""
    square = np.ones((3, 3), np.uint8)
    low = np.asarray(cv2.erode(ours, square), np.int16)[1:-1, 1:-1] - 1
    high = np.asarray(cv2.dilate(ours, square), np.int16)[1:-1, 1:-1] + 1
    inner = theirs[1:-1, 1:-1]
    return bool(((inner >= low) & (inner <= high)).all())


def _on_grid(slide: OpenSlideReader, level: int) -> bool:
    """Whether OpenSlide, which divides by a mean downsample, can hit whole pixels of a level."""
    sizes = slide.info.level_dimensions
    mean = sum(full / own for full, own in zip(sizes[0], sizes[level], strict=True)) / 2
    return mean.is_integer()


def _samples(own: TileLevel, *, first: bool) -> list[int]:
    """A few tiles of a level: its last, the one of most bytes, thus most texture, and its first.

    The last shows where the level ends; the first, where others are interpolated, exact pixels.
    OpenSlide takes longer for one than to read a small slide's whole overview directly.
    """
    counts = own.counts
    richest = max(range(0, len(counts), max(1, len(counts) // 4096)), key=counts.__getitem__)
    return sorted({len(counts) - 1, richest, *([0] if first else [])})
