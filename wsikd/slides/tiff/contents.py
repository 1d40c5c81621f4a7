"""The images that a TIFF holds: which of them is the scan, and the directories of its levels.

A directory (IFD) of a TIFF is an image, a reduced copy of one, a label or a photograph of the
glass. Here they are grouped into series, so that pixels and metadata come from the same one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

import tifffile

from wsikd.core.errors import SlideError, one_line
from wsikd.slides.base import printable
from wsikd.slides.file_format import kind_of
from wsikd.slides.ome_xml import OmeImage, is_ome_xml, ome_images

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

SCAN = "scan"
_MOST_DIRECTORIES = 2000
_MACRO_SUBFILE = 9
_PAGE_NAME, _ORIENTATION = 285, 274
_LATER = (_PAGE_NAME, _ORIENTATION, 282, 283, 296)  # the last are those of the resolution
_UPRIGHT = 1
_RGB, _YCBCR = 2, 6
_KNOW_YCBCR = (6, 7, 33003, 33004, 33005, 34712)
_ALPHA = {1, 2}
_OTHER_ROLES = re.compile(r"\W*(label|macro|thumbnail)\b", re.IGNORECASE)
_LISTED = "give --series the number of a scan, as wsikd info lists them"
_DAMAGED = "the file is damaged; copy it again"


@dataclass(frozen=True)
class TiffSeries:
    """One image of a TIFF with its reduced copies.

    Attributes:
        number: its place in the file, from 0.
        role: "scan", "label", "macro" or "thumbnail"; only a scan is read unless asked for.
        levels: the directories of its levels, the largest first.
        description: its own ImageDescription; empty where that is OME-XML, which is ``ome``.
        ome: what the file's OME-XML says of it.
        whole: whether all its pixels lie in this file.
    """

    number: int
    role: str
    levels: tuple[tifffile.TiffPage, ...]
    description: str = ""
    ome: OmeImage | None = None
    name: str = ""
    whole: bool = True

    @property
    def head(self) -> tifffile.TiffPage:
        """The directory of its full size."""
        return self.levels[0]

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in px."""
        return _size(self.head)


@dataclass(frozen=True)
class TiffSurvey:
    """All series of a TIFF, and all its directories.

    ``silent`` says why its OME-XML was left out, where it was.
    """

    path: Path
    file_bytes: int
    ome: bool
    aperio: bool
    series: tuple[TiffSeries, ...]
    silent: str = ""
    pages: tuple[tifffile.TiffPage, ...] = ()

    def choose(self, number: int | None = None) -> TiffSeries:
        """The series to read: ``number``, by default the largest scan, the first of equals.

        Raises:
            SlideError: there is no such series, or it is a label, macro image or thumbnail.
        """
        scans = [one for one in self.series if one.role == SCAN] or self.series
        if number is None:
            return max(scans, key=lambda one: one.size[0] * one.size[1])
        found = self.series[checked(self.path, number, len(self.series))]
        if found not in scans:
            fault = f"series {number} is its {found.role}, not a scan"
            raise SlideError(printable(self.path.name), fault, _LISTED)
        return found


def checked(path: Path, number: int, count: int) -> int:
    """``number`` where a file of ``count`` series has it; raises SlideError."""
    if 0 <= number < count:
        return number
    has = "one series, 0" if count == 1 else f"series 0 to {count - 1}"
    raise SlideError(printable(path.name), f"no series {number}: it has {has}", _LISTED)


def survey(path: Path) -> TiffSurvey | None:
    """Group the directories of a TIFF; None where the file is not a TIFF.

    Raises:
        SlideError: its directories cannot be read.
    """
    if kind_of(path) != "tiff":
        return None
    try:
        with tifffile.TiffFile(path) as tiff:
            pages = _images(tiff.pages)
            aperio = bool(tiff.is_svs)
            xml = _text(pages[0]) if pages else ""
            series, silent = _grouped(pages, xml, path, aperio=aperio)
            size = tiff.filehandle.size
            return TiffSurvey(path, size, is_ome_xml(xml), aperio, series, silent, tuple(pages))
    except OSError:
        raise
    except Exception as error:  # a damaged directory breaks tifffile anywhere
        fault = f"its TIFF directories cannot be read ({type(error).__name__}: {error})"
        raise SlideError(printable(path.name), one_line(fault), _DAMAGED) from error


def check_upright(path: Path, series: TiffSeries) -> None:
    """Refuse a series that is stored turned or mirrored (tag Orientation); raises SlideError.

    Readers disagree: some turn strips but not tiles, most turn nothing, and annotations follow
    whichever viewer they were drawn in.
    """
    for page in series.levels:
        value = page.tags.valueof(_ORIENTATION)
        if value is not None and value != _UPRIGHT:
            fault = f"stored turned or mirrored (TIFF Orientation {value}, not 1)"
            remedy = "rewrite it upright, e.g. vips autorot, and draw annotations on that"
            raise SlideError(printable(path.name), fault, remedy)


def check_colours(path: Path, series: TiffSeries) -> None:
    """Refuse samples that decoders take for other colours; raises SlideError.

    What is YCbCr outside of JPEG is converted by some and not by others. A fourth sample counts as
    transparency only where the file says so. What is not RGB at all is for
    :mod:`wsikd.slides.checks.stated` to say.
    """
    for page in series.levels:
        fault = ""
        if page.photometric == _YCBCR and page.compression not in _KNOW_YCBCR:
            fault = "stored as YCbCr that is not JPEG"
        elif (
            page.photometric == _RGB
            and page.samplesperpixel == 4
            and not set(page.extrasamples) & _ALPHA
        ):
            fault = "has a fourth sample per pixel that is not marked as transparency"
        if fault:
            raise SlideError(printable(path.name), fault, "convert it to a pyramidal RGB TIFF")


