"""One HTML page of a folder of results, as ``wsikd infer`` writes it.

The page carries small pictures in itself and opens without a server or a network.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from wsikd.core.about import NOT_ASSESSED, RESEARCH_USE, __version__
from wsikd.core.errors import NoSlidesError
from wsikd.core.output.failures import read_failures
from wsikd.core.output.files import check_file
from wsikd.core.output.markers import REPORT
from wsikd.core.run import write_text_atomic
from wsikd.grade.exports import OVERLAY_FILE
from wsikd.grade.exports.png import PICTURE_KEY
from wsikd.grade.reports.demo_report import data_uri, legend, templates
from wsikd.grade.runs.cases import find_cases
from wsikd.grade.runs.record import named_records, student_card
from wsikd.grade.score_text import score_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from wsikd.grade.runs.record import ResultRecord

PAGE = "report.html"
THUMBNAIL_PX = 320
_QUALITY = 80
_LARGEST_PX = 100_000_000
_PLAIN = frozenset(
    ("slide", "seconds", "primary", "secondary", "minor", "gleason_score", "isup_grade_group")
    + ("fields", "tissue_mm2", "mean_uncertainty", "note", "student", "specimen", "min_area_mm2")
    + ("mpp", "temperature", "isup_low", "isup_high", "grade_status", "cancer_mm2")
    + ("cancer_least_mm2", "pattern_4_of_cancer", "pattern_5_of_cancer", "rules", "min_pattern")
    + ("cores", "worst_core", "worst_core_score", "worst_core_grade_group")
)
_FLAGS = ("flag", "warning", "unlike", "ood")


@dataclass(frozen=True)
class Card:
    """One slide, as the page shows it.

    ``more`` are columns of the summary that have no place of their own; ``settings`` what it was
    made with.
    """

    name: str
    score: str
    cores: Sequence[tuple[int, str, float]]
    picture: str | None
    link: str | None
    summary: Mapping[str, Any]
    shares: Sequence[tuple[str, str, float, float, str]]
    more: Sequence[tuple[str, str]]
    flags: Sequence[str]
    stages: Sequence[tuple[str, float]]
    settings: Mapping[str, Any] = field(repr=False)
    facts: Mapping[str, Any] = field(repr=False)


def write_results_report(out: Path) -> tuple[Path, int, int]:
    """Write ``report.html`` into a folder of results.

    Args:
        out: folder of ``wsikd infer``.

    Returns:
        The page, the number of slides on it, and of failures.

    Raises:
        NoSlidesError: there is neither a result nor a failure.
        OutputError: the page cannot be written.
    """
    check_file(out / PAGE, REPORT)
    records = list(named_records(out))
    failures = read_failures(out)
    if not records and not failures:
        raise NoSlidesError(out, "holds no results", "give the -o of wsikd infer")
    cards = [_card(folder, record) for folder, record in records]
    students = [_student(out, digest) for digest in _students(cards)]
    html = (
        templates()
        .get_template("results.html.j2")
        .render(
            name=out.resolve().name,
            cards=cards,
            cases=_cases([record for _, record in records]),
            failures=failures,
            groups=sorted(
                {g for c in cards if (g := c.summary.get("isup_grade_group")) is not None}
            ),
            classes=legend(list(dict.fromkeys(n for c in cards for n, *_ in c.shares))),
            students=students,
            stages=_stages(cards),
            settings=_settings(cards),
            common=_common(cards),
            version=__version__,
            research_use=RESEARCH_USE,
            not_assessed=NOT_ASSESSED,
        )
    )
    write_text_atomic(out / PAGE, html, REPORT)
    return out / PAGE, len(cards), len(failures)


def _card(folder: Path, record: ResultRecord) -> Card:
    summary = record.summary | {
        k: _number(record.summary.get(k)) for k in ("tissue_mm2", "seconds")
    }
    names = [k.removesuffix("_share") for k in summary if k.endswith("_share")]
    colours = dict(legend(names))
    shares = [
        (
            n,
            colours[n],
            _number(summary.get(f"{n}_share")),
            _number(summary.get(f"{n}_mm2")),
            _interval(summary.get(f"{n}_share_low"), summary.get(f"{n}_share_high")),
        )
        for n in names
    ]
    ends = ("_share", "_mm2", "_share_low", "_share_high")
    taken = {f"{n}{end}" for n in names for end in ends} | _PLAIN
    left = {k: v for k, v in summary.items() if k not in taken and v not in (None, "")}
    flags = [_flag(k, v) for k, v in left.items() if _is_flag(k) and v]
    overlay = folder / OVERLAY_FILE
    return Card(
        name=folder.name,
        score=score_text(summary),
        cores=_cores(record),
        picture=_thumbnail(overlay),
        link=f"./{quote(folder.name)}/{OVERLAY_FILE}" if overlay.is_file() else None,
        summary=summary,
        shares=shares,
        more=[(k.replace("_", " "), _told(v)) for k, v in left.items() if not _is_flag(k)],
        flags=flags,
        stages=[(k, _number(v)) for k, v in record.seconds.items()],
        settings=record.made_with,
        facts={k: v for k in ("wsikd", "created", "mpp_source") if (v := getattr(record, k))},
    )


def _cases(records: Sequence[ResultRecord]) -> list[dict[str, Any]]:
    return [case | {"score": score_text(case)} for case in find_cases(records, {})]


def _cores(record: ResultRecord) -> list[tuple[int, str, float]]:
    """Number, score in words and tissue in mm2 of each core, where there are several."""
    found = record.cores if isinstance(record.cores, list) else []
    if len(found) < 2 or not all(isinstance(c, dict) and "gleason_score" in c for c in found):
        return []
    return [(c["core"], score_text(c), _number(c.get("tissue_mm2"))) for c in found]


def _is_flag(column: str) -> bool:
    return any(word in column.casefold() for word in _FLAGS)


def _flag(column: str, value: Any) -> str:
    return column.replace("_", " ") if value is True else f"{column.replace('_', ' ')}: {value}"


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _interval(low: Any, high: Any) -> str:
    """Both ends in per cent; empty where there is no interval."""
    if isinstance(low, int | float) and isinstance(high, int | float):
        return f"{100 * low:.1f} to {100 * high:.1f}"
    return ""


def _told(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return (
            " to ".join(_told(v) for v in value)
            if len(value) == 2
            else ", ".join(map(_told, value))
        )
    if isinstance(value, dict):
        return ", ".join(f"{k} {_told(v)}" for k, v in value.items())
    return str(value)


def _thumbnail(overlay: Path) -> str | None:
    """A JPEG of at most ``THUMBNAIL_PX`` as a data URI, cut to the slide where that is known."""
    from PIL import Image

    try:
        with Image.open(overlay) as opened:
            if opened.width * opened.height > _LARGEST_PX:
                return None
            size = opened.info.get(PICTURE_KEY, "")
            picture = opened.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    sides = [int(v) for v in size.split("x") if v.isdecimal()]
    if len(sides) == 2:
        picture = picture.crop((0, 0, sides[0], sides[1]))
    picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    stream = BytesIO()
    picture.save(stream, "JPEG", quality=_QUALITY)
    return data_uri(stream.getvalue(), "image/jpeg")


def _students(cards: Sequence[Card]) -> list[str]:
    return sorted({str(c.summary["student"]) for c in cards if c.summary.get("student")})


def _student(out: Path, digest: str) -> dict[str, Any]:
    """A student's card as ``wsikd infer`` left it beside the results, digest alone without one."""
    return {"digest": digest, "card": student_card(out, digest)}


def _stages(cards: Sequence[Card]) -> list[tuple[str, float, float]]:
    """Stage, seconds over all slides, and their share."""
    spent: Counter[str] = Counter()
    for card in cards:
        spent.update(dict(card.stages))
    total = sum(spent.values()) or 1.0
    return [(name, seconds, seconds / total) for name, seconds in spent.items()]


def _settings(cards: Sequence[Card]) -> list[tuple[str, list[str]]]:
    """Each setting and the values it had, leaving out what belongs to single slides."""
    own = ("slide", "slide_mpp", "mask")
    told = (k for c in cards for k, v in c.settings.items() if v is not None)
    names = [k for k in dict.fromkeys(told) if k not in own]
    return [
        (name, sorted({_told(c.settings[name]) for c in cards if name in c.settings}))
        for name in names
    ]


def _common(cards: Sequence[Card]) -> dict[str, list[str]]:
    return {
        name: sorted({str(c.facts[name]) for c in cards if name in c.facts})
        for name in ("wsikd", "mpp_source")
    }
