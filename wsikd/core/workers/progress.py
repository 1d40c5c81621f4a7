"""Sign of progress from long work, for the process that checks for stalls."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

EVERY_S = 2.0
_notify: Callable[[], None] | None = None
_last = 0.0


def on_progress(notify: Callable[[], None] | None) -> None:
    """Let ``notify`` be called, at most every ``EVERY_S`` seconds, during the work."""
    global _notify, _last
    _notify, _last = notify, 0.0


def progressing() -> None:
    """Report that a piece of work is done. Call it in long stages, from any thread."""
    global _last
    if _notify is None:
        return
    now = time.monotonic()
    if now - _last >= EVERY_S:
        _last = now
        _notify()
