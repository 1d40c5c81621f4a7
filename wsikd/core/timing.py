"""Where the time went, stage by stage."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

T = TypeVar("T")


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


class Waiting:
    """Measures the share of a loop's time that it waits for its next item."""

    def __init__(self) -> None:
        """The clock starts with the loop."""
        self.waited_s = self.passed_s = 0.0

    def watch(self, items: Iterable[T]) -> Iterator[T]:
        """Yield the items, and measure the waiting."""
        iterator, begun = iter(items), time.perf_counter()
        while True:
            asked = time.perf_counter()
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                now = time.perf_counter()
                self.waited_s += now - asked
                self.passed_s = now - begun
            yield item

    @property
    def share(self) -> float:
        """Share of waiting in the time until the last item was requested: 0 to 1."""
        return self.waited_s / self.passed_s if self.passed_s else 0.0


def span(seconds: float | None) -> str:
    """A length of time as people say it.

    >>> span(None), span(61), span(600), span(10_000)
    ('unknown time', '61 s', '10 min', '2.8 h')
    """
    if seconds is None:
        return "unknown time"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
