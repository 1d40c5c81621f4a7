"""Imports in the fork server: modules that the worker processes will need."""

from __future__ import annotations

import gc
import os
import sys
from contextlib import suppress
from importlib import import_module

from wsikd.core.workers.worker import ENVIRONMENT

NAMES = "WSIKD_WORKERS_IMPORT"


def threads() -> int:
    """How many threads this process has, those of C libraries too (Linux)."""
    return len(os.listdir("/proc/self/task"))  # noqa: PTH208 - names are enough


def prepare(names: str) -> None:
    """Import modules, and ignore failures: a process that needs the module raises the error.

    If one of them starts a thread, the server restarts without these imports.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)  # else OpenBLAS starts threads, which are lost at a fork
    for name in names.split():
        with suppress(Exception):
            import_module(name)
    if threads() > 1:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    gc.collect()
    gc.freeze()  # garbage collection in a child would copy the pages of all objects


if NAMES in os.environ:
    prepare(os.environ.pop(NAMES))
