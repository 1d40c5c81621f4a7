"""One slide on the page of a folder of results."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from markupsafe import Markup

from wsikd.core.errors import WsikdError
from wsikd.grade.corrections import read_review, review_text
from wsikd.grade.exports import MAP_FILE, find_overlay
from wsikd.grade.exports.ome_zarr import read_alone
from wsikd.grade.exports.overlay import slide_size
from wsikd.grade.reports.demo_report import legend
from wsikd.grade.reports.svg_map import svg_map
from wsikd.grade.reports.thumbnail import view
from wsikd.grade.review import reasons
from wsikd.grade.runs.graded_slide import open_graded
from wsikd.grade.score_text import score_sentence, score_text
from wsikd.slides.html_page import data_uri

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from PIL import Image

    from wsikd.grade.grademap import GradeMap
    from wsikd.grade.review import Reason
    from wsikd.grade.runs.record import ResultRecord
    from wsikd.slides.listing.manifest import SlideEntry

log = logging.getLogger(__name__)

THUMBNAIL_PX = 320
PLAIN_PX = 640
"""Longest side of the picture without a map."""
_QUALITY = 80
_LARGEST_PX = 100_000_000
_SHOWN = frozenset(
    ("slide", "seconds", "primary", "secondary", "minor", "gleason_score", "isup_grade_group")
    + ("fields", "tissue_mm2", "note", "student", "specimen", "min_area_mm2", "intervals")
    + ("mpp", "temperature", "isup_low", "isup_high", "grade_status", "cancer_mm2")
    + ("cancer_least_mm2", "pattern_4_of_cancer", "pattern_5_of_cancer", "rules", "min_pattern")
    + ("cores", "worst_core", "worst_core_score", "worst_core_grade_group", "unlike_training")
    + ("cancer_expected", "cancer_expected_low", "cancer_expected_high", "patient", "review")
)


@dataclass(frozen=True)
class Card:
    """Content of the page about one slide.

    Attributes:
        name: name of the slide and its folder.
        sentence: the score, or why there is none.
        reasons: why a person must review it.
        review: what a reviewer has said of it, and the reviewer's note on the slide.
        cores: number, score in words and tissue in mm2 of each core.
        picture: data URI of a small overlay.
        link: link to the whole overlay.
        plain: data URI of a picture of the slide; None if the slide was not given.
        drawn: the map as SVG for print; None without a map.
        summary: the slide's row of ``summary.csv``.
        shares: name, colour, share, mm2 and interval in per cent of each class.
        cancer: share of the tissue expected to be cancer, in words.
        details: other columns of the row.
        stages: seconds of each stage.
        settings: settings that the result was made with.
        facts: facts about the run that made it.
    """

    name: str
    sentence: str
    reasons: Sequence[Reason]
    review: tuple[str, str]
    cores: Sequence[tuple[int, str, float]]
    picture: str | None
    link: str | None
    plain: str | None
    drawn: Markup | None
    summary: Mapping[str, Any]
    shares: Sequence[tuple[str, str, float, float, str]]
    cancer: str
    details: Sequence[tuple[str, str]]
    stages: Sequence[tuple[str, float]]
    settings: Mapping[str, Any] = field(repr=False)
    facts: Mapping[str, Any] = field(repr=False)


def slide_card(
    folder: Path, record: ResultRecord, key: str = "map", entry: SlideEntry | None = None
) -> Card:
    """Make a slide's card.

    Args:
        folder: folder of the slide's result.
        record: its ``result.json``.
        key: prefix of ids on the page.
        entry: the slide, to show it without its map too.
    """
    summary = record.summary | {
        k: number_of(record.summary.get(k)) for k in ("tissue_mm2", "seconds")
    }
    shares = _shares(summary)
    ends = ("_share", "_mm2", "_share_low", "_share_high")
    taken = {f"{name}{end}" for name, *_ in shares for end in ends} | _SHOWN
    left = {k: v for k, v in summary.items() if k not in taken and v not in (None, "")}
    overlay = find_overlay(folder)
    grade_map = _map(folder)
    plain = _plain(folder.name, record, grade_map, entry) if grade_map and entry else None
    drawn = svg_map(grade_map, key, plain) if grade_map else None
    return Card(
        name=folder.name,
        sentence=score_sentence(summary),
        reasons=reasons(summary),
        review=_review(folder, record),
        cores=_cores(record),
        picture=_thumbnail(overlay) if overlay else None,
        link=f"./{quote(folder.name)}/{overlay.name}" if overlay else None,
        plain=plain,
        drawn=Markup(drawn) if drawn else None,
        summary=summary,
        shares=shares,
        cancer=_cancer(summary),
        details=[(k.replace("_", " "), value_text(v)) for k, v in left.items()],
        stages=[(k, number_of(v)) for k, v in record.seconds.items()],
        settings=record.made_with,
        facts={k: v for k in ("wsikd", "created", "mpp_source") if (v := getattr(record, k))},
    )


def _map(folder: Path) -> GradeMap | None:
    """The grade map of a result; None if it has none, or a damaged one."""
    try:
        return read_alone(folder / MAP_FILE)
    except WsikdError:
        return None


def _plain(name: str, record: ResultRecord, grade_map: GradeMap, entry: SlideEntry) -> str | None:
    """The slide's bounds as a JPEG data URI; None, with a warning, if it cannot be read."""
    from PIL import Image

    try:
        with open_graded(name, record, grade_map.slide, entry) as slide:
            seen = view(slide, slide.info.bounds, PLAIN_PX)
    except WsikdError as error:
        log.warning("%s", error)
        return None
    return _jpeg(Image.fromarray(seen.rgb))


