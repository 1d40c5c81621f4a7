"""Grades many slides into one folder: loads networks, chooses an engine, grades slide by slide.

Slides are graded in worker processes, which may die, or in this process.
"""

from __future__ import annotations

import logging
from collections import deque
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from wsikd.core.about import NOT_ASSESSED
from wsikd.core.errors import BundleError, ConfigError
from wsikd.core.registry import check_known, known_names
from wsikd.core.workers.process import Task, WorkerPool, run_here
from wsikd.core.workers.terminable import terminable
from wsikd.grade.domain_shift import trained_on
from wsikd.grade.exports import ALL, DEFAULT, EXPORTERS, find_exporter
from wsikd.grade.guard_verdict import guard_note
from wsikd.grade.review import review_line, reviewed
from wsikd.grade.runs.jobs import InferJob, infer_job, load_job, settle_job
from wsikd.grade.runs.results import (
    ResultSettings,
    keep_card,
    results_made,
)
from wsikd.grade.runs.summary_file import Summary, check_summary
from wsikd.grade.score_text import score_text
from wsikd.grade.student_rules import Asked, rules_for
from wsikd.slides.listing.inputs import existing, own_tissue
from wsikd.slides.listing.manifest import find_slides
from wsikd.slides.listing.once import settle_names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from wsikd.core.output.batch import Batch
    from wsikd.core.workers.process import Outcome
    from wsikd.grade.runs.jobs import Grading, Loaded
    from wsikd.grade.runs.resume_engine import Settled
    from wsikd.slides.listing.entry import SlideEntry

    Run = Callable[[Iterable[Task], Callable[[Task, tuple[Any, ...]], None] | None],
                   Iterator[Outcome]]  # fmt: skip

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Running:
    """Where and how slides are graded; nothing here changes a result."""

    jobs: int
    threads: int
    stall_min: float


