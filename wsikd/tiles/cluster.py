"""A block of a tile store filled in a Dask worker: the worker's side."""

from __future__ import annotations

import pickle
import socket
import threading
from collections import OrderedDict
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from wsikd.core.errors import OutputError, SlideError
from wsikd.core.output.files import drop_temporary
from wsikd.tiles.blocks import fill_block
from wsikd.tiles.store import is_group

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wsikd.slides.base import Slide
    from wsikd.tiles.blocks import BlockPlan, Job

STOP_FILE = ".stop"
_SHARED = "keep slides and stores on a file system that all workers mount at the same path"
_KEPT_OPEN = 2


def fill_there(
    reopen: Callable[[], Slide], fingerprint: str, plan: BlockPlan, job: Job
) -> dict[str, float]:
    """Fill a block in a worker, where the slide stays open from block to block.

    Args:
        reopen: opens the slide.
        fingerprint: fingerprint of the slide that the client has opened.
        plan: plan of the client.
        job: the block.

    Returns:
        Seconds by stage; none where the client has given the store up meanwhile, or where a worker
        that has died since had written the block.

    Raises:
        SlideError: the worker does not see the slide, or sees another one.
        OutputError: it does not see the store.
        RegionReadError: the slide is damaged there.
        OSError: the disk does not take it.
    """
    import cv2

    folder = Path(plan.folder)
    if (folder / STOP_FILE).exists():
        return {}
    if not is_group(folder):  # a folder alone may be what another worker wrote after its end
        raise OutputError(folder, f"the Dask worker on {_host()} cannot find it", _SHARED)
    if plan.done(job):
        return {}
    cv2.setNumThreads(1)
    with _open_slides.lease(reopen, fingerprint) as slide:
        if slide.info.fingerprint != fingerprint:
            fault = f"the Dask worker on {_host()} sees another file under this path"
            raise SlideError(slide.path, fault, _SHARED)
        return fill_block(slide, plan, job)


def stop_all(folder: Path) -> None:
    """Skip the blocks of a store that no worker has started."""
    with suppress(OSError):
        (folder / STOP_FILE).touch()


def allow_all(folder: Path) -> None:
    """Undo the skipping of blocks by an interrupted run. Raises OSError."""
    drop_temporary(folder / STOP_FILE, r"\.stop")


def clear_leftovers(folder: Path) -> None:
    """Remove what workers were writing when they died. Raises OSError."""
    for leftover in folder.rglob("*.partial"):
        drop_temporary(leftover, r".+\.partial")


class _OpenSlides:
    """The slides last used in this process, closed once others have come and no thread reads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[bytes, tuple[Slide, int]] = OrderedDict()

    @contextmanager
    def lease(self, reopen: Callable[[], Slide], fingerprint: str) -> Iterator[Slide]:
        key = pickle.dumps((reopen, fingerprint))
        with self._lock:
            slide, users = self._open.pop(key, (None, 0))
            if slide is None:
                slide = _opened(reopen)
            self._open[key] = (slide, users + 1)
        try:
            yield slide
        finally:
            with self._lock:
                self._open[key] = (slide, self._open[key][1] - 1)
                self._close_idle()

    def _close_idle(self) -> None:
        idle = [key for key, (_, users) in self._open.items() if not users]
        for key in idle[: max(0, len(self._open) - _KEPT_OPEN)]:
            self._open.pop(key)[0].close()


_open_slides = _OpenSlides()


def _opened(reopen: Callable[[], Slide]) -> Slide:
    try:
        return reopen()
    except SlideError as error:
        fault = f"the Dask worker on {_host()} cannot open it ({error.fault})"
        raise SlideError(error.subject, fault, _SHARED) from error


def _host() -> str:
    return socket.gethostname()
