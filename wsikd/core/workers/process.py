"""Work in processes that may die: a slide whose reader crashes or hangs takes no other with it."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, Self

from wsikd.core.errors import SlideError, WsikdError
from wsikd.core.workers.noise import listen
from wsikd.core.workers.start import context
from wsikd.core.workers.worker import DONE, FAILED, LOG, REPORT, answer, serve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from types import TracebackType

    OnReport = Callable[["Task", tuple[Any, ...]], None]

RECYCLE = 50
STALL_S = 600.0
GRACE_S = 5.0
_SIGKILL = 9


@dataclass(frozen=True)
class Task:
    """A call ``function(report, *arguments)``; all of it must be picklable.

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
    ``recycle`` tasks. None outlives this process, however that ends.
    """

    def __init__(
        self,
        processes: int = 1,
        *,
        stall_s: float = STALL_S,
        recycle: int = RECYCLE,
        imports: Sequence[str] = (),
    ) -> None:
        """Prepare; processes start when there is work for them.

        Args:
            processes: how many at most.
            stall_s: see above.
            recycle: see above.
            imports: modules that tasks will import, beside those of their functions.
        """
        self._stall_s, self._recycle, self._imports = stall_s, recycle, tuple(imports)
        self._seats: list[_Worker | None] = [None] * processes

    @property
    def pids(self) -> list[int]:
        """The processes that are alive."""
        return [pid for w in self._seats if w and (pid := w.process.pid) is not None]

    def run(self, tasks: Iterable[Task], on_report: OnReport | None = None) -> Iterator[Outcome]:
        """Do tasks, as many beside each other as there are processes.

        Args:
            tasks: taken from here as processes become free.
            on_report: called in this thread with a task and the values that it reported.

        Yields:
            What became of each, in the order in which they end. No error of a task is raised.
        """
        todo = iter(tasks)
        while True:
            self._hand_out(todo)
            busy = [w for w in self._seats if w and w.task]
            if not busy:
                return
            wait(
                [x for w in busy for x in (w.link, w.process.sentinel)],
                timeout=min(1.0, self._stall_s / 4),
            )
            for worker in busy:
                outcome = worker.step(on_report) or worker.watch(self._stall_s)
                if outcome:
                    yield outcome

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
            if worker and worker.task:
                continue
            task = next(todo, None)
            if task is None:
                return
            if worker and (worker.done >= self._recycle or worker.gone()):
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
        self.done = 0
        self._start = 0.0
        self._sign = time.monotonic()

    def gone(self) -> bool:
        """Whether an idle process has died: it has nothing to say but that its end is closed."""
        return self.link.closed or self.link.poll() or not self.process.is_alive()

    def begin(self, task: Task) -> None:
        self.task, self._start = task, time.monotonic()
        self._sign = self._start
        # A process that died meanwhile is noticed at the next step.
        with suppress(OSError):
            self.link.send_bytes(pickle.dumps((task.name, task.function, task.arguments)))

    def step(self, on_report: OnReport | None) -> Outcome | None:
        """Take what has come; the outcome, if the task ended."""
        task = self.task
        assert task is not None
        while True:
            try:
                if not self.link.poll():
                    break
                kind, content = pickle.loads(self.link.recv_bytes())
            except (EOFError, OSError):
                return self._died(task)
            if kind == DONE:
                return self._end(value=content)
            if kind == FAILED:
                return self._end(error=content)
            self._sign = time.monotonic()
            if kind == LOG:
                _log_here(content)
            elif kind == REPORT and on_report:
                on_report(task, content)
        return None if self.process.is_alive() else self._died(task)

    def watch(self, stall_s: float) -> Outcome | None:
        """Stop a process that has made no progress for so long, whether it waits or computes."""
        if self.task is None or time.monotonic() - self._sign < stall_s:
            return None
        self.kill()
        fault = f"no progress in {stall_s / 60:.3g} minutes, so its worker process was stopped"
        remedy = "check its disk or network, or wait longer with --stall MINUTES"
        return self._end(error=SlideError(self.task.name, fault, remedy))

    def dismiss(self) -> None:
        """Ask the process to end: at once where it is idle, else by a signal that unwinds it."""
        if self.task:
            self.process.terminate()
            return
        with suppress(OSError):
            self.link.send_bytes(b"")

    def kill(self) -> None:
        """See to it that the process is gone."""
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        self._listener.join(1.0)  # its last words come before what is said of its death
        self.link.close()

    def _end(
        self, *, value: Any = None, error: WsikdError | None = None, died: bool = False
    ) -> Outcome:
        task, self.task = self.task, None
        assert task is not None
        self.done += 1
        return Outcome(task, value, error, time.monotonic() - self._start, died)

    def _died(self, task: Task) -> Outcome:
        self.process.join(GRACE_S)
        self.kill()
        return self._end(error=_death(task.name, self.process.exitcode or 0), died=True)


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
