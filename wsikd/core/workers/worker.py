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
from typing import TYPE_CHECKING, Any

from wsikd.core.errors import WsikdError
from wsikd.core.faults import explain
from wsikd.core.workers.progress import on_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from multiprocessing.connection import Connection

log = logging.getLogger(__name__)

REPORT, LOG, DONE, FAILED, ALIVE = "report", "log", "done", "failed", "alive"
ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
    "OPENCV_LOG_LEVEL": "SILENT",
}
"""Set by the command too. The resampler multiplies small matrices in threads of its own; threads of
PyTorch that spin while they wait take the cores that decode (seen: a forward pass 30 times slower);
and wsikd's own error repeats what OpenCV says about a damaged image."""


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
    while call := calls.get():
        line.send_bytes(_answer(call, line))


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


def _answer(call: bytes, line: _Line) -> bytes:
    """The pickled answer to a pickled call."""
    name = "worker process"
    try:
        name, function, arguments = pickle.loads(call)
        return pickle.dumps((DONE, answer(name, function, arguments, line.report)))
    except WsikdError as error:
        return pickle.dumps((FAILED, error))
    except Exception as error:
        log.debug("%s", name, exc_info=True)
        return pickle.dumps((FAILED, explain(name, error)))


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
