"""Where the time went, stage by stage."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class StageClock:
    """Adds up the time that threads spend in named stages.

    Stages that run beside each other in several threads each count in full, so the sum of the
    stages may exceed the wall time of the whole.
    """

    def __init__(self) -> None:
        """Start with no stage."""
        self.seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    def __call__(self, stage: str) -> _Timed:
        """Time a ``with`` block under the name ``stage``."""
        return _Timed(self, stage)

    def add(self, seconds: Mapping[str, float]) -> None:
        """Add stages that another clock has timed."""
        with self._lock:
            for stage, spent in seconds.items():
                self.seconds[stage] = self.seconds.get(stage, 0.0) + spent


class _Timed:
    """One ``with`` block; a class, since it stands around reads of a millisecond."""

    __slots__ = ("clock", "stage", "start")

    def __init__(self, clock: StageClock, stage: str) -> None:
        self.clock, self.stage = clock, stage

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.clock.add({self.stage: time.perf_counter() - self.start})
