"""Values of "auto" settings on this machine: threads, memory, precision."""

from __future__ import annotations

import os
from typing import Literal

from wsikd.core.workers.machine import cache_gb, reader_threads

Auto = Literal["auto"]


def threads_of(asked: int | Auto) -> int:
    """Number of reading threads; "auto": the usable cores, divided among local processes."""
    return reader_threads(_here()) if asked == "auto" else asked


def cache_of(asked: float | Auto) -> float:
    """Memory for decoded data in 1e9 bytes; "auto": a share of the available memory."""
    return cache_gb(_here()) if asked == "auto" else asked


def _here() -> int:
    """Number of processes that ``torchrun`` has started on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
