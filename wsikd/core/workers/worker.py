"""The loop of a worker process: it runs the calls that its parent sends, one by one.

It answers with tuples whose first entry is ``REPORT``, ``LOG``, ``DONE``, ``FAILED`` or ``ALIVE``.
"""

from __future__ import annotations

import logging
import os
import pickle
import queue
import signal
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wsikd.core.errors import WsikdError
from wsikd.core.faults import explain
from wsikd.core.workers.progress import on_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from multiprocessing.connection import Connection

log = logging.getLogger(__name__)

REPORT, LOG, DONE, FAILED, ALIVE = "report", "log", "done", "failed", "alive"
FREE = "free"
"""The task's remaining work runs in a thread, so the process can take the next task."""
ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
    "OPENCV_LOG_LEVEL": "SILENT",
}
"""The command sets it too. OPENBLAS: the resampler multiplies small matrices in its own threads.
OMP: waiting PyTorch threads that spin take cores from decoding (measured: a forward pass 30 times
slower). OPENCV: wsikd's own error has OpenCV's message about a damaged image."""


@dataclass(frozen=True)
class Beside:
    """The return value of a function whose last part, ``work``, may overlap the next task.

    ``work`` returns the value of the task or raises its error.
    """

    work: Callable[[], Any]


def serve(
    link: Connection,
    levels: Mapping[str, int],
    says: Connection,
    environment: Mapping[str, str],
    parents: Sequence[Connection] = (),
) -> None:
    """Answer calls until the parent ends the connection or dies.

    Args:
        link: receives pickled ``(name, function, arguments)``; empty bytes are the end.
        levels: name of each of the parent's loggers -> its level.
        says: replaces standard error, for C libraries too.
        environment: the parent's environment.
        parents: ends of the parent's connections, which a fork has copied. They are closed: a
            connection breaks with the parent only if no other process holds its end.
    """
    for end in parents:
        end.close()
    os.dup2(says.fileno(), 2)
    says.close()
    os.environ.clear()  # the server has the parent's environment of its start
    os.environ.update(environment)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends us
    signal.signal(signal.SIGTERM, _leave)
    line = _Line(link)
    _forward_logs(line, levels)
    on_progress(line.alive)
    calls: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(link, calls), daemon=True).start()
    rest: threading.Thread | None = None
    while call := calls.get():
        name, found = _answer(call, line)
        if rest is not None:
            rest.join()  # at most one runs at a time, so answers are in the order of the tasks
            rest = None
        if isinstance(found, Beside):
            line.send_bytes(pickle.dumps((FREE, None)))
            rest = threading.Thread(
                target=_finish, args=(name, found, line), name=f"rest of {name}"
            )
            rest.start()
        else:
            line.send_bytes(found)


def answer(name: str, function: Callable[..., Any], arguments: tuple[Any, ...], report: Any) -> Any:
    """Call ``function(report, *arguments)``.

    Raises:
        WsikdError: the error of the call; other errors are converted, see
            ``wsikd.core.faults.explain``.
        BrokenPipeError: the reader of the output has closed it.
    """
    try:
        return function(report, *arguments)
    except (WsikdError, BrokenPipeError):
        raise
    except Exception as error:
        log.debug("%s", name, exc_info=True)
        raise explain(name, error) from error


class _Line:
    """The connection to the parent; thread-safe."""

    def __init__(self, link: Connection) -> None:
        self._link, self._lock = link, threading.Lock()

    def send_bytes(self, message: bytes) -> None:
        with self._lock:
            self._link.send_bytes(message)

    def alive(self) -> None:
        self.send_bytes(pickle.dumps((ALIVE, None)))

    def report(self, *values: Any) -> None:
        self.send_bytes(pickle.dumps((REPORT, values)))


class _Forward(logging.Handler):
    """Sends log records to the parent, with formatted messages."""

    def __init__(self, line: _Line) -> None:
        super().__init__()
        self._line = line
        self._format = logging.Formatter()

    def emit(self, record: logging.LogRecord) -> None:
        plain = logging.makeLogRecord(record.__dict__)
        plain.msg, plain.args = record.getMessage(), None
        if record.exc_info:
            plain.exc_text = self._format.formatException(record.exc_info)
        plain.exc_info = None
        try:
            self._line.send_bytes(pickle.dumps((LOG, plain)))
        except OSError:
            pass  # the parent has died, so nobody would read this
        except Exception:  # noqa: BLE001 - a log record must not stop the work
            self.handleError(record)


def _answer(call: bytes, line: _Line) -> tuple[str, bytes | Beside]:
    """Run a pickled call; returns its name, and its pickled answer or its remaining work."""
    name = "worker process"
    try:
        name, function, arguments = pickle.loads(call)
        found = answer(name, function, arguments, line.report)
        return name, found if isinstance(found, Beside) else pickle.dumps((DONE, found))
    except WsikdError as error:
        return name, pickle.dumps((FAILED, error))
    except Exception as error:
        log.debug("%s", name, exc_info=True)
        return name, pickle.dumps((FAILED, explain(name, error)))


def _finish(name: str, rest: Beside, line: _Line) -> None:
    """Do the remaining work of a task, and send its answer."""
    try:
        message = pickle.dumps((DONE, answer(name, lambda _: rest.work(), (), None)))
    except WsikdError as error:
        message = pickle.dumps((FAILED, error))
    except Exception as error:
        log.debug("%s", name, exc_info=True)
        message = pickle.dumps((FAILED, explain(name, error)))
    with suppress(OSError):  # the parent has died, so nobody would read this
        line.send_bytes(message)


def _forward_logs(line: _Line, levels: Mapping[str, int]) -> None:
    root = logging.getLogger()
    root.handlers[:] = [_Forward(line)]
    for name, level in levels.items():
        logging.getLogger(name or None).setLevel(level)


def _listen(link: Connection, calls: queue.SimpleQueue[bytes]) -> None:
    """Queue calls. When the parent dies, by any signal, the link closes and this process ends."""
    while True:
        try:
            calls.put(link.recv_bytes())
        except (EOFError, OSError):
            os._exit(1)


def _leave(number: int, _frame: object) -> None:
    """Unwind, so that locks are released."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(128 + number)
