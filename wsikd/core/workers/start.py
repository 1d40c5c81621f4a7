"""Start of worker processes: they are forked from a server without threads, or else spawned.

A spawned process takes seconds to import. The server imports once, and its children start at once.
The user's own process is never forked: a lock that one of its threads holds would stay locked.
The ``wsikd`` command forks its first worker from itself, before it has threads. That saves the
server, which would import again what the command has imported.
"""

from __future__ import annotations

import gc
import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from wsikd.core.workers.served import NAMES, threads

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.context import ForkContext, ForkServerContext, SpawnContext

_wanted: dict[str, None] = {}
_own = False
"""Whether this process is the command's, has not been forked, and may be."""
_FRAMEWORKS = frozenset({"torch", "tensorflow"})
"""What may hold a device, or threads that it expects to find again."""


def want(*modules: str) -> None:
    """Let the server import modules when it starts; a running server does not change."""
    _wanted.update(dict.fromkeys(modules))


@contextmanager
def own_process() -> Iterator[None]:
    """Within the block, this process may be forked once, if it has one thread then."""
    global _own
    before, _own = _own, True
    try:
        yield
    finally:
        _own = before


def _forkable() -> bool:
    return _own and not _FRAMEWORKS & sys.modules.keys() and threads() == 1


def context(*modules: str) -> ForkContext | ForkServerContext | SpawnContext:
    """The multiprocessing context that starts a process.

    Args:
        modules: modules that the server imports when it starts.
    """
    global _own
    import multiprocessing

    if sys.platform != "linux":  # frameworks of macOS break after a fork
        return multiprocessing.get_context("spawn")
    if _forkable():
        _own = False  # threads that listen to the first worker may have ended before the next
        gc.freeze()  # a collection in the child would copy the pages of all objects
        return multiprocessing.get_context("fork")
    from multiprocessing import forkserver

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
