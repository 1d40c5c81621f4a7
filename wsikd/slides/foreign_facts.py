"""What files that OpenSlide does not know say of themselves, read without TIAToolbox.

Reading the headers first also finds a broken file in milliseconds, before the seconds that
importing TIAToolbox takes.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
import tifffile

from wsikd.core.errors import SlideError, one_line
from wsikd.slides.base import printable
from wsikd.slides.jpeg_check import largest_series
from wsikd.slides.kinds import zarr_attributes
from wsikd.slides.mpp import (
    Evidence,
    aperio_claim,
    aperio_power,
    jp2_claim,
    ngff_claim,
    ome_claim,
    tag_claim,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from wsikd.slides.kinds import Kind

_DAMAGED = "the file is damaged; copy it again"
_MAX_XML = 1 << 24
_INCH = 2


@dataclass(frozen=True)
class Facts:
    """What a file's headers say: its vendor, its resolution, whether it has a colour profile.

    ``whole_image`` tells that its pixels are of no use in parts (a TIFF in strips), ``size`` its
    (width, height) where known.
    """

    vendor: str
    evidence: Evidence
    icc_profile: bool = False
    whole_image: bool = False
    size: tuple[int, int] | None = None


def read_facts(path: Path, kind: Kind) -> Facts:
    """Read the headers of a file of this kind.

    Raises:
        SlideError: the headers are damaged, the file is cut short, or its pixels are of a kind that
            nobody here decodes.
    """
    try:
        if kind == "tiff":
            return _tiff(path)
        return _jp2(path) if kind == "jp2" else _ome_zarr(path)
    except SlideError:
        raise
    except Exception as error:  # a damaged header breaks a parser anywhere
        fault = f"its headers cannot be read ({type(error).__name__}: {error})"
        raise SlideError(printable(path.name), one_line(fault), _DAMAGED) from error


def has_hidden_levels(path: Path) -> bool:
    """Whether a TIFF is an OME-TIFF that keeps its lower levels in SubIFDs."""
    try:
        with tifffile.TiffFile(path) as tiff:
            return bool(tiff.is_ome and tiff.pages.first.subifds)
    except Exception:  # noqa: BLE001 - whoever opened the file finds its faults
        return False


def is_aperio(path: Path) -> bool:
    """Whether a TIFF says that it is an Aperio slide."""
    try:
        with tifffile.TiffFile(path) as tiff:
            return bool(tiff.is_svs)
    except Exception:  # noqa: BLE001 - whoever opens the file finds its faults
        return False


def _tiff(path: Path) -> Facts:
    with tifffile.TiffFile(path) as tiff:
        if not tiff.series:
            raise SlideError(printable(path.name), "holds no image", _DAMAGED)
        series = largest_series(tiff)
        page = series.keyframe
        _check_decodable(path, page)
        _check_rgb(path, series)
        for level in series.levels:
            _check_whole(path, level)
        description = str(tiff.pages.first.description or "")
        tags = page.tags
        unit = tags.valueof("ResolutionUnit")
        found = [
            ome_claim(description),
            aperio_claim(description),
            tag_claim(
                _ratio(tags.valueof("XResolution")),
                _ratio(tags.valueof("YResolution")),
                _INCH if unit is None else int(unit),
            ),
        ]
        tiled = tiff.is_svs or tiff.is_ome or tiff.is_bigtiff or page.is_tiled
        return Facts(
            vendor="aperio" if tiff.is_svs else "ome-tiff" if tiff.is_ome else "tiff",
            evidence=Evidence.of(found, aperio_power(description)),
            icc_profile="InterColorProfile" in tags,
            whole_image=not tiled,
            size=(page.imagewidth, page.imagelength),
        )


def _check_decodable(path: Path, page: tifffile.TiffPage) -> None:
    if page.compression not in tifffile.TIFF.DECOMPRESSORS:
        raise SlideError(
            printable(path.name),
            f"TIFF compression {int(page.compression)} is unknown",
            "convert it to a pyramidal TIFF with JPEG tiles",
        )


def _check_rgb(path: Path, series: tifffile.TiffPageSeries) -> None:
    """Refuse other pixels here: TIAToolbox would squeeze some of them into 8-bit RGB."""
    sizes = zip(series.axes, series.shape, strict=True)
    channels = math.prod(size for axis, size in sizes if axis in "SC")
    if series.dtype != np.uint8 or channels not in (3, 4):
        raise not_rgb(path, series.dtype, channels)


def not_rgb(path: Path, dtype: np.dtype[Any], channels: int) -> SlideError:
    """The error of a file whose pixels are not 8-bit RGB."""
    fault = f"its pixels are {dtype} of {channels} channel(s)"
    return SlideError(printable(path.name), fault, "wsikd reads 8-bit RGB: convert it")


def _check_whole(path: Path, level: tifffile.TiffPageSeries) -> None:
    """Refuse a TIFF whose pixels reach beyond its end: decoders would fill up in silence."""
    size = path.stat().st_size
    for page in level.pages:
        if page is None:
            continue
        ends = (a + b for a, b in zip(page.dataoffsets, page.databytecounts, strict=True))
        end = max(ends, default=0)
        if end > size:
            fault = f"cut short: its pixels reach to byte {end}, and the file has {size}"
            raise SlideError(printable(path.name), fault, "copy it again")


def _ratio(value: tuple[int, int] | None) -> float | None:
    return value[0] / value[1] if value and value[1] else None


def _jp2(path: Path) -> Facts:
    """Boxes of a JP2 file: ITU-T T.800, annex I."""
    x = y = None
    vendor, description, icc, size = "jp2", "", False, None
    for name, start, end in _boxes(path, 0, path.stat().st_size):
        if name == b"ihdr":
            height, width = struct.unpack(">II", _read(path, start, start + 8))
            size = (width, height)
        elif name == b"colr":
            icc = icc or _read(path, start, start + 1) == b"\x02"
        elif name == b"resc":
            yn, yd, xn, xd, ye, xe = struct.unpack(">HHHHbb", _read(path, start, end))
            x, y = xn / xd * 10.0**xe, yn / yd * 10.0**ye
        elif name == b"xml ":
            root = ElementTree.fromstring(_read(path, start, min(end, start + _MAX_XML)))
            description = " ".join(text for text in root.itertext())
            vendor = "omnyx" if "omnyx" in description.lower() else vendor
    if size is None:
        raise SlideError(printable(path.name), "a JP2 file without image header", _DAMAGED)
    found = [aperio_claim(description), jp2_claim(x, y)]
    return Facts(vendor, Evidence.of(found, aperio_power(description)), icc, size=size)


def _boxes(path: Path, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, first byte and end of each box, those within others too."""
    while start + 8 <= end:
        length, name = struct.unpack(">I4s", _read(path, start, start + 8))
        body = start + 8
        if length == 1:
            (length,) = struct.unpack(">Q", _read(path, body, body + 8))
            body += 8
        stop = end if length == 0 else start + length
        if stop < body or stop > end:
            fault = f"cut short: a box reaches to byte {stop}, and the file has {end}"
            raise SlideError(printable(path.name), fault, "copy it again")
        if name in (b"jp2h", b"res "):
            yield from _boxes(path, body, stop)
        else:
            yield name, body, stop
        start = stop


def _read(path: Path, start: int, end: int) -> bytes:
    with path.open("rb") as stream:
        stream.seek(start)
        return stream.read(end - start)


def _ome_zarr(path: Path) -> Facts:
    attributes = zarr_attributes(path)
    multiscale = attributes["multiscales"][0]
    return Facts("ome-zarr", Evidence.of([ngff_claim(multiscale)]))
