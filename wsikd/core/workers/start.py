"""How worker processes start: forked from a server without threads, or else spawned.

A spawned process imports for seconds. The server imports once, and its children start at once. A
process of the user's is never forked: a lock that one of its threads holds would stay locked.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from multiprocessing import forkserver
from typing import TYPE_CHECKING

from wsikd.core.workers.served import NAMES

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, SpawnContext

_wanted: dict[str, None] = {}


def want(*modules: str) -> None:
    """Have the server import modules when it starts; a server that runs stays as it is."""
    _wanted.update(dict.fromkeys(modules))


def context(*modules: str) -> ForkServerContext | SpawnContext:
    """What starts a process.

    Args:
        modules: for the server to import when it starts.
    """
    if sys.platform != "linux":  # frameworks of macOS do not survive a fork
        return multiprocessing.get_context("spawn")
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["wsikd.core.workers.served"])
    os.environ[NAMES] = " ".join({**_wanted, **dict.fromkeys(modules)})
    try:
        forkserver.ensure_running()
    except OSError:  # its socket needs a temporary folder of a short name
        return multiprocessing.get_context("spawn")
    finally:
        del os.environ[NAMES]
    return server
