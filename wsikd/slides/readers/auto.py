"""Which reader opens a slide: OpenSlide first, the direct path where it fits, else others."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from wsikd.core.errors import MissingMppError, SlideError
from wsikd.core.registry import resolve
from wsikd.slides.base import printable
from wsikd.slides.file_format import kind_of
from wsikd.slides.readers.openslide import DICOM, OTHER_IMAGE, UNKNOWN, OpenSlideReader
from wsikd.slides.tiff.contents import survey

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

    from wsikd.slides.base import Slide

_DIRECT = {"direct": "wsikd.slides.readers.direct_tiff:direct"}
_LEFT_TO_OTHERS = (UNKNOWN, OTHER_IMAGE, "Unsupported TIFF compression")


def auto(path: Path, **options: Any) -> Slide:
    """Open a slide with whatever shows its pixels, the fastest first.

    OpenSlide, and the direct reader where it shows the same pixels; tifffile and TIAToolbox for
    kinds of file that OpenSlide does not know, and for a TIFF where OpenSlide shows another image
    than the one to be read, or only some of its levels.

    Args:
        path: a slide.
        options: options of :func:`wsikd.slides.base.open_slide`.

    Raises:
        SlideError: no reader can open it. Reported by the closest match.
    """
    if path.is_dir() and kind_of(path) is not None:
        return _foreign(path, "OpenSlide reads no OME-Zarr", options)
    try:
        slide = OpenSlideReader(path, **options)
    except MissingMppError:
        raise
    except SlideError as error:
        note = _left_to_others(path, error)
        if note is None:
            raise
        return _foreign(path, note, options)
    if slide.info.vendor == "generic-tiff" and _hides_levels(slide):
        slide.close()
        note = "OpenSlide does not see the lower levels of this TIFF"
        return _foreign(path, note, options)
    return _direct(slide)


def direct(path: Path, **options: Any) -> Slide:
    """Open a slide with the direct reader alone.

    Raises:
        SlideError: it does not fit this slide; the message says why.
    """
    slide = _direct(OpenSlideReader(path, **options))
    if isinstance(slide, OpenSlideReader):
        slide.close()
        raise SlideError(
            printable(path.name), slide.info.reader_note, "open it with --reader auto or openslide"
        )
    return slide


def _foreign(path: Path, note: str, options: Mapping[str, Any]) -> Slide:
    """Open a slide with the reader for other kinds, which is imported when it is needed."""
    from wsikd.slides.readers.tiatoolbox import ForeignReader

    return ForeignReader(path, note=note, **options)


def _left_to_others(path: Path, error: SlideError) -> str | None:
    """Why another reader is tried after OpenSlide; None where its error is the last word."""
    if kind_of(path) is None or not any(fault in error.fault for fault in _LEFT_TO_OTHERS):
        return None
    if error.fault != UNKNOWN:
        return error.fault
    found = survey(path)  # an Aperio slide that OpenSlide does not know is a damaged one
    return None if found and found.aperio else "OpenSlide does not support its format"


def _hides_levels(slide: OpenSlideReader) -> bool:
    """Whether OpenSlide sees fewer levels of a TIFF than the file has, as in SubIFDs."""
    return bool(slide.series and len(slide.series.levels) > len(slide.info.level_dimensions))


def _direct(slide: OpenSlideReader) -> Slide:
    """The slide's direct reader, or the slide with a note why not."""
    wrong_dicom = slide.info.vendor == DICOM and slide.info.doubt is not None
    if kind_of(slide.path) != "tiff" and not wrong_dicom:
        slide.info = replace(slide.info, reader_note="not read directly: it is not a TIFF")
        return slide
    return resolve(_DIRECT, "direct", kind="readers")(slide)  # type: ignore[no-any-return]
