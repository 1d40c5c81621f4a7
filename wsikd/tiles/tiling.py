"""A slide becomes a tile store. The only file that builds Dask graphs.

One Dask task fills one block, which is a shard at every resolution: no two tasks share a shard,
since two writers in one lose pixels, and no pixels pass through a scheduler. A shard's file appears
whole or not at all, so a killed run goes on where it stopped.
"""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from dask.base import compute
from dask.delayed import delayed

from wsikd.core.clock import StageClock
from wsikd.core.errors import OutputError, RegionReadError, SlideError, StoreMismatchError
from wsikd.core.lock import locked
from wsikd.tiles.blocks import fill_block
from wsikd.tiles.build import StoreBuild
from wsikd.tiles.record import SlideNotes, describe, flat
from wsikd.tiles.store import TileStore, differences, read_meta

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from wsikd.slides.base import Slide
    from wsikd.tiles.blocks import BlockPlan, Job
    from wsikd.tiles.store import StoreSettings

    Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Cluster:
    """A Dask cluster that fills the blocks.

    ``address`` is its scheduler's (``tcp://host:port``); ``reopen`` opens the slide anew in a
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

    Returns:
        The store, and whether it was made now.

    Raises:
        MissingMppError, RegionReadError, SlideError: from the slide.
        AnnotationError: the mask file cannot be read.
        StoreMismatchError: ``path`` holds a store of other settings.
        OutputError: the disk does not take it, or another process is at work on it.
    """
    notes, clock = notes or SlideNotes(), clock or StageClock()
    part = path.with_name(path.name + ".part")
    try:
        meta = describe(slide, settings, notes, path.parent)
        if not overwrite and _is_made(path, meta):
            return TileStore.open(path), False
        with locked(path):
            if not overwrite and _is_made(path, meta):  # by another process, meanwhile
                return TileStore.open(path), False
            with _gone_if_unreadable(part):
                build = StoreBuild(slide, part, settings, notes, meta)
                jobs = build.begin(workers, clock)
                count = _Count(jobs, on_progress, clock)
                if cluster:
                    _on_cluster(cluster, build, jobs, count)
                else:
                    _in_threads(build, jobs, count, workers)
                build.finish()
            _put_in_place(part, path)
    except OSError as error:
        fault = f"cannot be written ({error.strerror or error})"
        raise OutputError(path, fault, "free space, or choose another -o") from error
    return TileStore.open(path), True


@contextmanager
def _gone_if_unreadable(part: Path) -> Iterator[None]:
    """Leave nothing of a store whose slide cannot be read: there is nothing to resume."""
    try:
        yield
    except RegionReadError:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _is_made(path: Path, meta: dict[str, Any]) -> bool:
    """Whether this very store is there; raises StoreMismatchError where another one is."""
    if not path.exists():
        return False
    found = read_meta(path)
    if found is None or not found.get("complete"):
        fault = "exists and is no finished tile store"
        raise StoreMismatchError(path, fault, "choose another -o, or --overwrite")
    if found["digest"] == meta["digest"]:
        return True
    fault = f"made with other settings ({differences(flat(found), flat(meta))})"
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
    stop = threading.Event()

    def work(job: Job) -> None:
        if not stop.is_set():
            count.add(job, fill_block(build.slide, build.plan, job))

    tasks = [delayed(work, pure=False)(job) for job in jobs]
    # Dask raises a task's error at once while others run on: they would read from a slide that
    # is closed by then, and write into a folder that is being removed.
    with ThreadPoolExecutor(workers) as pool:
        try:
            compute(*tasks, scheduler="threads", pool=pool)  # type: ignore[no-untyped-call]
        finally:
            stop.set()


def _on_cluster(cluster: Cluster, build: StoreBuild, jobs: Sequence[Job], count: _Count) -> None:
    """Fill the blocks on a Dask cluster. A block whose worker dies is given to another."""
    from distributed import Client, KilledWorker, as_completed

    with Client(cluster.address, set_as_default=False) as client:  # type: ignore[no-untyped-call]
        found = {
            client.submit(_fill_there, cluster.reopen, build.plan, job, pure=False): job
            for job in jobs
        }
        try:
            for future in as_completed(list(found)):  # type: ignore[no-untyped-call]
                count.add(found[future], future.result())
        except KilledWorker as error:
            raise SlideError(
                build.slide.info.file,
                f"its pixels killed the Dask workers that read them ({error})",
                "look into the workers' logs; give them more memory, or leave the slide out",
            ) from error
        finally:
            client.cancel(list(found), force=True)


def _fill_there(reopen: Callable[[], Slide], plan: BlockPlan, job: Job) -> dict[str, float]:
    """Fill a block in a worker process, where the slide stays open from block to block."""
    return fill_block(_reopened(reopen), plan, job)


_reopen_lock = threading.Lock()


def _reopened(reopen: Callable[[], Slide]) -> Slide:
    import pickle

    with _reopen_lock:
        return _slide_of(pickle.dumps(reopen))


@lru_cache(maxsize=2)
def _slide_of(pickled: bytes) -> Slide:
    import pickle

    slide: Slide = pickle.loads(pickled)()
    return slide


def _put_in_place(part: Path, path: Path) -> None:
    if path.exists():
        old = path.with_name(path.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
        part.rename(path)
        shutil.rmtree(old)
    else:
        part.rename(path)
