"""Where the JPEG frames of a DICOM slide's levels lie in its files.

Source: DICOM PS3.5, annex A.4 (encapsulated frames); PS3.3, C.8.12 (whole-slide images).
"""

from __future__ import annotations

import logging
import struct
import warnings
from typing import TYPE_CHECKING, Any, BinaryIO

from wsikd.slides.readers.direct_tiff_index import TileLevel, TileLevelError
from wsikd.slides.readers.jpeg_colours import first_stream, framings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from wsikd.slides.readers.jpeg_colours import Colours

_JPEG = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")
_CLAIMS: dict[str, Colours] = {"RGB": "RGB", "YBR_FULL": "YCbCr", "YBR_FULL_422": "YCbCr"}
_PIXELS = struct.pack("<HH", 0x7FE0, 0x0010)
_ITEM, _ENDS = struct.pack("<HH", 0xFFFE, 0xE000), struct.pack("<HH", 0xFFFE, 0xE0DD)
_UNKNOWN = 0xFFFFFFFF
_MOST_FRAMES = 1 << 22
_ABSENT = (0, 0)


def frame_levels(instance: Path, dimensions: Sequence[tuple[int, int]]) -> list[TileLevel]:
    """The frames of each level of a DICOM slide, its files being in one folder.

    Args:
        instance: a file of the series.
        dimensions: (width, height) of the levels, as OpenSlide has them.

    Raises:
        TileLevelError: a level is not one file of JPEG frames that cover it.
        OSError: a file cannot be read.
    """
    try:
        return _levels(instance, dimensions)
    except (TileLevelError, OSError):
        raise
    except Exception as error:  # a header may lack anything, and hold anything
        raise TileLevelError(f"{type(error).__name__}: {error}") from error


def _levels(instance: Path, dimensions: Sequence[tuple[int, int]]) -> list[TileLevel]:
    series = _read(instance)[0].SeriesInstanceUID
    found: dict[tuple[int, int], TileLevel] = {}
    for file in sorted(instance.parent.iterdir()):
        if file.suffix.lower() != ".dcm":
            continue
        header, start = _read(file)
        if header.get("SeriesInstanceUID") != series or not _is_volume(header):
            continue
        size = (int(header.TotalPixelMatrixColumns), int(header.TotalPixelMatrixRows))
        if size in found:
            raise TileLevelError(f"several files of {size[0]} x {size[1]} px")
        if size in dimensions:
            found[size] = _level(file, header, start, size)
    for number, size in enumerate(dimensions):
        if size not in found:
            raise TileLevelError(f"no file has the size of level {number}")
    return [found[size] for size in dimensions]


def frame_colours(instance: Path) -> tuple[Colours, Colours] | None:
    """What a file claims of its JPEG frames and what they are, where these differ; else None."""
    try:
        header, start = _read(instance)
        claim = _claim(header)
        with instance.open("rb") as stream:
            stream.seek(start)
            places = _frames(stream, most=1)
        head = first_stream(instance, (places[0][0],), (places[0][1],))
    except Exception:  # noqa: BLE001 - a header may lack anything, and hold anything
        return None
    found = framings(claim, head)[2]
    return (claim, found) if found else None


def frame_positions(file: Path) -> list[tuple[int, int]]:
    """Upper left corners (x, y) of a file's frames, in px of its level.

    Raises:
        TileLevelError: the file does not say them.
        OSError: it cannot be read.
    """
    header, _ = _read(file)
    try:
        return [_position(group) for group in header.PerFrameFunctionalGroupsSequence]
    except Exception as error:  # a header may lack anything, and hold anything
        raise TileLevelError(f"frames without position ({type(error).__name__})") from error


def _position(group: Any) -> tuple[int, int]:
    at = group.PlanePositionSlideSequence[0]
    return (
        int(at.ColumnPositionInTotalImagePixelMatrix) - 1,
        int(at.RowPositionInTotalImagePixelMatrix) - 1,
    )


