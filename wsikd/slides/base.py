"""The interface of slides: pixels with a scale, for every file format.

Words are OpenSlide's: a *level* is one stored resolution, its *downsample* its size relative to
level 0, a *location* is level-0 (x, y). Sizes are (width, height); arrays are (height, width, 3).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from wsikd.core.registry import resolve
from wsikd.slides.checks.doubt import Doubt, refusal

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    import numpy as np
    from numpy.typing import NDArray

READERS: dict[str, str] = {
    "auto": "wsikd.slides.readers.auto:auto",
    "openslide": "wsikd.slides.readers.openslide:OpenSlideReader",
    "direct": "wsikd.slides.readers.auto:direct",
    "tiatoolbox": "wsikd.slides.readers.tiatoolbox:ForeignReader",
}
MARKS = ("accept_grey", "colours_corrected")
"""What stores, bags and results record of a slide only where it is true: older ones lack it."""
FILLS_GAPS = "--slide-mpp"
"""Source of a resolution that counts only where the slide's file says nothing plausible."""


@dataclass(frozen=True)
class Mpp:
    """Size of a level-0 pixel in micrometres, and where that number was found."""

    x: float
    y: float
    source: str


@dataclass(frozen=True)
class Series:
    """One image of a slide file, as ``info`` lists it.

    ``role`` is "scan", "label", "macro" or "thumbnail"; ``size`` is (width, height) in px of its
    largest level; ``mpp`` um per pixel on x and y, if it is known; ``read`` marks the one in use.
    """

    number: int
    name: str
    role: str
    size: tuple[int, int]
    mpp: tuple[float, float] | None
    read: bool


@dataclass(frozen=True)
class SlideInfo:
    """Description of a slide for its results; no label image, no patient data.

    ``dimensions`` are level-0 (width, height); ``bounds`` is the scanned box as level-0
    (x, y, width, height): viewers such as QuPath crop to it; ``mpp`` may be absent;
    ``reader_note`` says why ``reader`` was chosen; ``icc_profile`` whether the file holds a colour
    profile, which no reader applies; ``series`` which of the file's images is read; ``doubt`` is
    what its metadata say against brightfield RGB, and ``accept_grey`` that the user means to read
    it nevertheless; ``colours_corrected`` that its JPEG data have other colours than the file
    claims, and are decoded as what they are.
    """

    name: str
    file: str
    fingerprint: str
    vendor: str
    reader: str
    dimensions: tuple[int, int]
    level_dimensions: tuple[tuple[int, int], ...]
    level_downsamples: tuple[tuple[float, float], ...]
    mpp: Mpp | None
    objective_power: float | None
    bounds: tuple[int, int, int, int]
    background: tuple[int, int, int]
    reader_note: str = ""
    icc_profile: bool = False
    series: int = 0
    doubt: Doubt | None = None
    accept_grey: bool = False
    colours_corrected: bool = False

    @property
    def marks(self) -> dict[str, bool]:
        """Those of ``MARKS`` that are true of it."""
        return {mark: True for mark in MARKS if getattr(self, mark)}


@runtime_checkable
class Slide(Protocol):
    """A slide that is open for reading. Safe to share between threads, not between processes."""

    path: Path
    info: SlideInfo

    @property
    def mpp(self) -> Mpp:
        """Resolution of level 0; raises MissingMppError rather than guess one."""

    def read_level(
        self, level: int, location: tuple[int, int], size: tuple[int, int]
    ) -> NDArray[np.uint8]:
        """Pixels of one level on its own grid: uint8 (height, width, 3).

        ``location`` is (x, y) and ``size`` (width, height), both in pixels of ``level``. What lies
        outside the level, or was never scanned, is the slide's background colour.
        Raises RegionReadError where the file is damaged.
        """

    def close(self) -> None:
        """Release the file."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def printable(text: str | Path) -> str:
    r"""A file name as it can be written anywhere: bytes that are not UTF-8 read ``\xNN``."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def open_slide(
    path: str | Path,
    *,
    slide_mpp: float | None = None,
    mpp_source: str = "slide_mpp",
    reader: str = "auto",
    name: str | None = None,
    series: int | None = None,
    accept_grey: bool = False,
) -> Slide:
    """Open a slide.

    Args:
        path: a slide file, or a folder that holds one DICOM slide or one OME-Zarr image.
        slide_mpp: um per level-0 pixel, which overrides what the file says (with a warning where
            they differ by more than 2 %).
        mpp_source: where ``slide_mpp`` came from, for the record. With ``FILLS_GAPS``, as the
            commands pass it for --slide-mpp, ``slide_mpp`` counts only where the file says nothing
            plausible.
        reader: an entry of ``READERS``. "auto" takes OpenSlide, the direct reader where it shows
            the same pixels faster, and tifffile or TIAToolbox for what OpenSlide does not know.
        name: identifier used in results; default the file's stem.
        series: which image of the file, from 0 as ``wsikd info`` lists them; default the largest
            scan. Resolution and other metadata are those of the same image.
        accept_grey: read a slide that is grey, dark or fluorescent as if it were brightfield.

    Raises:
        NotBrightfieldError: its metadata say that it is not brightfield RGB.
        SlideError: the file is missing, is not a slide, is damaged, or has no such series.
        MissingMppError: ``slide_mpp`` is implausible.
    """
    slide: Slide = resolve(READERS, reader, kind="readers")(
        Path(path), slide_mpp=slide_mpp, mpp_source=mpp_source, name=name, series=series
    )
    doubt = slide.info.doubt
    if doubt is not None and (doubt.final or not accept_grey):
        slide.close()
        raise refusal(slide.info.file, doubt)
    if accept_grey:
        slide.info = replace(slide.info, accept_grey=True)
    return slide
