"""The report of a teacher and a student on slides of known truth: one HTML file, and Markdown.

The HTML file contains its pictures and opens without a server or a network.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from wsikd.core.about import NOT_ASSESSED, RESEARCH_USE, __version__
from wsikd.core.run import aside, write_text_atomic
from wsikd.grade.bench.report import agreement_text, plot, stage_rows
from wsikd.grade.exports.overlay import paint
from wsikd.grade.gleason import grade_slide
from wsikd.grade.gleason_rules import Rules
from wsikd.grade.reports.class_colours import class_colour
from wsikd.grade.reports.thumbnail import view
from wsikd.grade.summary import class_areas
from wsikd.slides.html_page import data_uri, templates

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from wsikd.grade.grademap import GradeMap
    from wsikd.grade.reports.compare_drawn import Score
    from wsikd.slides.base import Slide

PICTURE_PX = 420


@dataclass(frozen=True)
class SlideRow:
    """Three maps of one slide, with pictures and readings."""

    name: str
    pictures: dict[str, NDArray[np.uint8]]
    readings: dict[str, str]


@dataclass(frozen=True)
class Report:
    """All data of the report.

    ``scores``: teacher or student -> its score. ``colour_kappa``: kappa of a logistic regression on
    a field's colour histograms, the baseline for the networks. ``commands``: the commands that
    reproduce the report. ``looks``: how often the slides were compared with the truth, as a
    sentence without its stop.
    """

    slides: Sequence[SlideRow]
    scores: dict[str, Score]
    colour_kappa: float
    bench: dict[str, Any]
    commands: Sequence[str]
    looks: str
    facts: dict[str, str]


def slide_row(slide: Slide, maps: dict[str, GradeMap], readings: dict[str, str]) -> SlideRow:
    """Paint the maps of a slide side by side, all on the same view of it.

    Args:
        slide: the open slide.
        maps: title -> map; the first is the truth. Its Gleason score (biopsy rule; every drawn
            region counts) is added to the readings.
        readings: title of each other map -> the text under it.
    """
    seen = view(slide, tuple(map(float, slide.info.bounds)), PICTURE_PX)  # type: ignore[arg-type]
    pictures = {"tissue": seen.rgb}
    pictures |= {title: paint(m, seen, alpha=0.55) for title, m in maps.items()}
    title, truth = next(iter(maps.items()))
    reading = grade_slide(class_areas(truth).tolist(), truth.classes, Rules())
    drawn = reading.text if reading else "no cancer"
    return SlideRow(slide.info.name, pictures, {title: drawn, **readings})


def only_where(grade_map: GradeMap, other: GradeMap) -> GradeMap:
    """A map whose valid cells are those that are also valid in another one."""
    valid = grade_map.valid_hw & other.valid_hw
    probability = np.where(valid[None], grade_map.probability_khw, np.nan)
    return replace(grade_map, valid_hw=valid, probability_khw=probability.astype(np.float32))


def write_report(report: Report, folder: Path) -> tuple[Path, Path]:
    """Write ``report.html`` and ``report.md`` (its pictures in ``report_files/``).

    Raises:
        OutputError: the folder cannot be written.
    """
    files = folder / "report_files"
    files.mkdir(parents=True, exist_ok=True)
    with aside(files / "times.png", keep_suffix=True) as part:
        plot(report.bench, part)
    environment = templates("wsikd.grade.reports")
    content = {
        "report": report,
        "version": __version__,
        "research_use": RESEARCH_USE,
        "not_assessed": NOT_ASSESSED,
        "classes": legend(next(iter(report.scores.values())).classes),
        "times": stage_rows(report.bench),
        "speed_up": report.bench["speed_up"]["wall"]["median"],
        "agreement": agreement_text(report.bench),
        "heat": _heat,
    }
    for row in report.slides:
        for title, picture in row.pictures.items():
            name = f"{row.name}-{title.split()[0]}.png"
            with aside(files / name) as part:
                part.write_bytes(_png(picture))
    embedded = {"times": data_uri((files / "times.png").read_bytes())}
    html = environment.get_template("report.html.j2").render(
        **content, picture=lambda p: data_uri(_png(p)), embedded=embedded
    )
    markdown = environment.get_template("report.md.j2").render(**content)
    write_text_atomic(folder / "report.html", html)
    write_text_atomic(folder / "report.md", markdown)
    return folder / "report.html", folder / "report.md"


def legend(classes: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of class and CSS colour."""
    return [
        (name, "#{:02x}{:02x}{:02x}".format(*class_colour(name, index)))
        for index, name in enumerate(classes)
    ]


def _heat(count: int, total: int) -> str:
    """Background colour of a cell of a confusion table, by its share of the row."""
    share = count / total if total else 0.0
    return f"rgba(68, 119, 170, {0.75 * share:.2f})"


def _png(picture: NDArray[np.uint8]) -> bytes:
    done, encoded = cv2.imencode(".png", picture[..., ::-1])
    assert done
    return encoded.tobytes()
