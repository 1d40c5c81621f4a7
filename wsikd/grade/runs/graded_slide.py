"""Open the slide of a result again, as it was graded."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from wsikd.core.errors import NoSlidesError
from wsikd.slides.base import FILLS_GAPS
from wsikd.slides.listing.manifest import open_entry

if TYPE_CHECKING:
    from wsikd.grade.runs.record import ResultRecord
    from wsikd.slides.base import Slide, SlideInfo
    from wsikd.slides.listing.manifest import SlideEntry

UNKNOWN = "results do not store paths; give the slides with -i to see them under the map"


def open_graded(
    name: str, record: ResultRecord, graded: SlideInfo, entry: SlideEntry | None
) -> Slide:
    """Open the slide that a result is of.

    Args:
        name: name of the result.
        record: its record.
        graded: the slide in its grade map.
        entry: the slide of this name; None if the user gave none.

    Raises:
        NoSlidesError: there is none, or it is another one.
        SlideError: it cannot be opened.
    """
    if entry is None:
        raise NoSlidesError(name, "only its map is shown", UNKNOWN)
    made_with = record.made_with
    mpp = next(iter(m if isinstance(m := made_with.get("slide_mpp"), list) else ()), None)
    if entry.mpp is None and isinstance(mpp, int | float):
        entry = replace(entry, mpp=float(mpp), mpp_source=FILLS_GAPS)
    series = record.series if isinstance(record.series, int) else None
    slide = open_entry(replace(entry, series=series))
    same = made_with.get("slide") in (None, slide.info.fingerprint)
    known = graded.mpp is not None and (graded.mpp.x, graded.mpp.y)
    if not same or slide.info.bounds != graded.bounds or (slide.mpp.x, slide.mpp.y) != known:
        slide.close()
        fault = "is not the slide that was graded, or has another mpp; only the map is shown"
        raise NoSlidesError(entry.path.name, fault, "give the slide that was graded with -i")
    return slide
