"""Any pixels written as a pyramidal tiled-JPEG TIFF that OpenSlide opens as Aperio."""

from __future__ import annotations

import math
from collections import deque
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import imagecodecs
import numpy as np
import tifffile

from wsikd.core.errors import OutputError
from wsikd.core.run import aside

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

THUMBNAIL_PX = 768
BIGTIFF_PX = 2_000_000_000  # from here on a JPEG pyramid may pass 4 GB


def write_pyramid(
    path: str | Path,
    level0_rgb: NDArray[np.uint8] | Iterable[NDArray[np.uint8]],
    *,
    mpp: float,
    power: float,
    downsamples: Sequence[int] = (1, 4, 16),
    tile_px: int = 256,
    quality: int = 80,
    subsampling: str = "420",
    size_px: tuple[int, int] | None = None,
    description_extra: str = "",
    omit_mpp: bool = False,
) -> None:
    """Write a pyramidal tiled-JPEG TIFF that OpenSlide opens as Aperio.

    Level k is the area average of whole blocks of ``downsamples[k]`` pixels, so its size is the
    level-0 size divided and rounded down, as in Aperio's own files. As there, the second page is a
    thumbnail. From strips, memory is bounded by a few strips and the coarser levels' JPEG bytes.

    Args:
        path: where the slide goes; it appears only when it is whole.
        level0_rgb: uint8 (height, width, 3), or strips of that width from top to bottom.
        mpp: um per level-0 pixel.
        power: objective power.
        downsamples: factor of each level, integers that increase from 1.
        tile_px: side of a tile, a multiple of 16.
        quality: quality of the JPEG, 1 to 100.
        subsampling: subsampling of the chroma, ``"420"`` or ``"444"``.
        size_px: level-0 (width, height); needed with strips.
        description_extra: more ``|Key = value`` items for the Aperio description.
        omit_mpp: leave the resolution out, as some scanners do.

    Raises:
        OutputError: the file cannot be written, or the pixels do not fit the arguments.
    """
    path = Path(path)
    strips: Iterable[NDArray[np.uint8]]
    if isinstance(level0_rgb, np.ndarray):
        strips, size_px = [level0_rgb], (level0_rgb.shape[1], level0_rgb.shape[0])
    else:
        strips = level0_rgb
    if size_px is None:
        raise OutputError(path, "strips without a size", "give size_px=(width, height)")
    _check(path, size_px, downsamples, tile_px)
    levels = [_Level(size_px, d, tile_px, quality, subsampling) for d in downsamples]
    scale = "" if omit_mpp else f"|MPP = {mpp!r}"
    header = f"Aperio Image Library v12.0.0 (wsikd synthetic)\r\n{size_px[0]}x{size_px[1]}"
    tail = f"JPEG/RGB Q={quality}|AppMag = {power:g}{scale}{description_extra}"
    with aside(path) as part:
        big = size_px[0] * size_px[1] > BIGTIFF_PX
        with tifffile.TiffWriter(part, bigtiff=big) as tiff:
            _write_levels(tiff, levels, _bands(path, strips, size_px, levels), header, tail)


def _check(path: Path, size_px: tuple[int, int], downsamples: Sequence[int], tile_px: int) -> None:
    """Raise OutputError where the numbers make no pyramid."""
    rising = all(b > a for a, b in pairwise(downsamples))
    if not downsamples or downsamples[0] != 1 or not rising or tile_px % 16:
        fault = f"downsamples {tuple(downsamples)} or tile_px {tile_px} make no pyramid"
        raise OutputError(path, fault, "let downsamples rise from 1, tile_px be a multiple of 16")
    if min(size_px) < downsamples[-1]:
        fault = f"{size_px[0]}x{size_px[1]} pixels leave nothing at downsample {downsamples[-1]}"
        raise OutputError(path, fault, "give fewer downsamples")


