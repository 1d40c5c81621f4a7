"""Where the JPEG tiles of a TIFF's levels lie in the file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import tifffile

from wsikd.slides.readers.jpeg_colours import JPEG, Framing, first_stream, framings, page_claim

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_MOST_TILE_PX = 1 << 24


class TileLevelError(Exception):
    """The levels of a TIFF cannot be read tile by tile; the message says why."""


@dataclass(frozen=True)
class TileLevel:
    """One level: (width, height) in px, tiles row by row.

    A tile of 0 bytes is absent. ``prefix`` replaces the first two bytes of each tile's data: the
    tables that the tiles share, and the mark of RGB. It is empty where a tile is a whole stream.
    """

    size: tuple[int, int]
    tile_px: tuple[int, int]
    grid: tuple[int, int]
    offsets: tuple[int, ...]
    counts: tuple[int, ...]
    claimed: Framing
    right: Framing
    file: Path | None = None


def tile_levels(
    path: Path,
    dimensions: Sequence[tuple[int, int]],
    pages: Sequence[tifffile.TiffPage] | None = None,
    *,
    filled: bool = False,
) -> list[TileLevel]:
    """Find the TIFF directory of each of OpenSlide's levels.

    Args:
        path: a TIFF file.
        dimensions: (width, height) of the levels.
        pages: the directories to look among, where they were read before; default all.

        filled: whether OpenSlide fills absent tiles of lower levels from the levels above.

    Raises:
        TileLevelError: it is not a TIFF, or a level is not made of plain JPEG tiles.
        OSError: it cannot be read.
    """
    try:
        if pages is None:
            with tifffile.TiffFile(path) as tiff:
                pages = [page for page in tiff.pages if isinstance(page, tifffile.TiffPage)]
        # A thumbnail or macro image, in strips, may have the very size of a level.
        tiled_last = sorted(pages, key=lambda page: page.is_tiled)
        found = {(page.imagewidth, page.imagelength): page for page in tiled_last}
        levels = []
        for number, size in enumerate(dimensions):
            if size not in found:
                raise TileLevelError(f"no TIFF directory has the size of level {number}")
            levels.append(_level(path, found[size], number, absent_too=not filled or not number))
        return levels
    except (TileLevelError, OSError):
        raise
    except Exception as error:  # a damaged or foreign file: tifffile raises whatever it runs into
        raise TileLevelError(f"{type(error).__name__}: {error}") from error


def _level(path: Path, page: tifffile.TiffPage, number: int, *, absent_too: bool) -> TileLevel:
    if not page.is_tiled:
        raise TileLevelError(f"level {number} is not tiled")
    if page.compression != JPEG:
        kind = getattr(page.compression, "name", page.compression)
        raise TileLevelError(f"level {number} is {kind}, not JPEG")
    if page.samplesperpixel != 3 or page.bitspersample != 8 or page.planarconfig != 1:
        raise TileLevelError(f"level {number} is not 8-bit RGB in one plane")
    claim = page_claim(page)
    if claim is None:
        raise TileLevelError(f"level {number} has colours of kind {page.photometric}")
    if page.tilewidth * page.tilelength > _MOST_TILE_PX:
        raise TileLevelError(f"level {number} has tiles of {page.tilewidth} x {page.tilelength}")
    grid = (-(-page.imagewidth // page.tilewidth), -(-page.imagelength // page.tilelength))
    counts = tuple(page.databytecounts)
    if len(counts) != grid[0] * grid[1] or len(page.dataoffsets) != len(counts):
        raise TileLevelError(f"level {number} lists {len(counts)} tiles of {grid[0] * grid[1]}")
    if min(counts) <= 2 and not (absent_too and all(n > 2 for n in counts if n)):
        raise TileLevelError(f"level {number} has tiles that were never scanned")
    tables = page.jpegtables[2:-2] if page.jpegtables else b""
    head = first_stream(path, page.dataoffsets, counts)
    claimed, right, _ = framings(claim, head, tables)
    return TileLevel(
        (page.imagewidth, page.imagelength),
        (page.tilewidth, page.tilelength),
        grid,
        tuple(page.dataoffsets),
        counts,
        claimed,
        right,
    )