@dataclass(frozen=True)
class Wanted:
    """What to write for a slide. Missing ``rules`` are taken from the student's card.

    ``grade_anyway`` also grades slides that the student's guard would withhold.
    """

    formats: tuple[str, ...] = DEFAULT
    rules: Asked = field(default_factory=Asked)
    overwrite: bool = False
    grade_anyway: bool = False


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The slides to grade, in the arguments of :func:`find_slides`.

    ``tissue`` is an entry of ``MASKERS``, a mask, or a folder of masks.
    """

    slides: Sequence[str]
    tissue: str = "otsu"
    slide_mpp: float | None = None
    reader: str = "auto"
    series: int | None = None
    accept_grey: bool = False

    def find(self, batch: Batch) -> list[SlideEntry]:
        """Find the slides; a missing slide, or one without its mask, is a failure of the batch.

        Raises:
            NoSlidesError, ConfigError: as :func:`find_slides`.
        """
        entries = find_slides(
            self.slides,
            slide_mpp=self.slide_mpp,
            reader=self.reader,
            series=self.series,
            accept_grey=self.accept_grey,
        )
        return own_tissue(self.tissue, existing(entries, batch), batch)


@dataclass(frozen=True, kw_only=True)
class Arrived(Inputs):
    """Slides that were found before."""

    entries: tuple[SlideEntry, ...] = ()

    def find(self, batch: Batch) -> list[SlideEntry]:
        """The given slides, those that are still there."""
        return own_tissue(self.tissue, existing(list(self.entries), batch), batch)


class Watch(Protocol):
    """Receives the progress of the slides."""

    def report(self, task: Task, values: tuple[Any, ...]) -> None:
        """Receive (fields done, fields in all) of a slide."""

    def end(self) -> None:
        """The current slide is done."""

    def note(self, line: str) -> None:
        """Receive a line on how the slides are graded."""

    def graded(self, name: str, row: Mapping[str, Any], *, made: bool, took_s: float) -> None:
        """Receive the row of a slide that is done; ``made``: by this run."""


class Unwatched:
    """Ignores progress and logs the lines."""

    def report(self, task: Task, values: tuple[Any, ...]) -> None:
        """Do nothing."""

    def end(self) -> None:
        """Do nothing."""

    def note(self, line: str) -> None:
        """Log a line on how the slides are graded."""
        log.info("%s", line)

    def graded(self, name: str, row: Mapping[str, Any], *, made: bool, took_s: float) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class Graded:
    """A finished run: the last line of its report, each slide's row, and a note.

    The note says which slides need a second look, and what is not assessed.
    """

    summary: str
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    note: str = ""


def formats_of(values: Iterable[str], option: str = "--format") -> tuple[str, ...]:
    """Parse names of formats; returns them in the order of ``EXPORTERS``.

    Args:
        values: names, or comma-separated lists of names.
        option: name of the option in messages.

    Raises:
        ConfigError: one is unknown or cannot be imported, or none is named.
    """
    asked = [name.strip() for value in values for name in value.split(",") if name.strip()]
    known = known_names(EXPORTERS, "exporters", asked or None)
    if not asked:
        raise ConfigError(option, "is empty", f"give some of {', '.join(known)}")
    for name in sorted({*asked} - {ALL}):
        check_known(EXPORTERS, name, kind="exporters")
    for name in known:
        if name not in EXPORTERS and (name in asked or ALL in asked):
            find_exporter(name)  # imports it, so that an error of its package is reported once
    return tuple(name for name in (*known, ALL) if name in asked)


def grade_slides(
    inputs: Inputs,
    grading: Grading,
    wanted: Wanted,
    how: Running,
    out: Path,
    batch: Batch,
    watch: Watch | None = None,
) -> Graded:
    """Load the networks, find the slides, grade them.

    Args:
        inputs: the slides.
        grading: the network and its settings.
        wanted: what to write for each slide.
        how: processes and threads.
        out: folder of results; slides that are done there are skipped.
        batch: receives a line or an error for each slide.
        watch: receives the progress of slides.

    Raises:
        WsikdError: nothing can be graded: fault of the student, the settings, the inputs or
            ``out``.
    """
    watch = watch or Unwatched()
    counts = {"graded": 0, "already there": 0}
    rows: dict[str, dict[str, Any]] = {}
    entries: Sequence[SlideEntry] = inputs.find(batch)
    if not entries:
        return Graded("nothing graded")
    with _runner(how) as run:
        loaded = _load(run, grading, watch)
        entries = settle_names(entries, results_made(out))
        out.mkdir(parents=True, exist_ok=True)
        check_summary(out)
        keep_card(out, loaded.student)
        patients = {e.name: e.patient for e in entries if e.patient}
        settled = _settle(run, grading, entries, out, overwrite=wanted.overwrite)
        jobs = _jobs(entries, loaded, grading, wanted, out, settled)
        with _tables(out, patients) as tables:
            for job, outcome in _outcomes(run, jobs, watch, beside=how.jobs == 1):
                watch.end()
                if outcome.error:
                    batch.failed(job.entry, outcome.error)
                    continue
                row, made = outcome.value
                counts["graded" if made else "already there"] += 1
                rows[job.entry.name] = reviewed(row)  # those of an earlier wsikd too
                tables.graded()
                watch.graded(
                    job.entry.name, rows[job.entry.name], made=made, took_s=outcome.seconds
                )
                line = _line(row, out / job.entry.name, made=made)
                batch.went_well(job.entry, line, outcome.seconds)
    _warn_of_old_rules(rows)
    graded = any("gleason_score" in row for row in rows.values())
    summary = ", ".join(f"{n} {what}" for what, n in counts.items())
    withheld = sum(str(row.get("grade_status", "")).startswith("withheld") for row in rows.values())
    if withheld:
        summary += f", the grade of {withheld} withheld"
    note = " ".join(filter(None, (review_line(rows), NOT_ASSESSED if graded else "")))
    return Graded(summary, rows, note)


@contextmanager
def _tables(out: Path, patients: Mapping[str, str]) -> Iterator[Summary]:
    """The tables of a folder; they are completed when the block ends, also by an error."""
    tables = Summary(out, patients)
    try:
        yield tables
    finally:
        tables.end()


def _warn_of_old_rules(rows: Mapping[str, Mapping[str, Any]]) -> None:
    old = [n for n, row in rows.items() if "gleason_score" in row and "grade_status" not in row]
    if old:
        log.warning(
            "%d slide(s) were graded under the rules of wsikd 0.1.0 (such as %s): --overwrite "
            "grades them again",
            len(old),
            old[0],
        )


@contextmanager
def _runner(how: Running) -> Iterator[Run]:
    """Runs tasks, in worker processes or in this one."""
    if how.jobs == 0:
        yield run_here
        return
    with terminable(), WorkerPool(how.jobs, stall_s=60 * how.stall_min) as pool:
        yield pool.run


def _load(run: Run, grading: Grading, watch: Watch) -> Loaded:
    """Load the networks in the process that will run them. Raises as :func:`load_job`."""
    (outcome,) = run([Task(str(grading.model), load_job, (grading,))], None)
    if outcome.died and outcome.error:
        raise BundleError(outcome.error.subject, outcome.error.fault, "copy the bundle again")
    if outcome.error:
        raise outcome.error
    loaded: Loaded = outcome.value
    if loaded.rule:
        watch.note(f"escalation: {loaded.rule}")
    if loaded.student.temperature is None:
        log.warning("the student's card holds no temperature: probabilities are not calibrated")
    if note := guard_note(loaded.student):
        log.warning("%s", note)
    return loaded


def _settle(
    run: Run, grading: Grading, entries: Sequence[SlideEntry], out: Path, *, overwrite: bool
) -> Settled:
    """Choose the engine; if a slide kills the process here, it is reported when it is graded."""
    first: Sequence[SlideEntry] = entries
    begun = None if overwrite and grading.settings.precision in ("bf16", "fp16") else out
    while True:
        (outcome,) = run([Task("engine", settle_job, (grading, first, begun))], None)
        if not outcome.error:
            settled: Settled = outcome.value
            return settled
        if isinstance(outcome.error, ConfigError) or not first:
            raise outcome.error
        first = ()


def _jobs(
    entries: Sequence[SlideEntry],
    loaded: Loaded,
    grading: Grading,
    wanted: Wanted,
    out: Path,
    settled: Settled,
) -> list[InferJob]:
    student, teacher = loaded.student, loaded.teacher
    settings = ResultSettings(
        formats=wanted.formats,
        **asdict(rules_for(student.card, wanted.rules)),
        temperature=student.temperature,
        teacher_temperature=None if teacher is None else teacher.temperature,
        grade_anyway=wanted.grade_anyway,
    )
    training, errors = trained_on(student), student.card.share_errors
    return [
        InferJob(
            entry, grading, student.sha256, out, settings, training, errors, wanted.overwrite,
            settled,
        )
        for entry in entries
    ]  # fmt: skip


def _outcomes(
    run: Run, jobs: Sequence[InferJob], watch: Watch, *, beside: bool
) -> Iterator[tuple[InferJob, Outcome]]:
    """Yield the outcome of each slide.

    With ``beside``, a worker opens the next slide and writes the files of the previous one while it
    computes. If it dies, the slide that killed it is unknown: all slides that it had started are
    graded again, each alone.
    """
    todo = deque(replace(job, beside=beside) for job in jobs)
    given: dict[str, InferJob] = {}

    def tasks() -> Iterator[Task]:
        while todo:
            job = todo.popleft()
            if job.beside and todo:
                job = replace(job, ahead=todo[0].entry)
            given[job.entry.name] = job
            yield Task(job.entry.name, infer_job, (job,))

    for outcome in run(tasks(), watch.report):
        job = given[outcome.task.name]
        if outcome.died and job.beside:
            log.info("%s: its worker process died; it is graded again on its own", job.entry.name)
            todo.appendleft(replace(job, ahead=None, beside=False))
            continue
        yield job, outcome


def _line(row: dict[str, Any], folder: Path, *, made: bool) -> str:
    shares = [
        f"{key.removesuffix('_share')} {value:.0%}"
        for key, value in row.items()
        if key.endswith("_share") and value
    ]
    score = f"{found}; " if (found := score_text(row)) else ""
    asked = ""
    if row.get("share_escalated") is not None:
        share, took = row["share_escalated"], row["escalation_seconds"]
        asked = f", teacher asked about {share:.0%} ({took:.1f} s)"
    place = f"{'in' if made else 'already in'} {folder}"
    return f"{row['fields']} fields, {score}{' '.join(shares) or 'no tissue'}{asked}, {place}"