class _Level:
    """One level being made: rows come in, are averaged, and leave as encoded tiles."""

    def __init__(
        self, size_px: tuple[int, int], downsample: int, tile_px: int, quality: int, chroma: str
    ) -> None:
        self.downsample, self.tile_px = downsample, tile_px
        self.width, self.height = size_px[0] // downsample, size_px[1] // downsample
        self.quality, self.chroma = quality, chroma
        self.rows: list[NDArray[np.uint8]] = []
        self.held = 0
        self.tiles: list[bytes] = []

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.height, self.width, 3

    def average(self, band: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Whole blocks of a band of level-0 rows, averaged."""
        d = self.downsample
        rows = band.shape[0] // d
        if d == 1 or rows == 0:
            return band[: rows * d, : self.width]
        whole = np.ascontiguousarray(band[: rows * d, : self.width * d])
        small = cv2.resize(whole, (self.width, rows), interpolation=cv2.INTER_AREA)
        return np.asarray(small, np.uint8)

    def push(self, rows: NDArray[np.uint8], *, last: bool) -> Iterator[bytes]:
        """Take rows of this level; yield the tiles that are complete."""
        if len(rows):
            self.rows.append(rows)
            self.held += len(rows)
        if self.held < self.tile_px and not last:
            return
        held = np.concatenate(self.rows) if self.rows else np.empty((0, self.width, 3), np.uint8)
        whole = self.held if last else self.held // self.tile_px * self.tile_px
        for top in range(0, whole, self.tile_px):
            yield from self._encode(held[top : min(top + self.tile_px, whole)])
        self.rows, self.held = [held[whole:].copy()], self.held - whole

    def _encode(self, rows: NDArray[np.uint8]) -> Iterator[bytes]:
        side = self.tile_px
        across = math.ceil(self.width / side) * side
        pad = ((0, side - len(rows)), (0, across - self.width), (0, 0))
        padded = np.pad(rows, pad, mode="edge")
        for left in range(0, across, side):
            tile = np.ascontiguousarray(padded[:, left : left + side])
            yield bytes(imagecodecs.jpeg8_encode(tile, level=self.quality, subsampling=self.chroma))


def _bands(
    path: Path,
    strips: Iterable[NDArray[np.uint8]],
    size_px: tuple[int, int],
    levels: Sequence[_Level],
) -> Iterator[NDArray[np.uint8]]:
    """Cut strips of any height into bands that every level's blocks and tiles fit."""
    step = math.lcm(levels[0].tile_px, *(level.downsample for level in levels))
    held, count, seen = [], 0, 0
    for strip in strips:
        if strip.dtype != np.uint8 or strip.ndim != 3 or strip.shape[1:] != (size_px[0], 3):
            fault = f"a strip is {strip.dtype} {strip.shape}, not uint8 (rows, {size_px[0]}, 3)"
            raise OutputError(path, fault, "give strips as wide as size_px")
        for top in range(0, len(strip), step):
            held.append(strip[top : top + step])
            count, seen = count + len(held[-1]), seen + len(held[-1])
            while count >= step:
                rows = held[0] if len(held) == 1 else np.concatenate(held)
                yield rows[:step]
                held, count = [rows[step:]], count - step
    if seen != size_px[1]:
        fault = f"the strips hold {seen} rows, not {size_px[1]}"
        raise OutputError(path, fault, "give strips that add up to size_px")
    if count:
        yield np.concatenate(held)


def _write_levels(
    tiff: Any, levels: Sequence[_Level], bands: Iterator[NDArray[np.uint8]], header: str, tail: str
) -> None:
    """Write level 0 as it comes, then the thumbnail, then the levels gathered meanwhile."""
    smallest: list[NDArray[np.uint8]] = []

    def level0() -> Iterator[bytes]:
        for band in bands:
            for level in levels[1:]:
                level.tiles.extend(level.push(level.average(band), last=False))
            if len(levels) > 1:
                smallest.append(levels[-1].average(band).copy())
            yield from levels[0].push(band, last=False)
        yield from levels[0].push(np.empty((0, levels[0].width, 3), np.uint8), last=True)

    def write(level: _Level, tiles: Iterable[bytes], text: str) -> None:
        tiff.write(
            iter(tiles),
            shape=level.shape,
            dtype=np.uint8,
            tile=(level.tile_px, level.tile_px),
            photometric="ycbcr",
            subsampling=(2, 2) if level.chroma == "420" else (1, 1),
            compression="jpeg",
            description=f"{header} [0,0 {levels[0].width}x{levels[0].height}] {text}",
            metadata=None,
            software=False,
        )

    tile = f"({levels[0].tile_px}x{levels[0].tile_px})"
    tiles0 = level0()
    write(levels[0], tiles0, f"{tile} {tail}")
    deque(tiles0, maxlen=0)  # tifffile stops at the last tile it expects; rows too many must show
    if len(levels) > 1:
        _write_thumbnail(tiff, np.concatenate(smallest), header, tail)
    for level in levels[1:]:
        rest = level.push(np.empty((0, level.width, 3), np.uint8), last=True)
        write(level, chain(level.tiles, rest), f"{tile} -> {level.width}x{level.height} {tail}")


def _write_thumbnail(tiff: Any, rgb: NDArray[np.uint8], header: str, tail: str) -> None:
    """A small picture in one strip, where readers of Aperio files expect it."""
    shrink = min(1.0, THUMBNAIL_PX / max(rgb.shape))
    size = (max(1, round(rgb.shape[1] * shrink)), max(1, round(rgb.shape[0] * shrink)))
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    tiff.write(
        iter([imagecodecs.jpeg8_encode(small, level=80, subsampling="420")]),
        shape=small.shape,
        dtype=np.uint8,
        rowsperstrip=small.shape[0],
        photometric="ycbcr",
        subsampling=(2, 2),
        compression="jpeg",
        description=f"{header} -> {size[0]}x{size[1]} - |{tail.partition('|')[2]}",
        metadata=None,
        software=False,
    )
