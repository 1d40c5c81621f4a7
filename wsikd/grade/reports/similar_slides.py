"""One HTML page on the slides similar to a slide, with the regions that match.

The page contains small pictures and opens without a server or a network.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import cv2
import numpy as np

from wsikd.core.about import RESEARCH_USE, __version__
from wsikd.core.errors import SlideError, WsikdError
from wsikd.core.output.markers import REPORT
from wsikd.core.run import write_text_atomic
from wsikd.grade.reports.thumbnail import view
from wsikd.slides.html_page import data_uri, templates
from wsikd.slides.listing.manifest import open_entry

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from wsikd.slides.base import Slide
    from wsikd.slides.listing.manifest import SlideEntry

logger = logging.getLogger(__name__)
PICTURE_PX = 160
_QUALITY = 82


@dataclass(frozen=True)
class Region:
    """A region near a prototype of its slide.

    Attributes:
        slide: name of the slide.
        xy: upper left corner, level-0 (x, y).
        size_px: level-0 (width, height); NaN if unknown.
        closeness: cosine similarity to the prototype.
    """

    slide: str
    xy: tuple[float, float]
    size_px: tuple[float, float]
    closeness: float


@dataclass(frozen=True)
class Pair:
    """Numbers of two matched prototypes, their cosine, and the regions nearest to each."""

    own: int
    other: int
    cosine: float
    own_regions: Sequence[Region]
    other_regions: Sequence[Region]


@dataclass(frozen=True)
class Match:
    """A slide similar to the query: its pairs of prototypes and their mean cosine."""

    slide: str
    similarity: float
    pairs: Sequence[Pair]


@dataclass(frozen=True)
class SimilarPage:
    """All data of the page; ``facts`` are lines about the table of prototypes."""

    slide: str
    matches: Sequence[Match]
    facts: Mapping[str, str] = field(default_factory=dict)


def write_similar(
    page: SimilarPage, path: Path, entries: Sequence[SlideEntry] = ()
) -> list[tuple[str, WsikdError]]:
    """Write the page.

    Args:
        page: its content.
        path: the HTML file.
        entries: the slides, matched by name; regions of other slides are shown as coordinates.

    Returns:
        Slides that could not be read, each with the reason; their regions have no pictures.

    Raises:
        OutputError: the file cannot be written.
    """
    pictures = Pictures(entries)
    wanted: dict[Region, None] = {}
    for match in page.matches:
        for pair in match.pairs:
            wanted.update(dict.fromkeys((*pair.own_regions, *pair.other_regions)))
    cut = pictures.cut(list(wanted))
    missing = sorted({region.slide for region in wanted} - pictures.known)
    template = templates("wsikd.grade.reports").get_template("similar.html.j2")
    html = template.render(
        page=page, cut=cut, missing=missing, given=bool(entries), failed=pictures.failed,
        picture_px=PICTURE_PX, version=__version__, research_use=RESEARCH_USE,
    )  # fmt: skip
    write_text_atomic(path, html, REPORT)
    return list(pictures.failed.items())


class Pictures:
    """Small pictures of regions, cut from the slides that are available.

    Attributes:
        known: names of the available slides.
        failed: slides that could not be read, with the reason.
    """

    def __init__(self, entries: Sequence[SlideEntry]) -> None:
        """Take the slides; each is opened when it is needed, one at a time."""
        self._entries = {entry.name: entry for entry in entries}
        self.known = frozenset(self._entries)
        self.failed: dict[str, WsikdError] = {}

    def cut(self, regions: Sequence[Region]) -> dict[Region, str]:
        """Region -> JPEG of at most ``PICTURE_PX`` as a data URI, if its slide can be read."""
        found: dict[Region, str] = {}
        for name in dict.fromkeys(region.slide for region in regions):
            if name not in self._entries:
                continue
            try:
                with open_entry(self._entries[name]) as slide:
                    for region in regions:
                        if region.slide == name:
                            found[region] = _picture(slide, region)
            except WsikdError as error:
                logger.debug("%s", name, exc_info=True)
                self.failed[name] = error
        return found


def _picture(slide: Slide, region: Region) -> str:
    box = (*region.xy, *region.size_px)
    if not np.isfinite(box).all():
        raise SlideError(
            slide.info.file, "its regions' size is not known", "make them with wsikd embed"
        )
    rgb = view(slide, box, PICTURE_PX).rgb
    done, encoded = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    assert done
    return data_uri(encoded.tobytes(), "image/jpeg")
