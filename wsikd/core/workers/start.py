"""Start of worker processes: they are forked from a server without threads, or else spawned.

A spawned process takes seconds to import. The server imports once, and its children start at once.
The user's own process is never forked: a lock that one of its threads holds would stay locked.
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
    """Let the server import modules when it starts; a running server does not change."""
    _wanted.update(dict.fromkeys(modules))


def context(*modules: str) -> ForkServerContext | SpawnContext:
    """The multiprocessing context that starts a process.

    Args:
        modules: modules that the server imports when it starts.
    """
    if sys.platform != "linux":  # frameworks of macOS break after a fork
        return multiprocessing.get_context("spawn")
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["wsikd.core.workers.served"])
    os.environ[NAMES] = " ".join({**_wanted, **dict.fromkeys(modules)})
    try:
        forkserver.ensure_running()
    except OSError:  # the path of the temporary folder is too long for the server's socket
        return multiprocessing.get_context("spawn")
    finally:
        del os.environ[NAMES]
    return server
