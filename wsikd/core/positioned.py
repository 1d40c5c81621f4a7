"""Reads at a position of an open file, by threads that share it, on every system.

Windows has neither ``os.pread`` nor ``os.preadv``: there the position of the file is moved under a
lock. Files are opened as binary, which is a choice on Windows alone.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_BINARY = getattr(os, "O_BINARY", 0)
_moving = threading.Lock()


def open_for_reading(path: str | Path) -> int:
    """Handle of a file, opened as binary. Raises OSError."""
    return os.open(path, os.O_RDONLY | _BINARY)


def read_at(handle: int, size: int, offset: int) -> bytes:
    """At most ``size`` bytes from ``offset`` on; fewer where the file ends. Raises OSError."""
    if hasattr(os, "pread"):
        return os.pread(handle, size, offset)
    with _moving:
        os.lseek(handle, offset, os.SEEK_SET)
        return os.read(handle, size)


def read_into_at(handle: int, out: memoryview, offset: int) -> int:
    """Fill ``out``, bytes, from ``offset`` on; how many were read. Raises OSError."""
    if hasattr(os, "preadv"):
        return os.preadv(handle, [out], offset)
    data = read_at(handle, len(out), offset)
    out[: len(data)] = data
    return len(data)