def _read(file: Path) -> tuple[Any, int]:
    """The header of a DICOM file, and where its pixels begin."""
    import pydicom

    # It warns and logs of each odd value; what matters of them ends in an error here.
    warnings.filterwarnings("ignore", module=r"pydicom\.")
    logging.getLogger("pydicom").setLevel(logging.ERROR)
    try:
        with file.open("rb") as stream:
            return pydicom.dcmread(stream, stop_before_pixels=True), stream.tell()
    except OSError:
        raise
    except Exception as error:  # a damaged file breaks the parser anywhere
        raise TileLevelError(f"{file.name} cannot be read ({type(error).__name__})") from error


def _is_volume(header: Any) -> bool:
    kind = list(header.get("ImageType") or ())
    return len(kind) > 2 and kind[2] in ("VOLUME", "THUMBNAIL")


def _claim(header: Any) -> Colours:
    """What a file claims of its frames; raises TileLevelError where they are not JPEG of
    colours."""
    syntax = str(header.file_meta.get("TransferSyntaxUID", ""))
    claim = _CLAIMS.get(str(header.get("PhotometricInterpretation", "")))
    if syntax not in _JPEG or claim is None:
        raise TileLevelError(f"{header.get('PhotometricInterpretation')} frames of {syntax}")
    return claim


def _level(file: Path, header: Any, start: int, size: tuple[int, int]) -> TileLevel:
    claim = _claim(header)
    tile = (int(header.Columns), int(header.Rows))
    grid = (-(-size[0] // tile[0]), -(-size[1] // tile[1]))
    with file.open("rb") as stream:
        stream.seek(start)
        frames = _frames(stream)
    if len(frames) != int(header.NumberOfFrames):
        raise TileLevelError(f"{len(frames)} fragments of {header.NumberOfFrames} frames")
    places = _in_order(header, frames, tile, grid)
    offsets, counts = zip(*places, strict=True)
    claimed, right, _ = framings(claim, first_stream(file, offsets, counts))
    return TileLevel(size, tile, grid, offsets, counts, claimed, right, file)


def _in_order(
    header: Any, frames: list[tuple[int, int]], tile: tuple[int, int], grid: tuple[int, int]
) -> list[tuple[int, int]]:
    """The frames row by row; those that TILED_SPARSE leaves out are of no bytes.

    Raises TileLevelError where some are missing otherwise.
    """
    count = grid[0] * grid[1]
    places: dict[int, tuple[int, int]] = dict(enumerate(frames))
    if header.get("DimensionOrganizationType") != "TILED_FULL":
        groups = header.get("PerFrameFunctionalGroupsSequence") or ()
        places = {}
        for frame, group in zip(frames, groups, strict=False):
            x, y = _position(group)
            (column, across), (row, down) = divmod(x, tile[0]), divmod(y, tile[1])
            if across or down:
                raise TileLevelError("frames that lie on no grid")
            if not (0 <= column < grid[0] and 0 <= row < grid[1]):
                raise TileLevelError("frames beyond the level")
            places[row * grid[0] + column] = frame
    sparse = header.get("DimensionOrganizationType") == "TILED_SPARSE"
    if len(places) != len(frames) or len(frames) > count or (len(frames) < count and not sparse):
        raise TileLevelError(f"{len(frames)} frames for {count} places")
    return [places.get(index, _ABSENT) for index in range(count)]


def _frames(stream: BinaryIO, most: int = _MOST_FRAMES) -> list[tuple[int, int]]:
    """(first byte, bytes) of the fragments of encapsulated pixels, one a frame."""
    head = stream.read(12)
    if head[:4] != _PIXELS or head[4:6] not in (b"OB", b"UN") or _number(head[8:12]) != _UNKNOWN:
        raise TileLevelError("frames that are not encapsulated in explicit little endian")
    found: list[tuple[int, int]] = []
    table = True  # the first item lists offsets, or is empty
    while len(found) < most:
        item = stream.read(8)
        if item[:4] == _ENDS:
            break
        length = _number(item[4:8])
        if item[:4] != _ITEM or length == _UNKNOWN:
            raise TileLevelError("fragments that end too early")
        if not table:
            found.append((stream.tell(), length))
        table = False
        stream.seek(length, 1)
    return found


def _number(data: bytes) -> int:
    return int.from_bytes(data, "little")
