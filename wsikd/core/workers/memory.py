"""Freed memory is kept for the next batch, where the C library would hand it back at once."""

from __future__ import annotations

import ctypes
import os

KEPT_BYTES = 256 << 20
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_OWN = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed(most: int = KEPT_BYTES) -> bool:
    """Have this process keep freed blocks up to ``most`` bytes, and as much at the heap's end.

    A network's layers in PyTorch take and free blocks of megabytes. glibc takes such from the
    system and returns them each time, and every fresh page costs a fault: up to two fifths of the
    CPU time of a pass.

    Returns:
        Whether it was set: not without glibc, nor where the user has set it in the environment.
    """
    if os.name != "posix" or any(name in os.environ for name in _OWN):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    return all(library.mallopt(which, most) == 1 for which in (_MMAP_THRESHOLD, _TRIM_THRESHOLD))
