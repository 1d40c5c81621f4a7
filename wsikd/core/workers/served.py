"""Imported by the server that worker processes are forked from: imports what they will need."""

from __future__ import annotations

import gc
import os
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from wsikd.core.workers.worker import ENVIRONMENT

NAMES = "WSIKD_WORKERS_IMPORT"


def prepare(names: str) -> None:
    """Import modules; a process that needs one which fails raises that again.

    A server in which one of them has started a thread starts again without them.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)  # else OpenBLAS starts threads, which no fork survives
    for name in names.split():
        with suppress(Exception):
            import_module(name)
    if len(list(Path("/proc/self/task").iterdir())) > 1:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    gc.collect()
    gc.freeze()  # a collection in a child would copy the pages of all objects


if NAMES in os.environ:
    prepare(os.environ.pop(NAMES))