def _review(folder: Path, record: ResultRecord) -> tuple[str, str]:
    try:
        found = read_review(folder.parent, folder.name, record.fingerprint or "")
    except WsikdError as error:
        return f"{error}.", ""
    return review_text(found), found.note


def _shares(summary: Mapping[str, Any]) -> list[tuple[str, str, float, float, str]]:
    names = [k.removesuffix("_share") for k in summary if k.endswith("_share")]
    return [
        (
            name,
            colour,
            number_of(summary.get(f"{name}_share")),
            number_of(summary.get(f"{name}_mm2")),
            _interval(summary.get(f"{name}_share_low"), summary.get(f"{name}_share_high")),
        )
        for name, colour in legend(names)
    ]


def _cores(record: ResultRecord) -> list[tuple[int, str, float]]:
    found = record.cores if isinstance(record.cores, list) else []
    if len(found) < 2 or not all(isinstance(c, dict) and "gleason_score" in c for c in found):
        return []
    return [(c["core"], score_text(c), number_of(c.get("tissue_mm2"))) for c in found]


def _cancer(summary: Mapping[str, Any]) -> str:
    share = summary.get("cancer_expected")
    if not isinstance(share, int | float):
        return ""
    ends = _interval(summary.get("cancer_expected_low"), summary.get("cancer_expected_high"))
    return f"{100 * share:.1f} % of the tissue" + (f" ({ends} %)" if ends else "")


def number_of(value: Any) -> float:
    """A number of a record, 0 for anything else."""
    return float(value) if isinstance(value, int | float) else 0.0


def _interval(low: Any, high: Any) -> str:
    """Both limits in per cent; empty if there is no interval."""
    if isinstance(low, int | float) and isinstance(high, int | float):
        return f"{100 * low:.1f} to {100 * high:.1f}"
    return ""


def value_text(value: Any) -> str:
    """A value of a record in words.

    >>> value_text([0.25, 0.5]), value_text(True), value_text({"a": 1.0})
    ('0.25 to 0.5', 'yes', 'a 1')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return (" to " if len(value) == 2 else ", ").join(map(value_text, value))
    if isinstance(value, dict):
        return ", ".join(f"{k} {value_text(v)}" for k, v in value.items())
    return str(value)


def _thumbnail(overlay: Path) -> str | None:
    """The overlay as a JPEG data URI of at most ``THUMBNAIL_PX``; None if it cannot be read.

    The legend is cut off if the file says where the slide's picture ends.
    """
    from PIL import Image

    try:
        with Image.open(overlay) as opened:
            if opened.width * opened.height > _LARGEST_PX:
                return None
            size = slide_size(opened)
            picture = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    if size is not None:
        picture = picture.crop((0, 0, *size))
    picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    return _jpeg(picture)


def _jpeg(picture: Image.Image) -> str:
    stream = BytesIO()
    picture.save(stream, "JPEG", quality=_QUALITY)
    return data_uri(stream.getvalue(), "image/jpeg")
