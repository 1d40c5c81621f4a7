"""How ``wsikd tile`` runs: a process a slide, a Dask cluster, a dry run, and the run's record."""

from __future__ import annotations

import logging
import os
import shutil
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from wsikd.core.timing import span

from .common import terminable
from .tile_progress import TileProgress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from wsikd.core.errors import ConfigError
    from wsikd.core.workers.process import Outcome
    from wsikd.slides.listing.search import LeftOut
    from wsikd.tiles.estimate import Estimate
    from wsikd.tiles.jobs import Tiled, TileJob

    from .common import Batch
    from .tile_labels import Labels

log = logging.getLogger(__name__)

_CONNECT_S = 10


@dataclass(frozen=True)
class Running:
    """Where and how slides are tiled; nothing here changes a store's content."""

    jobs: int
    threads: int
    stall_min: float
    scheduler: str | None
    workers: int | None


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say where and how the work is done."""
    for option in (
        click.option("--dry-run", is_flag=True, help="Tell patches, bytes and minutes; no more."),
        click.option(
            "--workers",
            type=click.IntRange(1),
            help="Fill the stores in so many processes of a local Dask cluster, one thread each.",
        ),
        click.option(
            "--scheduler",
            metavar="ADDRESS",
            help="Fill the stores on this Dask cluster: tcp://host:port.",
        ),
        click.option(
            "--stall",
            type=click.FloatRange(0, min_open=True),
            default=10.0,
            show_default=True,
            metavar="MINUTES",
            help="Give a slide up that has made no progress for so long.",
        ),
        click.option(
            "--jobs",
            type=click.IntRange(0),
            default=1,
            show_default=True,
            help="Slides at a time, each in a process of its own, so that a damaged one stops no "
            "other. 0 reads them in the command's own process.",
        ),
    ):
        command = option(command)
    return command


def running(
    jobs: int, threads: int | None, stall: float, scheduler: str | None, workers: int | None
) -> Running:
    """Check the options; threads are by default the cores, shared out to the jobs."""
    if scheduler and workers:
        raise click.UsageError("give --scheduler or --workers, not both")
    share = max(1, (os.cpu_count() or 1) // max(1, jobs))
    return Running(jobs, threads or share, stall, scheduler, workers)


def run_tiles(
    jobs: Sequence[TileJob],
    how: Running,
    batch: Batch,
    out: Path,
    labels: Labels,
    left_out: Sequence[LeftOut] = (),
) -> None:
    """Tile slides, print a line for each, and write ``out/runs/<utc>.json``.

    ``left_out`` are files among the inputs that are not tiled, for the record.
    """
    from wsikd.tiles.jobs import tile_job

    record = _Record(jobs, how, out, left_out)
    by_name = {job.entry.name: job for job in jobs}
    for name, error in batch.failures:
        record.failed(name, error)
    try:
        with ExitStack() as stack:
            jobs = _on_cluster(jobs, how, stack)
            shown = stack.enter_context(TileProgress([job.entry for job in jobs]))
            for outcome in stack.enter_context(outcomes(jobs, tile_job, how, shown)):
                job = by_name[outcome.task.name]
                shown.ended(outcome)
                if outcome.error:
                    record.failed(job.entry.name, outcome.error)
                    batch.failed(job.entry, outcome.error)
                    continue
                record.done(job.entry.name, outcome.value)
                patches = labels.add(job.entry, outcome.value.labels)
                with shown.aside():
                    line = _line(job, outcome.value, patches)
                    batch.went_well(job.entry, line, outcome.seconds)
        unlabelled = labels.finish(dry=False)
        record.status = "finished" if unlabelled is None else "finished without labels"
    finally:
        record.write()
    _end(batch, record.summary(), unlabelled)


def _end(batch: Batch, done: str, unlabelled: ConfigError | None) -> None:
    """Sum up. Failed slides decide the exit code; else a run without the labels that it asks for.

    Raises:
        ConfigError: no patch has a label, and no slide failed.
    """
    if unlabelled is not None and batch.failures:
        log.warning("%s", unlabelled)
    batch.finish(done)
    if unlabelled is not None:
        raise unlabelled


def estimate_tiles(
    jobs: Sequence[TileJob], how: Running, batch: Batch, out: Path, labels: Labels
) -> None:
    """Tell what tiling would take, slide by slide and in total; writes nothing."""
    from wsikd.tiles.jobs import estimate_job

    found: list[Estimate] = []
    by_name = {job.entry.name: job for job in jobs}
    side_by_side = _side_by_side(how, len(jobs))
    with outcomes(jobs, estimate_job, how, None) as ended:
        for outcome in ended:
            job = by_name[outcome.task.name]
            if outcome.error:
                batch.failed(job.entry, outcome.error)
                continue
            told = outcome.value.estimate
            if told is not None:
                found.append(told)
            counted = labels.add(job.entry, outcome.value.labels)
            line = _estimate_line(job, told, counted, min(side_by_side, how.threads))
            batch.went_well(job.entry, line, outcome.seconds)
    total = sum(e.pixel_bytes for e in found)
    needed = sum(round(e.pixel_bytes * e.left / e.chunks) for e in found if e.chunks)
    free = _free_bytes(out)
    if needed > free:
        log.warning(
            "%s: too little room, %s needed and %s free; free space, or choose another -o",
            out,
            _size(needed),
            _size(free),
        )
    unlabelled = labels.finish(dry=True)
    patches = sum(e.patches for e in found)
    about = "" if all(e.exact for e in found) else "about "
    needed_s = sum(e.thread_s for e in found) / side_by_side
    done = (
        f"in all {patches} patches, {about}{_size(total)}, about {span(needed_s)} of reading; "
        f"{_size(free)} free"
    )
    _end(batch, done, unlabelled)


@contextmanager
def outcomes(
    jobs: Sequence[TileJob],
    function: Callable[..., Any],
    how: Running,
    shown: TileProgress | None,
) -> Iterator[Iterator[Outcome]]:
    """What becomes of the slides, in the order in which they end."""
    from wsikd.core.workers.process import Task, WorkerPool, run_here

    tasks = [Task(job.entry.name, function, (job,)) for job in jobs]
    report = shown.reported if shown else None
    if how.jobs == 0:
        yield run_here(tasks, report)
        return
    with (
        terminable(),
        WorkerPool(min(how.jobs, max(1, len(tasks))), stall_s=60 * how.stall_min) as pool,
    ):
        yield pool.run(tasks, report)


def _on_cluster(jobs: Sequence[TileJob], how: Running, stack: ExitStack) -> list[TileJob]:
    """The jobs with the address of the cluster that fills their blocks, if there is to be one."""
    address = _answering(how.scheduler) if how.scheduler else None
    if how.workers:
        from distributed import LocalCluster

        # It tells every step at "info", and its own closing as a fault. What fails is raised.
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        cluster = LocalCluster(  # type: ignore[no-untyped-call]
            n_workers=how.workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",  # or two runs would quarrel over its usual port
            scheduler_kwargs={"dashboard": False},
            silence_logs=logging.CRITICAL,
        )
        address = stack.enter_context(cluster).scheduler_address
    if address is None:
        return list(jobs)
    return [_elsewhere(job, address) for job in jobs]


def _answering(address: str) -> str:
    """The address of a scheduler, once something listens there; told once, not for every slide."""
    import socket
    from urllib.parse import urlsplit

    from wsikd.core.errors import ConfigError, WsikdError

    whole = address if "://" in address else f"tcp://{address}"
    try:
        place = urlsplit(whole)
        host, port = place.hostname, place.port
    except ValueError:
        host = port = None
    if host is None or port is None:
        raise ConfigError("--scheduler", f"'{address}' is no address", "give it as tcp://host:port")
    try:
        socket.create_connection((host, port), timeout=_CONNECT_S).close()
    except OSError as error:
        fault = f"no Dask scheduler answers there ({error.strerror or error})"
        raise WsikdError(whole, fault, "start one with dask scheduler, or mend it") from error
    return whole


def _elsewhere(job: TileJob, address: str) -> TileJob:
    """A job whose paths mean the same in every folder."""
    entry = replace(job.entry, path=job.entry.path.absolute())
    return replace(job, entry=entry, out=job.out.absolute(), scheduler=address)


def _line(job: TileJob, tiled: Tiled, patches: str) -> str:
    return f"{patches}, {'in' if tiled.made else 'already in'} {job.store}"


def _estimate_line(job: TileJob, found: Estimate | None, patches: str, threads: int) -> str:
    if found is None:
        return f"{patches}, already in {job.store}"
    about = "" if found.exact else "about "
    left = f", {found.left} of {found.chunks} chunks left" if found.left < found.chunks else ""
    size = _size(found.pixel_bytes)
    return f"{patches}, {about}{size}, about {span(found.thread_s / threads)}{left}"


def _side_by_side(how: Running, slides: int) -> int:
    """Threads that can work at a time, as far as this machine knows."""
    if how.workers:
        return min(how.workers, os.cpu_count() or 1)
    return min(max(1, min(how.jobs, slides)) * how.threads, os.cpu_count() or 1)


def _free_bytes(folder: Path) -> int:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


class _Record:
    """What a run did, for ``runs/<utc>.json``."""

    def __init__(
        self, jobs: Sequence[TileJob], how: Running, out: Path, left_out: Sequence[LeftOut]
    ) -> None:
        from wsikd.core.run import provenance
        from wsikd.slides.listing.search import listed

        self._begun = datetime.now(UTC)
        self._out = out
        self._about = {
            **provenance(),
            "settings": asdict(jobs[0].settings) if jobs else None,
            "running": asdict(how),
        }
        self._slides: dict[str, dict[str, Any]] = {
            job.entry.name: {"status": "unfinished"} for job in jobs
        }
        self._left_out = listed(left_out)
        self.status = "interrupted"

    def done(self, name: str, tiled: Tiled) -> None:
        status = "made" if tiled.made else "already there"
        self._slides[name] = {"status": status, **asdict(tiled)}
        del self._slides[name]["made"]

    def failed(self, name: str, error: Any) -> None:
        self._slides[name] = {
            "status": "failed",
            "error": type(error).__name__,
            "fault": error.fault,
            "remedy": error.remedy,
        }

    def summary(self) -> str:
        """How many were made, and how many were there."""
        found = [slide["status"] for slide in self._slides.values()]
        return ", ".join(f"{found.count(what)} {what}" for what in ("made", "already there"))

    def write(self) -> None:
        """Write it whole or not at all; a full disk is told, and stops nothing."""
        from wsikd.core.errors import OutputError
        from wsikd.core.run import write_json_atomic

        ended = datetime.now(UTC)
        content = {
            "status": self.status,
            **self._about,
            "time": self._begun.isoformat(timespec="seconds"),
            "seconds": round((ended - self._begun).total_seconds(), 3),
            "slides": [{"slide": name, **about} for name, about in self._slides.items()],
            "left_out": self._left_out,
        }
        name = self._begun.strftime("%Y%m%dT%H%M%S.%fZ.json")
        try:
            write_json_atomic(self._out / "runs" / name, content)
        except OutputError as error:
            log.warning("%s", error)
