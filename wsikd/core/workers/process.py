"""Work in processes that may die: a slide whose reader crashes or hangs takes no other with it."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import threading
import time
from collections import deque
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, Self

from wsikd.core.errors import SlideError, WsikdError
from wsikd.core.workers.noise import listen
from wsikd.core.workers.start import context
from wsikd.core.workers.worker import DONE, FAILED, FREE, LOG, REPORT, Beside, answer, serve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from types import TracebackType

    OnReport = Callable[["Task", tuple[Any, ...]], None]

RECYCLE, RECYCLE_S = 50, 600.0
STALL_S = 600.0
GRACE_S = 5.0
_SIGKILL = 9


@dataclass(frozen=True)
class Task:
    """A call ``function(report, *arguments)``; all of it must be picklable.

    What it returns must be too, unless that is a :class:`~wsikd.core.workers.worker.Beside`.
    ``report`` takes any picklable values, from any thread, and hands them to the parent. ``name``
    is the subject of its errors.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What became of a task: its value, or its error; ``seconds`` since it was handed out.

    ``died``: whether its process did.
    """

    task: Task
    value: Any = None
    error: WsikdError | None = None
    seconds: float = 0.0
    died: bool = False


def run_here(tasks: Iterable[Task], on_report: OnReport | None = None) -> Iterator[Outcome]:
    """Do tasks in this process, one after another, as :meth:`WorkerPool.run` does them."""
    for task in tasks:
        start = time.monotonic()

        def report(*values: Any, task: Task = task) -> None:
            if on_report:
                on_report(task, values)

        try:
            value = answer(task.name, task.function, task.arguments, report)
            if isinstance(value, Beside):
                value = answer(task.name, lambda _, rest=value: rest.work(), (), report)
            outcome = Outcome(task, value, None, time.monotonic() - start)
        except WsikdError as error:
            outcome = Outcome(task, None, error, time.monotonic() - start)
        yield outcome


class WorkerPool:
    """Processes, each of which does one task at a time.

    A process that dies is an error of its task alone, and the next task gets a fresh one; so does a
    process that makes no progress for ``stall_s`` seconds: it may wait for a network disk, or
    compute without end. Progress is a report, a log record, or a call of
    :func:`wsikd.core.workers.progress.progressing`. Processes are reused, and replaced after
    ``recycle`` tasks and ``recycle_s`` seconds. None outlives this process, however that ends.

    A task that returns a ``Beside`` is finished beside the next one of the same process. If that
    dies, both tasks have died.
    """

    def __init__(
        self,
        processes: int = 1,
        *,
        stall_s: float = STALL_S,
        recycle: int = RECYCLE,
        recycle_s: float = RECYCLE_S,
        imports: Sequence[str] = (),
    ) -> None:
        """Prepare; processes start when there is work for them.

        Args:
            processes: how many at most.
            stall_s: see above.
            recycle: see above.
            recycle_s: see above.
            imports: modules that tasks will import, beside those of their functions.
        """
        self._stall_s, self._recycle, self._recycle_s = stall_s, recycle, recycle_s
        self._imports = tuple(imports)
        self._seats: list[_Worker | None] = [None] * processes

    @property
    def pids(self) -> list[int]:
        """The processes that are alive."""
        return [pid for w in self._seats if w and (pid := w.process.pid) is not None]

    def run(self, tasks: Iterable[Task], on_report: OnReport | None = None) -> Iterator[Outcome]:
        """Run tasks in parallel, one per process.

        Args:
            tasks: taken from here as processes become free.
            on_report: called in this thread with a task and the values that it reported.

        Yields:
            What became of each, in the order in which they end. No error of a task is raised.
        """
        todo = iter(tasks)
        while True:
            self._hand_out(todo)
            busy = [w for w in self._seats if w and (w.task or w.ending)]
            if not busy:
                return
            wait(
                [x for w in busy for x in (w.link, w.process.sentinel)],
                timeout=min(1.0, self._stall_s / 4),
            )
            for worker in busy:
                yield from worker.step(on_report) or worker.watch(self._stall_s)

    def close(self, grace_s: float = GRACE_S) -> None:
        """End the processes: those at work are asked to leave, and killed after ``grace_s``."""
        workers = [w for w in self._seats if w]
        self._seats = [None] * len(self._seats)
        limit = time.monotonic() + grace_s
        try:
            for worker in workers:
                worker.dismiss()
            for worker in workers:
                worker.process.join(max(0.0, limit - time.monotonic()))
        finally:
            for worker in workers:
                worker.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _hand_out(self, todo: Iterator[Task]) -> None:
        """Give every free process a task, as long as there are any."""
        for seat, worker in enumerate(self._seats):
            worn = worker and worker.worn(self._recycle, self._recycle_s)
            if worker and (worker.task or (worn and worker.ending)):
                continue
            task = next(todo, None)
            if task is None:
                return
            if worker and not worker.ending and (worn or worker.gone()):
                worker.dismiss()
                worker.process.join(GRACE_S)
                worker.kill()
                worker = None
            if worker is None:
                worker = self._seats[seat] = _Worker(task.function.__module__, *self._imports)
            worker.begin(task)


class _Worker:
    """A process, as its parent sees it."""

    def __init__(self, *imports: str) -> None:
        levels = {name: logging.getLogger(name or None).level for name in ("", "wsikd")}
        with _uninterrupted():
            starts = context(*imports)
            self.link, theirs = starts.Pipe()
            said, says = starts.Pipe(duplex=False)
            given = (theirs, levels, says, dict(os.environ))
            self.process = starts.Process(target=serve, args=given, daemon=True)
            self.process.start()
        theirs.close()
        says.close()
        self._listener = listen(os.dup(said.fileno()), f"process {self.process.pid}")
        said.close()
        self.task: Task | None = None
        self.ending: deque[tuple[Task, float]] = deque()
        self._done = 0
        self._start = 0.0
        self._born = self._sign = time.monotonic()

    def worn(self, tasks: int, seconds: float) -> bool:
        """Whether it has run at least so many tasks and seconds."""
        return self._done >= tasks and time.monotonic() - self._born >= seconds

    def gone(self) -> bool:
        """Whether an idle process has died: it has nothing to say but that its end is closed."""
        return self.link.closed or self.link.poll() or not self.process.is_alive()

    def begin(self, task: Task) -> None:
        self.task, self._start = task, time.monotonic()
        self._sign = self._start
        # A process that died meanwhile is noticed at the next step.
        with suppress(OSError):
            self.link.send_bytes(pickle.dumps((task.name, task.function, task.arguments)))

    def step(self, on_report: OnReport | None) -> list[Outcome]:
        """Receive messages; returns the outcomes of finished tasks."""
        ended: list[Outcome] = []
        while self.task or self.ending:
            try:
                if not self.link.poll():
                    break
                kind, content = pickle.loads(self.link.recv_bytes())
            except (EOFError, OSError):
                return ended + self._died()
            if kind == DONE:
                ended.append(self._end(value=content))
            elif kind == FAILED:
                ended.append(self._end(error=content))
            elif kind == FREE:
                assert self.task is not None
                self.ending.append((self.task, self._start))
                self.task = None
            elif kind == LOG:
                _log_here(content)
            elif kind == REPORT and on_report and self.task:
                on_report(self.task, content)
            self._sign = time.monotonic()
            if ended:
                return ended
        alive = self.process.is_alive() or not (self.task or self.ending)
        return ended if alive else self._died()

    def watch(self, stall_s: float) -> list[Outcome]:
        """Stop a process without progress, whether it waits or computes."""
        if not (self.task or self.ending) or time.monotonic() - self._sign < stall_s:
            return []
        self.kill()
        fault = f"no progress in {stall_s / 60:.3g} minutes, so its worker process was stopped"
        remedy = "check its disk or network, or wait longer with --stall MINUTES"
        first = self.ending[0][0] if self.ending else self.task
        assert first is not None
        return [self._end(error=SlideError(first.name, fault, remedy)), *self._died()]

    def dismiss(self) -> None:
        """Ask the process to end: at once where it is idle, else by a signal that unwinds it."""
        if self.task or self.ending:
            self.process.terminate()
            return
        with suppress(OSError):
            self.link.send_bytes(b"")

    def kill(self) -> None:
        """See to it that the process is gone."""
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        self._listener.join(1.0)  # its last messages come before the report of its death
        self.link.close()

    def _end(
        self, *, value: Any = None, error: WsikdError | None = None, died: bool = False
    ) -> Outcome:
        """The end of the task that was started first."""
        task, start = self.ending.popleft() if self.ending else (self.task, self._start)
        if task is self.task:
            self.task = None
        assert task is not None
        self._done += 1
        return Outcome(task, value, error, time.monotonic() - start, died)

    def _died(self) -> list[Outcome]:
        """The end of all tasks of a process that is gone."""
        self.process.join(GRACE_S)
        self.kill()
        code, ended = self.process.exitcode or 0, []
        while self.ending or self.task:
            task = self.ending[0][0] if self.ending else self.task
            assert task is not None
            ended.append(self._end(error=_death(task.name, code), died=True))
        return ended


def _death(name: str, code: int) -> SlideError:
    """The error for a process that ended with ``code``; a signal's is negative."""
    if code >= 0:
        fault = f"its worker process exited (code {code})"
        return SlideError(
            name, fault, "run it alone with --log-level debug and report the traceback"
        )
    known = {int(s): f", {s.name}" for s in signal.Signals}
    fault = f"reading it killed the worker process (signal {-code}{known.get(-code, '')})"
    if -code == _SIGKILL:
        remedy = "if out of memory, give fewer --jobs or --threads; else leave the slide out"
    else:
        remedy = "the file is damaged or breaks its reader: try another --reader, or leave it out"
    return SlideError(name, fault, remedy)


def _log_here(record: logging.LogRecord) -> None:
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let what starts in the block ignore Ctrl-C from its first moment on."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    own = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, own if own is not None else signal.default_int_handler)
