"""Many slides become stores: a process a slide, or this one, or a Dask cluster."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from wsikd.core.workers.process import Task, WorkerPool, run_here
from wsikd.core.workers.terminable import terminable
from wsikd.tiles.jobs import tile_job
from wsikd.tiles.runs.cluster import on_cluster
from wsikd.tiles.runs.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from wsikd.core.errors import ConfigError
    from wsikd.core.output.batch import Batch
    from wsikd.core.workers.process import Outcome
    from wsikd.slides.listing.entry import SlideEntry
    from wsikd.slides.listing.search import LeftOut
    from wsikd.tiles.jobs import Tiled, TileJob
    from wsikd.tiles.runs.labels import Labels

log = logging.getLogger(__name__)

IMPORTS = (
    "dask.delayed",
    "dask.threaded",
    "openslide",
    "wsikd.slides.readers.direct_tiff",
    "wsikd.slides.readers.openslide",
)
"""What tiling a slide imports when it begins; a worker process finds it there."""


@dataclass(frozen=True)
class Running:
    """Where and how slides are tiled; nothing here changes a store's content."""

    jobs: int
    threads: int
    stall_min: float
    scheduler: str | None = None
    workers: int | None = None


class Watch(Protocol):
    """Takes how far the slides have come."""

    def reported(self, task: Task, values: tuple[Any, ...]) -> None:
        """Receive a report from the process of a slide."""

    def ended(self, outcome: Outcome) -> None:
        """Take a slide that is done or has failed."""

    def aside(self) -> AbstractContextManager[None]:
        """Leave the terminal to others while the block runs."""


class Unwatched:
    """No progress is shown."""

    def reported(self, task: Task, values: tuple[Any, ...]) -> None:
        """Nothing."""

    def ended(self, outcome: Outcome) -> None:
        """Nothing."""

    def aside(self) -> AbstractContextManager[None]:
        """Nothing."""
        return nullcontext()


def unwatched(entries: Sequence[SlideEntry]) -> AbstractContextManager[Watch]:
    """A run without a display of progress."""
    return nullcontext(Unwatched())


@dataclass(frozen=True)
class Ended:
    """A run that has ended: the last line of its report, and the result of each slide.

    ``unlabelled`` is an error where labels were asked for and no patch has one; the stores stay.
    """

    summary: str
    unlabelled: ConfigError | None = None
    tiled: Mapping[str, Tiled] = field(default_factory=dict)


def run_tiles(
    jobs: Sequence[TileJob],
    how: Running,
    batch: Batch,
    out: Path,
    labels: Labels,
    left_out: Sequence[LeftOut] = (),
    watch: Callable[[Sequence[SlideEntry]], AbstractContextManager[Watch]] = unwatched,
) -> Ended:
    """Tile slides, report each to the batch, and write ``out/runs/<utc>.json``.

    Args:
        jobs: the slides and their settings.
        how: where and how they run.
        batch: takes a line or an error for each.
        out: folder of the stores.
        labels: the classes of the run.
        left_out: files among the inputs that are not tiled, for the record.
        watch: makes what takes the progress of slides.
    """

    record = Record(jobs, asdict(how), out, left_out)
    by_name = {job.entry.name: job for job in jobs}
    tiled: dict[str, Tiled] = {}
    for name, error in batch.failures:
        record.failed(name, error)
    try:
        with ExitStack() as stack:
            jobs = on_cluster(jobs, how.scheduler, how.workers, stack)
            shown = stack.enter_context(watch([job.entry for job in jobs]))
            for outcome in stack.enter_context(outcomes(jobs, tile_job, how, shown)):
                job = by_name[outcome.task.name]
                shown.ended(outcome)
                if outcome.error:
                    record.failed(job.entry.name, outcome.error)
                    batch.failed(job.entry, outcome.error)
                    continue
                record.done(job.entry.name, outcome.value)
                tiled[job.entry.name] = outcome.value
                patches = labels.add(job.entry, outcome.value.labels)
                with shown.aside():
                    line = _line(job, outcome.value, patches)
                    batch.went_well(job.entry, line, outcome.seconds)
        unlabelled = labels.finish(batch.say, dry=False)
        record.status = "finished" if unlabelled is None else "finished without labels"
    finally:
        record.write()
    return Ended(record.summary(), unlabelled, tiled)


@contextmanager
def outcomes(
    jobs: Sequence[TileJob],
    function: Callable[..., Any],
    how: Running,
    shown: Watch | None,
) -> Iterator[Iterator[Outcome]]:
    """The results of the slides, in the order in which they end."""
    tasks = [Task(job.entry.name, function, (job,)) for job in jobs]
    report = shown.reported if shown else None
    if how.jobs == 0:
        yield run_here(tasks, report)
        return
    with (
        terminable(),
        WorkerPool(
            min(how.jobs, max(1, len(tasks))), stall_s=60 * how.stall_min, imports=IMPORTS
        ) as pool,
    ):
        yield pool.run(tasks, report)


def _line(job: TileJob, tiled: Tiled, patches: str) -> str:
    return f"{patches}, {'in' if tiled.made else 'already in'} {job.store}"
