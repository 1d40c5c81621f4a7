"""The inside of a worker process: calls what its parent sends, one call after another.

What goes back are tuples that begin with one of ``REPORT, LOG, DONE, FAILED, ALIVE``.
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
    from collections.abc import Callable, Mapping
    from multiprocessing.connection import Connection

log = logging.getLogger(__name__)

REPORT, LOG, DONE, FAILED, ALIVE = "report", "log", "done", "failed", "alive"
FREE = "free"
"""What is left of a task is done beside the next one."""
ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
    "OPENCV_LOG_LEVEL": "SILENT",
}
"""Set by the command too. The resampler multiplies small matrices in threads of its own; threads of
PyTorch that spin while they wait take the cores that decode (seen: a forward pass 30 times slower);
and wsikd's own error repeats what OpenCV says about a damaged image."""


@dataclass(frozen=True)
class Beside:
    """The return value of a function whose last part, ``work``, may overlap the next task.

    ``work`` gives the value of the task or raises its error.
    """

    work: Callable[[], Any]


def serve(
    link: Connection, levels: Mapping[str, int], says: Connection, environment: Mapping[str, str]
) -> None:
    """Answer calls until the parent sends nothing more, or is gone.

    Args:
        link: brings pickled ``(name, function, arguments)``, or no bytes at all for the end.
        levels: of the parent's loggers, by name.
        says: takes the place of standard error, of libraries in C too.
        environment: the parent's.
    """
    os.dup2(says.fileno(), 2)
    says.close()
    os.environ.clear()  # a server's is the parent's of long ago
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
            rest.join()  # at most one is under way, and answers come in the order of the tasks
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
        WsikdError: it did; any other error becomes one, see ``wsikd.core.faults.explain``.
        BrokenPipeError: whoever read our output has closed it.
    """
    try:
        return function(report, *arguments)
    except (WsikdError, BrokenPipeError):
        raise
    except Exception as error:
        log.debug("%s", name, exc_info=True)
        raise explain(name, error) from error


class _Line:
    """The way to the parent, for any thread."""

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
    """Hands log records to the parent, with their text made already."""

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
            pass  # the parent is gone, and with it who would read this
        except Exception:  # noqa: BLE001 - as every handler: a record must not stop the work
            self.handleError(record)


def _answer(call: bytes, line: _Line) -> tuple[str, bytes | Beside]:
    """Name and pickled answer of a pickled call, or its remaining work."""
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
    with suppress(OSError):  # the parent is gone, and with it who would read this
        line.send_bytes(message)


def _forward_logs(line: _Line, levels: Mapping[str, int]) -> None:
    root = logging.getLogger()
    root.handlers[:] = [_Forward(line)]
    for name, level in levels.items():
        logging.getLogger(name or None).setLevel(level)


def _listen(link: Connection, calls: queue.SimpleQueue[bytes]) -> None:
    """Hand calls on. The parent's death, by whatever signal, closes the link and ends us."""
    while True:
        try:
            calls.put(link.recv_bytes())
        except (EOFError, OSError):
            os._exit(1)


def _leave(number: int, _frame: object) -> None:
    """Unwind, so that locks are released."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(128 + number)
