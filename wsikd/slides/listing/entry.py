"""A slide to process, with the entries of its manifest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wsikd.slides.base import FILLS_GAPS

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class SlideEntry:
    """One slide to process, with the entries of its manifest.

    ``name`` is unique within a run and safe as a file name: the file's stem, see
    :func:`wsikd.core.output.names.safe_name`, with six digits of its place's hash where two slides
    share a stem. ``mpp`` counts as ``mpp_source`` has it, see :func:`wsikd.slides.base.open_slide`,
    ``reader`` is an entry of its ``READERS``, ``series`` the image of the file to read, by default
    its largest scan, and ``accept_grey`` reads what is not brightfield. ``copies`` are other paths
    that were given and are the same slide.
    """

    path: Path
    name: str
    mpp: float | None = None
    mpp_source: str = FILLS_GAPS
    label: str | None = None
    patient: str | None = None
    split: str | None = None
    annotation: Path | None = None
    mask: Path | None = None
    reader: str = "auto"
    series: int | None = None
    accept_grey: bool = False
    copies: tuple[Path, ...] = ()
