"""Which images a slide file holds, and which of them is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsikd.core.errors import one_line
from wsikd.slides.base import Series, printable
from wsikd.slides.readers.openslide import FLAT, associated_images
from wsikd.slides.tiff.contents import SCAN, TiffSeries, TiffSurvey, survey
from wsikd.slides.tiff.resolution import evidence_of

if TYPE_CHECKING:
    from wsikd.slides.base import Slide

_BY_OPENSLIDE = ("openslide", "direct")


def list_series(slide: Slide) -> tuple[Series, ...]:
    """All images of an open slide's file, in the order in which ``--series`` counts them.

    What OpenSlide composes of several directories counts as one scan, 0; the label, macro image
    and thumbnail that it finds beside it follow.
    """
    info = slide.info
    by_openslide = info.reader in _BY_OPENSLIDE
    found = survey(slide.path) if not by_openslide or info.vendor in FLAT else None
    if found is not None:
        return tuple(_of_tiff(one, found, read=info.series) for one in found.series)
    mpp = (info.mpp.x, info.mpp.y) if info.mpp else None
    beside = associated_images(slide.path) if by_openslide else {}
    return (
        Series(0, info.name, SCAN, info.dimensions, mpp, read=True),
        *(
            Series(number, name, name, size, None, read=False)
            for number, (name, size) in enumerate(beside.items(), 1)
        ),
    )


def _of_tiff(one: TiffSeries, found: TiffSurvey, *, read: int) -> Series:
    # The description of a thumbnail repeats the resolution of the scan.
    claims = evidence_of(one, found.silent).claims if one.role == SCAN else ()
    mpp = (claims[0].x, claims[0].y) if claims else None
    name = printable(one_line(one.name))
    return Series(one.number, name, one.role, one.size, mpp, read=one.number == read)
