"""Worker processes: a slide whose reader crashes or hangs does not affect the others."""

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
    """A call ``function(report, *arguments)``; function and arguments must be picklable.

    The return value must be picklable too, unless it is a
    :class:`~wsikd.core.workers.worker.Beside`. ``report`` sends picklable values to the parent
    from any thread. ``name`` is the subject of the task's errors.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """The value or error of a task; ``seconds`` since its start; whether its process ``died``."""

    task: Task
    value: Any = None
    error: WsikdError | None = None
    seconds: float = 0.0
    died: bool = False


def run_here(tasks: Iterable[Task], on_report: OnReport | None = None) -> Iterator[Outcome]:
    """Run tasks in this process, one by one, with the interface of :meth:`WorkerPool.run`."""
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

    If a process dies, only its task has an error, and the next task gets a new process. A process
    without progress for ``stall_s`` seconds is stopped in the same way: it may wait for a network
    disk, or compute without end. Progress is a report, a log record, or a call of
    :func:`wsikd.core.workers.progress.progressing`. Processes are reused, and replaced after
    ``recycle`` tasks and ``recycle_s`` seconds. All end with this process, however it ends.

    The remaining work of a task that returns a ``Beside`` overlaps the next task of the same
    process. If the process dies, both tasks have died.
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
        """Prepare; processes start when there are tasks for them.

        Args:
            processes: greatest number of processes.
            stall_s: see above.
            recycle: see above.
            recycle_s: see above.
            imports: modules that tasks will import, in addition to those of their functions.
        """
        self._stall_s, self._recycle, self._recycle_s = stall_s, recycle, recycle_s
        self._imports = tuple(imports)
        self._seats: list[_Worker | None] = [None] * processes

    @property
    def pids(self) -> list[int]:
        """Ids of the processes that are alive."""
        return [pid for w in self._seats if w and (pid := w.process.pid) is not None]

    def run(self, tasks: Iterable[Task], on_report: OnReport | None = None) -> Iterator[Outcome]:
        """Run tasks in parallel, one per process.

        Args:
            tasks: the tasks; each is taken when a process is free.
            on_report: called in this thread with a task and the values that it reported.

        Yields:
            The outcome of each task, in the order in which they end. Errors of tasks are not
            raised.
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
        """End the processes: busy ones get a signal to end, and are killed after ``grace_s``."""
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
        """Give every free process a task, while there are any."""
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
    """The parent's view of a worker process."""

    def __init__(self, *imports: str) -> None:
        levels = {name: logging.getLogger(name or None).level for name in ("", "wsikd")}
        with _uninterrupted():
            starts = context(*imports)
            self.link, theirs = starts.Pipe()
            said, says = starts.Pipe(duplex=False)
            ours = (self.link, said) if starts.get_start_method() == "fork" else ()
            given = (theirs, levels, says, dict(os.environ), ours)
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
        """Whether it has run at least this number of tasks and for this time."""
        return self._done >= tasks and time.monotonic() - self._born >= seconds

    def gone(self) -> bool:
        """Whether an idle process has died: then its end of the pipe is closed."""
        return self.link.closed or self.link.poll() or not self.process.is_alive()

    def begin(self, task: Task) -> None:
        self.task, self._start = task, time.monotonic()
        self._sign = self._start
        # If the process has died meanwhile, the next step notices it.
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
        """Stop the process if it has made no progress, whether it waits or computes."""
        if not (self.task or self.ending) or time.monotonic() - self._sign < stall_s:
            return []
        self.kill()
        fault = f"no progress in {stall_s / 60:.3g} minutes, so its worker process was stopped"
        remedy = "check its disk or network, or wait longer with --stall MINUTES"
        first = self.ending[0][0] if self.ending else self.task
        assert first is not None
        return [self._end(error=SlideError(first.name, fault, remedy)), *self._died()]

    def dismiss(self) -> None:
        """Let the process end: at once if it is idle, else by a signal that unwinds it."""
        if self.task or self.ending:
            self.process.terminate()
            return
        with suppress(OSError):
            self.link.send_bytes(b"")

    def kill(self) -> None:
        """Kill the process, and wait until it has ended."""
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        self._listener.join(1.0)  # so that its last messages precede the report of its death
        self.link.close()

    def _end(
        self, *, value: Any = None, error: WsikdError | None = None, died: bool = False
    ) -> Outcome:
        """The outcome of the task that was started first."""
        task, start = self.ending.popleft() if self.ending else (self.task, self._start)
        if task is self.task:
            self.task = None
        assert task is not None
        self._done += 1
        return Outcome(task, value, error, time.monotonic() - start, died)

    def _died(self) -> list[Outcome]:
        """The outcomes of all tasks of a process that has died."""
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
    """Let processes that start in the block ignore Ctrl-C from their first moment."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    own = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, own if own is not None else signal.default_int_handler)
