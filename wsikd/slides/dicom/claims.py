"""Checks of DICOM headers before pixels are read: sizes, frames, absent frames.

As in :mod:`wsikd.slides.tiff.tile_tables`, a claimed size costs nothing: missing frames are a
fault, except in TILED_SPARSE, where those that are absent were never scanned.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from wsikd.core.errors import SlideError
from wsikd.slides.base import printable
from wsikd.slides.dicom.frames import frame_positions
from wsikd.slides.dicom.grouping import header_of, series_of
from wsikd.slides.readers.direct_tiff_index import TileLevelError
from wsikd.slides.tiff.absent_tiles import Stored
from wsikd.slides.tiff.tile_tables import NO_PIXELS, REMEDY, cannot_hold, check_lower

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from wsikd.slides.dicom.header import FrameClaim

_Size = tuple[int, int]
_UNCOMPRESSED = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
_COMPRESSION = {
    **dict.fromkeys(_UNCOMPRESSED, 1),
    "1.2.840.10008.1.2.4.50": 7,
    "1.2.840.10008.1.2.4.51": 7,
}
_ITEM_BYTES = 8
_MOST_FRAMES = (1 << 31) - 1
_MOST_GRID = 1 << 22
_COPY = "the file is damaged or forged, or files of its series are missing; copy them all again"


def stored_frames(instance: Path) -> dict[_Size, Stored | None]:
    """The frames that the levels of a DICOM slide store, by the levels' (width, height) in px.

    A level is None where it stores all its frames. Levels whose headers do not say their size are
    left out; so are files that are not DICOM.

    Args:
        instance: a file of the series.

    Raises:
        SlideError: a level has fewer frames than TILED_FULL takes, none at all, fewer than level 0
            has in its place, or more than its bytes can hold.
    """
    series = series_of(instance)
    parts: dict[tuple[_Size, str], list[tuple[Path, FrameClaim]]] = {}
    instances = dict.fromkeys([*series.files, instance]) if series.is_scan else {}
    for file in instances:
        header = header_of(file)
        if header is not None and header.frames is not None:
            claim = header.frames
            key = (claim.size, claim.concatenation or file.name)
            parts.setdefault(key, []).append((file, claim))
    levels: dict[_Size, Stored | None] = {}
    for (size, _), files in parts.items():
        levels[size] = _both(_level(files), levels[size]) if size in levels else _level(files)
    largest_first = sorted(levels, key=lambda size: -size[0] * size[1])
    check_lower(instance, [levels[size] for size in largest_first], "frames")
    return levels


def _level(files: list[tuple[Path, FrameClaim]]) -> Stored | None:
    """The stored frames of a level that lies in these files; None where it stores all."""
    total = sum(_count(file, claim) for file, claim in files)
    file, claim = files[0]
    columns, rows = (
        -(-side // px) for side, px in zip(claim.size, claim.frame_px, strict=True)
    )  # fmt: skip
    wanted = columns * rows
    if total >= wanted:
        return None
    if claim.organization in ("TILED_SPARSE", "") and wanted <= _MOST_GRID:
        there = np.zeros((rows, columns), np.bool_)
        for part, _ in files:
            if not _mark(part, claim, there):
                break
        else:
            if not there.any():
                raise SlideError(printable(file.name), NO_PIXELS.format(wanted), REMEDY)
            return Stored(there, claim.frame_px, claim.size)
    width, height = claim.size
    fault = f"holds {total} of the {wanted} frames that its {width} x {height} px take"
    raise SlideError(printable(file.name), fault, _COPY)


def _count(file: Path, claim: FrameClaim) -> int:
    """Frames of one file; raises SlideError where its claims are impossible."""
    (width, height), (wide, high) = claim.size, claim.frame_px
    fault = ""
    text = "1" if claim.count is None else claim.count
    count = int(text) if text.isascii() and text.isdigit() and len(text) < 12 else 0
    if min(width, height, wide, high) < 1:
        fault = f"claims {width} x {height} px in frames of {wide} x {high} px"
    elif not 1 <= count <= _MOST_FRAMES:
        fault = f"says NumberOfFrames {text[:20]!r}, which is not a number of frames"
    else:
        there = float(file.stat().st_size)
        pixels = float(count) * wide * high
        compression = _COMPRESSION.get(claim.syntax)
        subsampled = claim.photometric.startswith("YBR")
        if compression is not None:
            fault = cannot_hold(there, pixels, claim.bits, compression, subsampled=subsampled)
        if not fault and there < count * _ITEM_BYTES and compression != 1:
            fault = f"claims {count} frames, which {there:.0f} bytes cannot hold"
    if fault:
        raise SlideError(printable(file.name), fault, REMEDY)
    return count


def _mark(file: Path, claim: FrameClaim, there: NDArray[np.bool_]) -> bool:
    """Mark the places of a file's frames; returns whether it says them."""
    wide, high = claim.frame_px
    try:
        positions = frame_positions(file)
    except TileLevelError:
        return False
    for x, y in positions:
        if x >= 0 and y >= 0:
            there[y // high : -(-(y + high) // high), x // wide : -(-(x + wide) // wide)] = True
    return True


def _both(one: Stored | None, other: Stored | None) -> Stored | None:
    """The frames of a level with planes in two files."""
    if one is None or other is None or one.there.shape != other.there.shape:
        return None
    there = one.there | other.there
    return None if there.all() else replace(one, there=there)
