"""Lock file that keeps an output to one process at a time; locks of killed processes expire."""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from wsikd.core.errors import OutputError
from wsikd.core.output.files import check_file, drop_file
from wsikd.core.output.markers import LOCK

if TYPE_CHECKING:
    from collections.abc import Iterator

_held: set[str] = set()
_guard = threading.Lock()
_RETRY_S = 0.02


@contextmanager
def locked(path: Path, *, wait_s: float = 0.0) -> Iterator[None]:
    """Keep other processes, and other threads of this one, off ``path`` while the block runs.

    ``<name>.lock`` next to it names the holder's process, its start and its host, and is removed
    when the block ends. A lock that a killed process of this host left is taken over. If another
    process holds it, this one waits up to ``wait_s`` seconds.

    Raises:
        OutputError: another process is using it, or the lock's path is another file.
        OSError: the lock cannot be written.
    """
    file = path.with_name(f"{path.name}.lock")
    check_file(file, LOCK)
    key = str(file.absolute())
    file.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + wait_s
    while True:
        try:
            _hold(path, file, key)
            break
        except OutputError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(_RETRY_S)
    try:
        yield
    finally:
        with _guard, suppress(OSError, OutputError):
            _held.discard(key)
            drop_file(file, LOCK)


def _hold(path: Path, file: Path, key: str) -> None:
    with _guard:
        if key in _held:
            raise _busy(path, file, str(os.getpid()), socket.gethostname())
        while not _take(path, file):
            pass
        _held.add(key)


def _take(path: Path, file: Path) -> bool:
    """Write this process into the lock; False if its holder removed the file meanwhile."""
    handle = os.open(file, os.O_CREAT | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0), 0o644)
    with os.fdopen(handle, "r+", encoding="utf-8", errors="replace") as stream:
        _alone(stream.fileno())
        try:
            if not os.path.samestat(os.fstat(stream.fileno()), file.stat()):
                return False
        except FileNotFoundError:
            return False
        holder = stream.read().split()
        if _alive(holder):
            raise _busy(path, file, holder[0], holder[2])
        stream.seek(0)
        stream.truncate()
        try:
            stream.write(f"{os.getpid()} {_started(os.getpid())} {socket.gethostname()}\n")
            stream.flush()
        except OSError:  # the disk is full: leave no lock behind
            drop_file(file, LOCK)
            raise
    return True


def _alone(handle: int) -> None:
    """Wait until no other process has the lock file open in ``_take``.

    So two processes cannot both take a lock over. File systems without such locks are ignored.
    """
    try:
        import fcntl
    except ImportError:
        return
    with suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_EX)


def _alive(holder: list[str]) -> bool:
    """Whether the process that a lock names may still run; always True for another host."""
    if len(holder) != 3 or not holder[0].isdecimal():
        return False
    pid, started, host = int(holder[0]), holder[1], holder[2]
    if host != socket.gethostname():
        return True
    if pid == os.getpid():
        return False  # this process does not hold it: an earlier process had the same number
    if os.name == "nt":
        return True  # on Windows, os.kill would end that process
    try:
        os.kill(pid, 0)
    except PermissionError:
        pass
    except (OSError, OverflowError):
        return False
    state, found = _process(pid)
    if state in ("Z", "X"):
        return False  # it was killed, but its exit code has not been collected
    return found in (started, "-") or started == "-"


def _started(pid: int) -> str:
    return _process(pid)[1]


def _process(pid: int) -> tuple[str, str]:
    """State of a process, and its start in clock ticks since boot; "-" if unknown."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        fields = text.rpartition(")")[2].split()
        return fields[0], fields[19]
    except (OSError, IndexError):
        return "-", "-"


def _busy(path: Path, file: Path, pid: str, host: str) -> OutputError:
    fault = f"another process (pid {pid} on {host}) is using it"
    return OutputError(path, fault, f"wait for it, or remove {file} if that process has ended")
