"""Tile tables of the TIFFs whose directories OpenSlide composes to levels by a vendor's rules.

Leica SCN, Philips, Ventana BIF and Trestle keep ordinary tables, which are checked one by one. Only
in Philips' files do a level's tiles lie where the TIFF says; so only there is it known which parts
of a slide have none, and whether lower levels lack what level 0 has. A directory of NDPI is one
JPEG stream, whose place and restart markers have a form of their own: no more is checked of it
than that its length, by the 32 bits that every file has, does not exceed the file's.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from wsikd.core.errors import SlideError
from wsikd.slides.base import printable
from wsikd.slides.tiff.absent_tiles import AbsentTiles, Stored
from wsikd.slides.tiff.tile_tables import check_lower, stored_tiles

if TYPE_CHECKING:
    from collections.abc import Sequence

    import tifffile

    from wsikd.slides.tiff.contents import TiffSurvey

_PHILIPS, _NDPI, _BIF = "philips", "hamamatsu", "ventana"
_COMPOSED = (_PHILIPS, _BIF, "leica", "trestle")
_STRIP_BYTES = 279
_LOW_BITS = 0xFFFF_FFFF


def check_vendor(
    found: TiffSurvey, vendor: str | None, sizes: Sequence[tuple[int, int]]
) -> AbsentTiles:
    """Refuse tables that cannot hold the pixels that they claim; say where no tiles are.

    Args:
        found: the directories of the file.
        vendor: vendor in OpenSlide's spelling; files of vendors not named above are left alone.
        sizes: (width, height) in px of the levels that OpenSlide shows.

    Raises:
        SlideError: as :func:`wsikd.slides.tiff.tile_tables.check_tables`.
    """
    if vendor == _NDPI:
        _check_strips(found)
    if vendor not in _COMPOSED:
        return AbsentTiles(())
    pages = [page for page in found.pages if page.is_tiled and _is_level(page, vendor)]
    stored = [
        stored_tiles(found.path, f"directory {page.index}", page, found.file_bytes)
        for page in pages
    ]
    if vendor != _PHILIPS or len(pages) != len(sizes):
        return AbsentTiles(())
    levels = _cropped(pages, stored, sizes)
    check_lower(found.path, levels)
    return AbsentTiles(levels)


def _is_level(page: tifffile.TiffPage, vendor: str) -> bool:
    """Whether OpenSlide takes a tiled directory for a level; BIF has tiled masks beside them."""
    return vendor != _BIF or "level=" in str(page.description or "")[:200]


def _cropped(
    pages: Sequence[tifffile.TiffPage],
    stored: Sequence[Stored | None],
    sizes: Sequence[tuple[int, int]],
) -> list[Stored | None]:
    """Tiles of the levels, the largest first, without the padding to whole tiles."""
    order = sorted(range(len(pages)), key=lambda n: -pages[n].imagewidth * pages[n].imagelength)
    found = zip([stored[n] for n in order], sizes, strict=True)
    return [one and replace(one, size=size) for one, size in found]


def _check_strips(found: TiffSurvey) -> None:
    for page in found.pages:
        tag = page.tags.get(_STRIP_BYTES)
        if tag is None or tag.count != 1:
            continue
        (value,) = tag.value if isinstance(tag.value, tuple) else (tag.value,)
        claimed = int(value) & _LOW_BITS
        if claimed > found.file_bytes:
            fault = f"directory {page.index} claims a strip of {claimed} bytes"
            fault += f", and the file has {found.file_bytes}"
            raise SlideError(printable(found.path.name), fault, "copy it again")
