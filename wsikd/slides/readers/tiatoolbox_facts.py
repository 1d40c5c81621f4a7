"""What files that OpenSlide does not know say of themselves, read without TIAToolbox.

Reading the headers first also finds a broken file in milliseconds, before the seconds that
importing TIAToolbox takes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import tifffile

from wsikd.core.errors import SlideError, one_line
from wsikd.slides.base import printable
from wsikd.slides.checks.doubt import refusal
from wsikd.slides.checks.stated import doubt_of_planes, doubt_of_tiff
from wsikd.slides.file_format import zarr_attributes
from wsikd.slides.mpp import Evidence, jp2_claim, ngff_claim
from wsikd.slides.mpp_text import description_mpp, description_power
from wsikd.slides.tiff.contents import check_colours, check_upright, checked, survey
from wsikd.slides.tiff.resolution import evidence_of
from wsikd.slides.tiff.tile_tables import check_tables

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from wsikd.slides.checks.doubt import Doubt
    from wsikd.slides.file_format import Kind
    from wsikd.slides.tiff.contents import TiffSeries, TiffSurvey

_DAMAGED = "the file is damaged; copy it again"
_MAX_XML = 1 << 24
_APERIO_YCBCR = 33003
_MOST_PX_PER_BYTE = 2000
"""Greatest number of pixels per byte of JPEG 2000; blank glass has a tenth of it."""


@dataclass(frozen=True)
class Facts:
    """What a file's headers say: its vendor, its resolution, whether it has a colour profile.

    ``series`` is the image of a TIFF that is read, ``default`` whether it is the one that is read
    unless another is asked for; ``doubt`` is what the headers say against brightfield RGB.
    """

    vendor: str
    evidence: Evidence
    icc_profile: bool = False
    series: TiffSeries | None = None
    default: bool = True
    doubt: Doubt | None = None


def read_facts(path: Path, kind: Kind, series: int | None = None) -> Facts:
    """Read the headers of a file of this kind, of a TIFF those of one of its series.

    Raises:
        SlideError: the headers are damaged, the file is cut short, or its pixels are of a kind that
            nobody here decodes.
    """
    try:
        if kind == "tiff":
            return _tiff(path, series)
        checked(path, series or 0, 1)
        return _jp2(path) if kind == "jp2" else _ome_zarr(path)
    except SlideError:
        raise
    except Exception as error:  # a damaged header breaks a parser anywhere
        fault = f"its headers cannot be read ({type(error).__name__}: {error})"
        raise SlideError(printable(path.name), one_line(fault), _DAMAGED) from error


def _tiff(path: Path, number: int | None) -> Facts:
    found = survey(path)
    if found is None or not found.series:
        raise SlideError(printable(path.name), "holds no image", _DAMAGED)
    series = found.choose(number)
    check_upright(path, series)
    check_colours(path, series)
    _check_whole(path, found, series)
    page = series.head
    _check_decodable(path, page)
    doubt = doubt_of_tiff(found, series)
    if doubt is not None and doubt.final:
        raise refusal(printable(path.name), doubt)
    return Facts(
        vendor="aperio" if found.aperio else "ome-tiff" if found.ome else "tiff",
        evidence=evidence_of(series, found.silent),
        icc_profile="InterColorProfile" in page.tags,
        series=series,
        default=series is found.choose(),
        doubt=doubt,
    )


def _check_decodable(path: Path, page: tifffile.TiffPage) -> None:
    if page.compression == _APERIO_YCBCR:
        fault = "JPEG 2000 in YCbCr (33003), whose colours OpenSlide alone converts"
        raise SlideError(printable(path.name), fault, "open it with --reader openslide")
    if page.compression not in tifffile.TIFF.DECOMPRESSORS:
        raise SlideError(
            printable(path.name),
            f"TIFF compression {int(page.compression)} is unknown",
            "convert it to a pyramidal TIFF with JPEG tiles",
        )


def _check_whole(path: Path, found: TiffSurvey, series: TiffSeries) -> None:
    """Refuse a TIFF whose pixels reach beyond its end, or lie in other files."""
    if not series.whole:
        fault = f"pixels of series {series.number} lie in other files of a split OME-TIFF"
        raise SlideError(printable(path.name), fault, "write it as one file")
    check_tables(path, found.file_bytes, series.levels)


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
    if size[0] * size[1] > _MOST_PX_PER_BYTE * path.stat().st_size:
        fault = f"claims {size[0]} x {size[1]} px, too many for the size of the file"
        raise SlideError(printable(path.name), fault, _DAMAGED)
    found = [description_mpp(description), jp2_claim(x, y)]
    return Facts(vendor, Evidence.of(found, description_power(description)), icc)


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
            fault = f"truncated: a box reaches to byte {stop}, and the file has {end}"
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
    omero = attributes.get("omero")
    channels = omero.get("channels", []) if isinstance(omero, dict) else []
    names = [str(one.get("label", "")) for one in channels if isinstance(one, dict)]
    doubt = doubt_of_planes("uint8", names)
    if doubt is not None:
        raise refusal(printable(path.name), doubt)
    return Facts("ome-zarr", Evidence.of([ngff_claim(multiscale)]))
