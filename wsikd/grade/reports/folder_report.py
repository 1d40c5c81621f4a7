"""One HTML page on a folder of results of ``wsikd infer``.

The page contains small pictures and opens without a server or a network.
"""

from __future__ import annotations

from collections import Counter
from itertools import count
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from wsikd.core.about import NOT_ASSESSED, RESEARCH_USE, __version__
from wsikd.core.errors import NoSlidesError
from wsikd.core.output.failures import read_failures
from wsikd.core.output.files import check_file
from wsikd.core.output.markers import REPORT
from wsikd.core.run import write_text_atomic
from wsikd.grade.reports.demo_report import legend
from wsikd.grade.reports.slide_card import slide_card, value_text
from wsikd.grade.reports.svg_map import hatches, swatch
from wsikd.grade.runs.cases import find_cases
from wsikd.grade.runs.record import named_records, student_called, student_card
from wsikd.grade.runs.slide_looks import looks_at
from wsikd.grade.score_text import score_text
from wsikd.slides.html_page import templates

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from wsikd.grade.reports.slide_card import Card
    from wsikd.grade.runs.record import ResultRecord
    from wsikd.slides.listing.manifest import SlideEntry

PAGE = "report.html"


def write_results_report(out: Path, entries: Sequence[SlideEntry] = ()) -> tuple[Path, int, int]:
    """Write ``report.html`` into a folder of results.

    Args:
        out: folder of ``wsikd infer``.
        entries: the graded slides, by name, to show them without their maps too.

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
    known = {entry.name: entry for entry in entries}
    cards = [
        slide_card(folder, record, f"map-{number}", known.get(folder.name))
        for number, (folder, record) in zip(count(), records, strict=False)
    ]
    names = list(dict.fromkeys(n for c in cards for n, *_ in c.shares))
    students = [_student(out, digest) for digest in _students(cards)]
    html = (
        templates("wsikd.grade.reports")
        .get_template("results.html.j2")
        .render(
            name=out.resolve().name,
            cards=cards,
            cases=_cases([record for _, record in records]),
            review=sorted((c for c in cards if c.reasons), key=lambda c: not c.reasons[0].grave),
            notes=Counter(str(n) for c in cards if (n := c.summary.get("intervals"))),
            failures=failures,
            groups=sorted(
                {g for c in cards if (g := c.summary.get("isup_grade_group")) is not None}
            ),
            classes=[
                (name, colour, Markup(swatch(name, index)))
                for index, (name, colour) in enumerate(legend(names))
            ],
            hatches=Markup(hatches(names)),
            students=students,
            called={student["digest"]: student["called"] for student in students},
            looks=looks_at((r.fingerprint for _, r in records if r.fingerprint), out),
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


def _cases(records: Sequence[ResultRecord]) -> list[dict[str, Any]]:
    return [case | {"score": score_text(case)} for case in find_cases(records, {})]


def _students(cards: Sequence[Card]) -> list[str]:
    return sorted({str(c.summary["student"]) for c in cards if c.summary.get("student")})


def _student(out: Path, digest: str) -> dict[str, Any]:
    """A student's digest, what it is called, and its card if ``wsikd infer`` wrote one."""
    return {
        "digest": digest,
        "called": student_called(out, digest),
        "card": student_card(out, digest),
    }


def _stages(cards: Sequence[Card]) -> list[tuple[str, float, float]]:
    """(stage, seconds over all slides, share of the total) of each stage."""
    spent: Counter[str] = Counter()
    for card in cards:
        spent.update(dict(card.stages))
    total = sum(spent.values()) or 1.0
    return [(name, seconds, seconds / total) for name, seconds in spent.items()]


def _settings(cards: Sequence[Card]) -> list[tuple[str, list[str]]]:
    """Each setting and the values it had, without settings of single slides."""
    own = ("slide", "slide_mpp", "mask")
    found = (k for c in cards for k, v in c.settings.items() if v is not None)
    names = [k for k in dict.fromkeys(found) if k not in own]
    return [
        (name, sorted({value_text(c.settings[name]) for c in cards if name in c.settings}))
        for name in names
    ]


def _common(cards: Sequence[Card]) -> dict[str, list[str]]:
    return {
        name: sorted({str(c.facts[name]) for c in cards if name in c.facts})
        for name in ("wsikd", "mpp_source")
    }
