"""A slide becomes a tile store. The only file that builds Dask graphs.

One Dask task fills one block, which is a shard at every resolution: no two tasks share a shard,
since two writers in one lose pixels, and no pixels pass through a scheduler. A shard's file appears
whole or not at all, so a killed run resumes where it stopped.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wsikd.core.errors import (
    OutputError,
    RegionReadError,
    SlideError,
    StoreMismatchError,
    WsikdError,
)
from wsikd.core.output.lock import locked
from wsikd.core.output.markers import STORE
from wsikd.core.output.place import Place
from wsikd.core.timing import StageClock
from wsikd.slides.file_format import files_of
from wsikd.tiles.blocks import fill_block
from wsikd.tiles.cluster import clear_leftovers, fill_there, stop_all
from wsikd.tiles.metadata import SlideNotes, describe, flat, reader_of
from wsikd.tiles.new_store import StoreBuild
from wsikd.tiles.store import TileStore, differences, read_meta

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from wsikd.slides.base import Slide
    from wsikd.tiles.blocks import Job
    from wsikd.tiles.store import StoreSettings

    Progress = Callable[[int, int], None]

log = logging.getLogger(__name__)

_CONNECT_S = 10


@dataclass(frozen=True)
class Cluster:
    """A Dask cluster that fills the blocks.

    ``address`` is its scheduler's (``tcp://host:port``); ``reopen`` opens the slide again in a
    worker process, and must be picklable. Slide and store must lie where the workers see them.
    """

    address: str
    reopen: Callable[[], Slide]


def tile_slide(
    slide: Slide,
    path: Path,
    settings: StoreSettings,
    notes: SlideNotes | None = None,
    *,
    workers: int = 2,
    overwrite: bool = False,
    on_progress: Progress | None = None,
    clock: StageClock | None = None,
    cluster: Cluster | None = None,
    inputs: Sequence[Path] = (),
) -> tuple[TileStore, bool]:
    """Write the tissue of a slide into a store, or find it done already.

    Args:
        slide: an open slide.
        path: the store; it appears there only when it is whole.
        settings: what to write.
        notes: annotation, label, patient and split.
        workers: threads.
        overwrite: replace a store made with other settings or from another slide.
        on_progress: called with (chunks done, chunks in all).
        clock: takes the time of the stages ``tissue, read, resize, encode, write``.
        cluster: where to fill the blocks; default threads of this process.
        inputs: files that the store must not lie over, beside the slide's and the mask's.

    Returns:
        The store, and whether it was made now.

    Raises:
        MissingMppError, RegionReadError, SlideError: from the slide.
        AnnotationError: the mask file cannot be read.
        StoreMismatchError: ``path`` holds a store of other settings.
        OutputError: the disk does not take it, another process is using it, or something
            that wsikd did not make is there.
    """
    notes, clock = notes or SlideNotes(), clock or StageClock()
    read = [*files_of(slide.path, notes.mask_file), *inputs]
    place = Place(path, STORE, path.parent, read)
    place.check()
    try:
        meta = describe(slide, settings, notes, path.parent)
        _restore(place)
        if not overwrite and is_made(path, meta, notes.reader):
            _remove_leftovers(place)
            return TileStore.open(path), False
        with locked(path):
            place.recover()
            if not overwrite and is_made(path, meta, notes.reader):  # by another one, meanwhile
                return TileStore.open(path), False
            place.may_replace()
            with _gone_if_unreadable(place):
                build = StoreBuild(slide, place, settings, notes, meta)
                jobs = build.begin(workers, clock)
                count = _Count(jobs, on_progress, clock)
                if cluster:
                    _on_cluster(cluster, build, jobs, count)
                else:
                    _in_threads(build, jobs, count, workers)
                build.finish()
            place.put()
    except OSError as error:
        fault = f"cannot be written ({error.strerror or error})"
        raise OutputError(path, fault, "free space, or choose another -o") from error
    return TileStore.open(path), True


@contextmanager
def _gone_if_unreadable(place: Place) -> Iterator[None]:
    """Leave nothing of a store whose slide cannot be read: there is nothing to resume."""
    try:
        yield
    except RegionReadError:
        with suppress(OSError, OutputError):
            place.discard()
        raise


def is_made(path: Path, meta: dict[str, Any], reader: str | None = None) -> bool:
    """Whether a complete store of the record ``meta`` lies at ``path``.

    Args:
        path: where to look.
        meta: the record.
        reader: what must have read its pixels; default any.

    Raises:
        StoreMismatchError: a store of another record does.
        OutputError: something does that wsikd did not make.
    """
    if not Place(path, STORE, path.parent).taken():
        return False
    found = read_meta(path)
    if found is None or not found.get("complete"):
        fault = "is an unfinished tile store"
        raise StoreMismatchError(path, fault, "choose another -o, or replace it with --overwrite")
    if found.get("digest") != meta["digest"]:
        changes = differences(flat(found), flat(meta)) or "its record is of an older layout"
        fault = f"made with other settings ({changes})"
    elif reader and reader_of(found) != reader:
        fault = f"made by another reader ({reader_of(found)} there, {reader} asked)"
    else:
        return True
    raise StoreMismatchError(path, fault, "choose another -o, or replace it with --overwrite")


class _Count:
    """Adds up what is done, from any thread."""

    def __init__(
        self, jobs: Sequence[Job], on_progress: Progress | None, clock: StageClock
    ) -> None:
        self.total = sum(int(needed.sum()) for _, needed in jobs)
        self.on_progress, self.clock = on_progress, clock
        self.done = 0
        self.lock = threading.Lock()

    def add(self, job: Job, seconds: dict[str, float]) -> None:
        """Count a block that is done."""
        self.clock.add(seconds)
        with self.lock:
            self.done += int(job[1].sum())
            if self.on_progress:
                self.on_progress(self.done, self.total)


def _in_threads(build: StoreBuild, jobs: Sequence[Job], count: _Count, workers: int) -> None:
    """Fill the blocks in Dask's threads, none of which outlives this call."""
    from dask.base import compute  # here: the process that hands out slides needs no Dask
    from dask.delayed import delayed
    from dask.threaded import get as in_threads

    stop = threading.Event()

    def work(job: Job) -> None:
        if not stop.is_set():
            count.add(job, fill_block(build.slide, build.plan, job))

    tasks = [delayed(work, pure=False)(job) for job in jobs]
    # Dask raises a task's error at once while others run on: they would read from a slide that
    # is closed by then, and write into a folder that is being removed.
    with ThreadPoolExecutor(workers) as pool:
        try:
            # the function, not its name "threads", for which Dask imports its distributed part
            compute(*tasks, scheduler=in_threads, pool=pool)  # type: ignore[no-untyped-call]
        finally:
            stop.set()