def _images(pages: tifffile.TiffPages | None) -> list[tifffile.TiffPage]:
    found = [p for p in islice(pages or (), _MOST_DIRECTORIES) if isinstance(p, tifffile.TiffPage)]
    for page in found:
        for tag in _LATER:
            page.tags.valueof(tag)  # tifffile keeps what it read; later the file is closed
    return [p for p in found if min(_size(p)) > 0]


def _size(page: tifffile.TiffPage) -> tuple[int, int]:
    return (page.imagewidth, page.imagelength)


def _text(page: tifffile.TiffPage) -> str:
    return str(page.description or "")


def _grouped(
    pages: Sequence[tifffile.TiffPage], xml: str, path: Path, *, aperio: bool
) -> tuple[tuple[TiffSeries, ...], str]:
    """Series in the order of their first directories; why the OME-XML was left out."""
    silent = ""
    if is_ome_xml(xml):
        images = ome_images(xml, path.name)
        if not isinstance(images, str):
            return _numbered(_of_ome(pages, images)), ""
        silent = images
    return _numbered(_of_aperio(pages) if aperio else _of_plain(pages)), silent


def _numbered(found: Iterable[TiffSeries]) -> tuple[TiffSeries, ...]:
    return tuple(replace(one, number=number) for number, one in enumerate(found))


def _of_ome(pages: Sequence[tifffile.TiffPage], images: Sequence[OmeImage]) -> list[TiffSeries]:
    """A series for each Image of the OME-XML; directories that none names are levels or rest."""
    by_index = {page.index: page for page in pages}
    spans = [(one.ifd, one.ifd + one.planes) for one in images]
    rest = [p for p in pages if not any(start <= p.index < end for start, end in spans)]
    found = []
    for image in images:
        page = by_index.get(image.ifd)
        if page is None:
            continue
        levels = _levels(page, [*_sub_directories(page), *(p for p in rest if p.is_reduced)])
        role = _role(image.name, page)
        found.append(TiffSeries(0, role, levels, "", image, image.name, image.whole))
    used = {id(page) for one in found for page in one.levels}
    found += _of_plain([page for page in rest if id(page) not in used])
    return found


def _of_aperio(pages: Sequence[tifffile.TiffPage]) -> list[TiffSeries]:
    """Tiled directories are levels of one scan, strips its label, macro and thumbnail."""
    tiled = [page for page in pages if page.is_tiled]
    if not tiled:
        return _of_plain(pages)
    levels = _levels(max(tiled, key=lambda p: p.imagewidth * p.imagelength), tiled)
    found = [TiffSeries(0, SCAN, levels, _text(levels[0]))]
    for page in (p for p in pages if p not in levels):
        role = _role(_calls_itself(page), page)
        if role == SCAN and not page.is_tiled:
            role = "thumbnail"
        if role != SCAN or not any(_size(level) == _size(page) for level in levels):
            found.append(TiffSeries(0, role, (page,), _text(page), name=_page_name(page)))
    return found


def _of_plain(pages: Sequence[tifffile.TiffPage]) -> list[TiffSeries]:
    """A directory that is marked as reduced belongs to the image before it; others are images."""
    groups: list[tuple[str, list[tifffile.TiffPage]]] = []
    for page in pages:
        role = _role(_calls_itself(page), page)
        owner = next(
            (own for kind, own in reversed(groups) if kind == SCAN and _fits(own[0], page)), None
        )
        if page.is_reduced and role == SCAN:
            if owner is not None:
                owner.append(page)
                continue
            role = "thumbnail" if groups else SCAN
        groups.append((role, [page, *_sub_directories(page)]))
    return [
        TiffSeries(0, role, _levels(own[0], own[1:]), _text(own[0]), name=_page_name(own[0]))
        for role, own in groups
    ]


def _levels(
    head: tifffile.TiffPage, others: Iterable[tifffile.TiffPage]
) -> tuple[tifffile.TiffPage, ...]:
    """``head`` and those of the others that are reduced copies of it, one of each size."""
    found = {_size(head): head}
    for page in others:
        if _fits(head, page):
            found.setdefault(_size(page), page)
    return tuple(sorted(found.values(), key=lambda p: -p.imagewidth * p.imagelength))


def _fits(head: tifffile.TiffPage, page: tifffile.TiffPage) -> bool:
    """Whether a directory may be a reduced copy: smaller, of the same shape and samples."""
    (width, height), (w, h) = _size(head), _size(page)
    return (
        w <= width
        and h <= height
        and abs(w * height - h * width) <= width + height
        and page.samplesperpixel == head.samplesperpixel
        and page.bitspersample == head.bitspersample
    )


def _sub_directories(page: tifffile.TiffPage) -> list[tifffile.TiffPage]:
    return _images(page.pages) if page.subifds else []


def _role(name: str, page: tifffile.TiffPage) -> str:
    match = _OTHER_ROLES.match(name)
    if match:
        return match[1].lower()
    return "macro" if _is_macro(page) else SCAN


def _is_macro(page: tifffile.TiffPage) -> bool:
    return page.subfiletype == _MACRO_SUBFILE


def _page_name(page: tifffile.TiffPage) -> str:
    name = page.tags.valueof(_PAGE_NAME)
    return name.strip()[:80] if isinstance(name, str) else ""


def _calls_itself(page: tifffile.TiffPage) -> str:
    """Its PageName, else Aperio's second line, else the first of its description."""
    lines = [line.strip() for line in _text(page)[:400].splitlines() if line.strip()]
    aperio = len(lines) > 1 and lines[0].startswith("Aperio")
    return _page_name(page) or (lines[1 if aperio else 0] if lines else "")
