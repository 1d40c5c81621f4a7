"""How ``wsikd infer`` runs: a worker process that may die, slide after slide."""

from __future__ import annotations

import logging
from collections import deque
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import click

from .common import Batch, progress, terminable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from wsikd.core.workers.process import Outcome, Task
    from wsikd.grade.runs.jobs import Grading, InferJob, Loaded
    from wsikd.grade.runs.resume_engine import Settled
    from wsikd.slides.listing.manifest import SlideEntry

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
    """What is to come of a slide; ``min_area`` in mm2, None for the student's own."""

    formats: tuple[str, ...]
    specimen: str
    min_area: float | None
    overwrite: bool


def grade_slides(
    find: Callable[[Batch], Sequence[SlideEntry]],
    grading: Grading,
    wanted: Wanted,
    how: Running,
    out: Path,
) -> None:
    """Load the networks, find the slides, grade them, tell of each; exits as ``Batch.finish``."""
    from wsikd.grade.runs.results import check_summary, keep_card, results_made, write_summary
    from wsikd.slides.listing.once import settle_names

    batch = Batch(out)
    counts = {"graded": 0, "already there": 0}
    entries = find(batch)
    if not entries:
        batch.finish("nothing graded")
    with _runner(how) as run:
        loaded = _load(run, grading)
        entries = settle_names(entries, results_made(out))
        out.mkdir(parents=True, exist_ok=True)
        check_summary(out)
        keep_card(out, loaded.student)
        settled = _settle(run, grading, entries, out, overwrite=wanted.overwrite)
        jobs = _jobs(entries, loaded, grading, wanted, out, settled)
        with _Bar() as bar:
            for job, outcome in _outcomes(run, jobs, bar, ahead=how.jobs == 1):
                bar.end()
                if outcome.error:
                    batch.failed(job.entry, outcome.error)
                    continue
                row, made = outcome.value
                counts["graded" if made else "already there"] += 1
                write_summary(out)
                line = _line(row, out / job.entry.name, made=made)
                batch.went_well(job.entry, line, outcome.seconds)
    batch.finish(", ".join(f"{n} {what}" for what, n in counts.items()))


@contextmanager
def _runner(how: Running) -> Iterator[Run]:
    """What does tasks: worker processes, or this one."""
    from wsikd.core.workers.process import WorkerPool, run_here

    if how.jobs == 0:
        yield run_here
        return
    with terminable(), WorkerPool(how.jobs, stall_s=60 * how.stall_min) as pool:
        yield pool.run


def _load(run: Run, grading: Grading) -> Loaded:
    """Have the networks loaded where they will run; raises what is wrong with them."""
    from wsikd.core.errors import BundleError
    from wsikd.core.workers.process import Task
    from wsikd.grade.runs.jobs import load_job

    (outcome,) = run([Task(str(grading.model), load_job, (grading,))], None)
    if outcome.died and outcome.error:
        raise BundleError(outcome.error.subject, outcome.error.fault, "copy the bundle again")
    if outcome.error:
        raise outcome.error
    loaded: Loaded = outcome.value
    if loaded.rule:
        click.echo(f"escalation: {loaded.rule}", err=True)
    if loaded.student.temperature is None:
        log.warning("the student's card holds no temperature: probabilities are not calibrated")
    return loaded


def _settle(
    run: Run, grading: Grading, entries: Sequence[SlideEntry], out: Path, *, overwrite: bool
) -> Settled:
    """Decide what computes; a slide that kills the process over it is told at its own turn."""
    from wsikd.core.errors import ConfigError
    from wsikd.core.workers.process import Task
    from wsikd.grade.runs.jobs import settle_job

    first: Sequence[SlideEntry] = entries
    begun = None if overwrite and grading.settings.precision == "bf16" else out
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
    from wsikd.grade.domain_shift import trained_on
    from wsikd.grade.runs.jobs import InferJob
    from wsikd.grade.runs.results import ResultSettings

    student, teacher = loaded.student, loaded.teacher
    settings = ResultSettings(
        formats=wanted.formats,
        specimen=wanted.specimen,
        min_area_mm2=student.min_area_mm2 if wanted.min_area is None else wanted.min_area,
        temperature=student.temperature,
        teacher_temperature=None if teacher is None else teacher.temperature,
    )
    training = trained_on(student)
    return [
        InferJob(entry, grading, student.sha256, out, settings, training, wanted.overwrite, settled)
        for entry in entries
    ]


def _outcomes(
    run: Run, jobs: Sequence[InferJob], bar: _Bar, *, ahead: bool
) -> Iterator[tuple[InferJob, Outcome]]:
    """What becomes of the slides.

    With ``ahead``, a worker opens the next slide while it computes one. Where it dies then, which
    of the two killed it is not known: the first is done again, alone.
    """
    from wsikd.core.workers.process import Task
    from wsikd.grade.runs.jobs import infer_job

    todo = deque(jobs)
    given: dict[str, InferJob] = {}

    def tasks() -> Iterator[Task]:
        while todo:
            job = todo.popleft()
            if ahead and todo and job.entry.name not in given:
                job = replace(job, ahead=todo[0].entry)
            given[job.entry.name] = job
            yield Task(job.entry.name, infer_job, (job,))

    for outcome in run(tasks(), bar.report):
        job = given[outcome.task.name]
        if outcome.died and job.ahead:
            log.info("%s: its worker process died; it is graded again, alone", job.entry.name)
            todo.appendleft(replace(job, ahead=None))
            continue
        yield job, outcome


class _Bar:
    """How far the slide at hand has come, where there is a terminal."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._name: str | None = None
        self._update: Callable[[int, int], None] | None = None

    def report(self, task: Task, values: tuple[Any, ...]) -> None:
        if task.name != self._name:
            self.end()
            self._name, self._update = task.name, self._stack.enter_context(progress(task.name))
        if self._update:
            self._update(*values)

    def end(self) -> None:
        self._stack.close()
        self._name = self._update = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def _line(row: dict[str, Any], folder: Path, *, made: bool) -> str:
    shares = [
        f"{key.removesuffix('_share')} {value:.0%}"
        for key, value in row.items()
        if key.endswith("_share") and value
    ]
    score = ""
    if "gleason_score" in row:
        found = row["gleason_score"]
        score = f"{found}, grade group {row['isup_grade_group']}; " if found else "no score; "
    asked = ""
    if row.get("share_escalated") is not None:
        share, took = row["share_escalated"], row["escalation_seconds"]
        asked = f", teacher asked about {share:.0%} ({took:.1f} s)"
    place = f"{'in' if made else 'already in'} {folder}"
    return f"{row['fields']} fields, {score}{' '.join(shares) or 'no tissue'}{asked}, {place}"
