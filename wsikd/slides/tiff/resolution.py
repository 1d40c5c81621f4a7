"""What one series of a TIFF says of its resolution."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsikd.slides.mpp import Evidence, ome_pixels_claim, tag_claim
from wsikd.slides.mpp_text import description_mpp, description_power

if TYPE_CHECKING:
    from wsikd.slides.tiff.contents import TiffSeries

_INCH = 2


def evidence_of(series: TiffSeries, silent: str = "") -> Evidence:
    """Claims of a series, the most trusted first: its OME-XML, its description, its tags.

    Args:
        series: series of a TIFF of no known vendor, or of Aperio's.
        silent: why the file's OME-XML says nothing, if it has one.
    """
    tags = series.head.tags
    unit = tags.valueof("ResolutionUnit")
    found = [
        silent or None,
        ome_pixels_claim(series.ome.pixels) if series.ome else None,
        description_mpp(series.description),
        tag_claim(
            _ratio(tags.valueof("XResolution")),
            _ratio(tags.valueof("YResolution")),
            _INCH if unit is None else int(unit),
        ),
    ]
    return Evidence.of(found, description_power(series.description))


def _ratio(value: object) -> float | None:
    """A RATIONAL tag as a number; None where it is missing, or no number."""
    if isinstance(value, (int, float)):
        return float(value)
    match value:
        case (int(above), int(below)) if below:
            return above / below
    return None
