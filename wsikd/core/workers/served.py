"""Imported by the server that worker processes are forked from: imports what they will need."""

from __future__ import annotations

import gc
import os
from contextlib import suppress
from importlib import import_module

from wsikd.core.workers.worker import ENVIRONMENT

NAMES = "WSIKD_WORKERS_IMPORT"


def prepare(names: str) -> None:
    """Import modules; a process that needs one which fails raises that again."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)  # else OpenBLAS starts threads, which no fork survives
    for name in names.split():
        with suppress(Exception):
            import_module(name)
    gc.collect()
    gc.freeze()  # a collection in a child would copy the pages of all objects


if NAMES in os.environ:
    prepare(os.environ.pop(NAMES))