def _on_cluster(cluster: Cluster, build: StoreBuild, jobs: Sequence[Job], count: _Count) -> None:
    """Fill the blocks on a Dask cluster. A block whose worker dies is given to another."""
    from distributed import as_completed

    slide = build.slide.info
    with _client(cluster.address) as client, _cluster_faults(cluster.address, slide.file):
        found: dict[Any, Job] = {}
        try:
            for job in jobs:
                work = (cluster.reopen, slide.fingerprint, build.plan, job)
                found[client.submit(fill_there, *work, pure=False)] = job
            for future in as_completed(list(found), loop=client.loop):  # type: ignore[no-untyped-call]
                count.add(found[future], future.result())
                # Who holds on to a result has it made again when its worker dies.
                del found[future]
                future.release()
            clear_leftovers(build.part)
        except BaseException as error:
            stop_all(build.part)
            if isinstance(error, (WsikdError, OSError)):
                _await_end(found)
            raise
        finally:
            client.cancel(list(found), force=True)


def _await_end(futures: Iterable[Any]) -> None:
    """Wait for blocks being written: they must not outlive the folder they are written into."""
    from concurrent.futures import CancelledError

    with suppress(CancelledError):
        for future in futures:
            future.exception()


@contextmanager
def _cluster_faults(address: str, file: str) -> Iterator[None]:
    """Raise errors of the cluster as SlideError."""
    from concurrent.futures import CancelledError

    from distributed import KilledWorker

    try:
        yield
    except KilledWorker as error:
        fault = f"its pixels killed the Dask workers that read them ({error})"
        remedy = "check the workers' logs; give them more memory, or leave the slide out"
        raise SlideError(file, fault, remedy) from error
    except CancelledError as error:
        fault = "the Dask scheduler stopped or dropped the work"
        remedy = "start it again and repeat the command: finished blocks are kept"
        raise SlideError(address, fault, remedy) from error


@contextmanager
def _client(address: str) -> Iterator[Any]:
    """A client of a Dask scheduler; raises SlideError where none answers."""
    from distributed import Client

    try:
        client = Client(address, timeout=_CONNECT_S, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        fault = f"no Dask scheduler answers there ({str(error) or type(error).__name__})"
        remedy = (
            "start one with dask scheduler, or give the address that it prints with --scheduler"
        )
        raise SlideError(address, fault, remedy) from error
    with client:
        if not client.scheduler_info()["workers"]:
            log.warning("%s: the Dask scheduler has no workers yet; waiting for one", address)
        yield client


def _restore(place: Place) -> None:
    """Put back a store that a killed run had moved out of the way; see ``Place.recover``."""
    if place.replaced.exists():
        with locked(place.path):
            place.recover()


def _remove_leftovers(place: Place) -> None:
    """Remove what a killed run left beside a finished store; no matter if that cannot be."""
    lock = place.path.with_name(f"{place.path.name}.lock")
    if place.left() or lock.exists():
        with suppress(OSError, OutputError), locked(place.path):  # else another is at work
            place.recover()
            place.discard()
