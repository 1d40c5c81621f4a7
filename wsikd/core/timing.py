"""Where the time went, stage by stage."""

from __future__ import annotations

import threading
import time
from statistics import median
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

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


class Forecast:
    """States once, early in a training, how long it will take."""

    SKIPPED, MEASURED = 3, 8

    def __init__(
        self, say: Callable[[str], None], *, steps: int, more: float, at_most: bool = False
    ) -> None:
        """Measure the time between steps.

        Args:
            say: is given the line.
            steps: of an epoch.
            more: what validation takes, as a share of the time of an epoch's steps.
            at_most: whether the training may end earlier.
        """
        self._say, self._steps, self._more, self._at_most = say, steps, more, at_most
        self._times: list[float] = []
        self._last: float | None = None
        self._said, self._epochs = False, 0

    def begin_epoch(self, left: int) -> None:
        """An epoch starts; ``left`` are to come, it included."""
        self._last, self._epochs = None, left if not self._epochs else self._epochs

    def step(self) -> None:
        """A step is done. The first of an epoch waits for data, and the first few are slow."""
        now, last = time.perf_counter(), self._last
        self._last = now
        if last is None or self._said:
            return
        self._times.append(now - last)
        if len(self._times) == self.SKIPPED + self.MEASURED:
            each = median(self._times[self.SKIPPED :]) * self._steps * (1 + self._more)
            self._state(each, f"{self.MEASURED} steps")

    def end_epoch(self, seconds: float) -> None:
        """An epoch with few steps is measured as a whole."""
        if not self._said:
            self._state(seconds, "the first epoch")

    def _state(self, each: float, on: str) -> None:
        self._said = True
        if self._epochs > 1:
            most = "at most " if self._at_most else ""
            took = long_span(each * self._epochs)
            self._say(f"about {took} for {most}{self._epochs} epochs, measured on {on}")


def long_span(seconds: float) -> str:
    """A length of time in words.

    >>> long_span(40), long_span(700), long_span(9000)
    ('40 seconds', '12 minutes', '2.5 hours')
    """
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


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
