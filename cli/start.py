"""How a command begins: the environment of its libraries, and what is logged."""

from __future__ import annotations

import gc
import logging
import os

from wsikd.core.workers.worker import ENVIRONMENT

_GARBAGE = (100_000, 20, 20)
"""Objects between collections: with Python's 700 the imports alone make hundreds of them, and
each of those at 20,000 takes 10 ms."""
_OF_COMMANDS = {"PYDANTIC_DISABLE_PLUGINS": "__all__"}
"""Pydantic looks for plugins in every installed package, which takes 50 ms; no command has any."""
LEVELS = ("debug", "info", "warning", "error")


def begin(log_level: str) -> None:
    """Set the environment, where the caller has not, and log to standard error.

    Args:
        log_level: one of ``LEVELS``.
    """
    for name, value in (ENVIRONMENT | _OF_COMMANDS).items():
        os.environ.setdefault(name, value)
    gc.set_threshold(*_GARBAGE)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("wsikd").setLevel(log_level.upper())
    if log_level != "debug":
        logging.getLogger("tifffile").setLevel(
            logging.CRITICAL
        )  # wsikd reports the faults of files
