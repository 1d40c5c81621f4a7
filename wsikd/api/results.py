"""``wsikd.infer``: slides become a folder of results."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsikd.api.grademap import GradeMap
from wsikd.api.many import Many, One, failures_of, names_of
from wsikd.api.student import ReadOptions, Student
from wsikd.core.about import NOT_ASSESSED
from wsikd.core.errors import ConfigError
from wsikd.core.output.batch import Batch
from wsikd.core.registry import nearest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Unpack

    from wsikd.core.errors import WsikdError


class Results(Mapping[str, dict[str, Any]]):
    """A folder of graded slides: slide name -> its row of ``summary.csv``.

    Attributes:
        path: the folder.
        failures: slide name -> its error.
        summary: how many were graded and how many were already there.

    Examples:
        >>> import wsikd
        >>> results = wsikd.infer(["s.svs"], "runs/student", "out")
        >>> results["s"]["fields"]
        12
        >>> results.review
        {}
        >>> results.grades("s").classes
        ('NC', 'G3', 'G4', 'G5')
    """

    def __init__(
        self,
        path: Path,
        rows: Mapping[str, dict[str, Any]],
        failures: Mapping[str, WsikdError],
        summary: str,
    ) -> None:
        """Use :func:`infer`."""
        self.path, self._rows = path, dict(rows)
        self.failures, self.summary = dict(failures), summary

    @property
    def review(self) -> dict[str, str]:
        """Slides that need a second look, and why, e.g. "grade group 1 to 4"."""
        return {name: why for name, row in self._rows.items() if (why := row.get("review"))}

    def __fspath__(self) -> str:
        return str(self.path)

    def __getitem__(self, name: str) -> dict[str, Any]:
        return self._rows[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def grades(self, name: str, *, slide: str | Path | None = None) -> GradeMap:
        """The grade map of a slide, where "zarr" is among the formats.

        Args:
            name: the slide's.
            slide: its file, for pictures; results keep no paths.

        Raises:
            StoreNotFoundError: there is no such map.
        """
        return GradeMap.load(self.path / name, slide=slide)

    def __repr__(self) -> str:
        failed = f", {len(self.failures)} failed" if self.failures else ""
        review = f", {len(self.review)} to review" if self.review else ""
        return f"Results('{self.path}', {self.summary}{failed}{review})"

    def _repr_html_(self) -> str:
        from wsikd.grade.score_text import score_text
        from wsikd.slides.html import table

        shown = ("fields", "score", "review", "tissue_mm2", "mean_uncertainty")
        scored = {name: row | {"score": score_text(row)} for name, row in self._rows.items()}
        columns = [c for c in shown if any(row.get(c) not in (None, "") for row in scored.values())]
        rows: list[list[object]] = [
            [name, *(_short(row.get(c)) for c in columns), ""] for name, row in scored.items()
        ]
        rows += [[name, *("" for _ in columns), error] for name, error in self.failures.items()]
        note = NOT_ASSESSED if "score" in columns else ""
        return table(repr(self), ["slide", *columns, "failure"], rows, note)


def infer(
    slides: One | Many,
    student: One | Student,
    out: One,
    *,
    formats: Sequence[str] | str = ("zarr", "csv", "uncertain", "geojson", "jpeg"),
    specimen: str = "biopsy",
    min_area_mm2: float | None = None,
    min_pattern: float | None = None,
    sensitivity: float = 0.95,
    minor_4: str = "secondary",
    minor_5: str = "secondary",
    teacher: One | None = None,
    budget: float | None = None,
    agreement: float | None = None,
    slide_mpp: float | None = None,
    threads: int | None = None,
    jobs: int = 0,
    overwrite: bool = False,
    **options: Unpack[ReadOptions],
) -> Results:
    """Grade slides into a folder of results, as ``wsikd infer`` does.

    A finished slide is skipped; results with other settings are refused. A slide that fails
    does not stop the others, and is listed in ``failures.csv``.

    Args:
        slides: a slide, folder, glob or CSV manifest, or a list of them.
        student: a student, or its run folder or bundle.
        out: folder for one folder a slide, and ``summary.csv``.
        formats: what is written of each slide, as :meth:`GradeMap.save` takes it.
        specimen: rule for the Gleason score, "biopsy" or "prostatectomy".
        min_area_mm2: least area of cancer in mm2, all patterns together; default the student's
            thresholds.
        min_pattern: least share of the cancer for a pattern to count; default the student's.
        sensitivity: share of slides with cancer that the student's thresholds must find.
        minor_4: "secondary" or "minor", see :class:`wsikd.grade.gleason_rules.Rules`.
        minor_5: the same of a pattern 5.
        teacher: reads again the fields that the student is unsure of; its run folder or bundle.
        budget: with ``teacher``: share of a slide's fields to read again at most, 0 to 1.
        agreement: with ``teacher``: share of fields that must have the teacher's class, 0 to 1.
        slide_mpp: um per level-0 pixel, for slides without a resolution in manifest and file.
        threads: reading threads; default one a core.
        jobs: slides at a time, each in a process of its own; see :func:`wsikd.tile`.
        overwrite: grade again, replacing what is there.
        options: see :class:`wsikd.api.student.ReadOptions`.

    Returns:
        Rows by slide, and the failures.

    Raises:
        WsikdError: nothing can be graded: the student, a setting, the inputs or ``out``.

    Examples:
        >>> import wsikd
        >>> results = wsikd.infer(["s.svs"], "runs/student", "out")
        >>> results.failures
        {}
        >>> sorted(results)
        ['s']
    """
    from wsikd.api.student import load_student
    from wsikd.grade.predict import PredictSettings
    from wsikd.grade.runs.folder import Inputs, Running, Wanted, formats_of, grade_slides
    from wsikd.grade.runs.jobs import Escalation, Grading
    from wsikd.grade.student_rules import Asked
    from wsikd.slides.listing.inputs import check_slides
    from wsikd.slides.listing.sidecar import tissue_method
    from wsikd.slides.threads import use_threads

    own = student if isinstance(student, Student) else load_student(student)
    for name in options:
        if name not in ReadOptions.__annotations__:
            raise ConfigError(name, "is not an option", nearest(name, ReadOptions.__annotations__))
    limits = {k: v for k, v in (("budget", budget), ("agreement", agreement)) if v is not None}
    if limits and teacher is None:
        raise ConfigError(", ".join(limits), "goes with a teacher", "give teacher=RUN")
    inputs = names_of(slides)
    written = [formats] if isinstance(formats, str) else formats
    tissue = options.get("tissue", "otsu")
    how = Running(jobs, use_threads(threads, jobs), 10.0)
    reading: dict[str, Any] = {"exact": False, **options, "tissue": tissue_method(tissue)}
    settings = PredictSettings(
        workers=how.threads, engine=own.engine, precision=own.precision, **reading
    )
    asked = None if teacher is None else Escalation(_checked_teacher(teacher, own), **limits)
    check_slides(inputs, "wsikd.infer")
    batch = Batch(Path(out))
    rules = Asked(specimen, min_area_mm2, min_pattern, sensitivity, minor_4, minor_5)
    done = grade_slides(
        Inputs(slides=inputs, tissue=tissue, slide_mpp=slide_mpp),
        Grading(own.path, own.device, settings, asked),
        Wanted(formats_of(written, "formats"), rules, overwrite),
        how,
        Path(out),
        batch,
    )
    batch.keep_failures(logging.WARNING)
    return Results(Path(out), done.rows, failures_of(batch), done.summary)


def _checked_teacher(path: One, student: Student) -> Path:
    """The teacher's folder. Raises ConfigError where the two are swapped."""
    from wsikd.models.files.peek import check_pair, peek_grader

    right = f"give the student {path} and the teacher {student.path}"
    check_pair(peek_grader(Path(path), "teacher"), peek_grader(student.path, "student"), right)
    return Path(path)


def _short(value: object) -> object:
    return f"{value:.3g}" if isinstance(value, float) else "" if value is None else value
