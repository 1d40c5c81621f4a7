"""How far ``wsikd tile`` has come, over all slides."""

from __future__ import annotations

import logging
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

from wsikd.core.timing import span

from .common import log_above

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import TracebackType

    from wsikd.core.workers.process import Outcome, Task
    from wsikd.slides.listing.manifest import SlideEntry
    from wsikd.tiles.jobs import Pace

log = logging.getLogger(__name__)


class Tally:
    """Adds up what slides report. A slide counts by its bytes, which go with its tissue.

    Slides that need no work, since they are done or fail at once, leave the count of the time.
    """

    def __init__(
        self, weights: Mapping[str, float], now: Callable[[], float] = time.monotonic
    ) -> None:
        """Start the clock for slides of these names and weights."""
        self._weights = dict(weights)
        self._share: dict[str, float] = {}
        self._chunks: dict[str, int] = {}
        self._now, self._start = now, now()
        self.slides, self.ended = len(weights), 0
        self.patches = self.level0_mp = 0.0

    def report(self, name: str, done: int, total: int, pace: Pace) -> None:
        """A slide has come so far."""
        fresh = done - self._chunks.get(name, 0)
        self._chunks[name] = done
        self._share[name] = done / total if total else 1.0
        self.patches += fresh * pace.patches
        self.level0_mp += fresh * pace.level0_mp

    def end(self, name: str, *, worked: bool) -> None:
        """A slide has ended, with work or without."""
        self.ended += 1
        self._share[name] = 1.0
        if not worked:
            self._weights[name] = 0.0

    @property
    def share(self) -> float:
        """Part of the work that is done, 0 to 1."""
        total = sum(self._weights.values())
        done = sum(self._weights[name] * part for name, part in self._share.items())
        return done / total if total else 1.0

    @property
    def left_s(self) -> float | None:
        """Seconds left at the present rate; None if nothing is known yet."""
        share = self.share
        return (self._now() - self._start) * (1 - share) / share if share else None

    def text(self) -> str:
        """Slides, patches/s, MP/s of level 0, and the time left."""
        passed = max(1e-9, self._now() - self._start)
        left = self.left_s
        return (
            f"{self.ended} of {self.slides} slides, {self.patches / passed:.0f} patches/s, "
            f"{self.level0_mp / passed:.0f} MP/s, {span(left)} left"
        )


class TileProgress:
    """A bar on standard error; where there is no terminal, a line in the log for each slide."""

    def __init__(self, entries: Sequence[SlideEntry]) -> None:
        """Prepare; the clock starts with the block."""
        self._entries = entries
        self._bar: Any = None

    def __enter__(self) -> Self:
        self._tally = Tally({entry.name: _weight(entry) for entry in self._entries})
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

            columns = (BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"))
            self._bar = Progress(
                *columns,
                console=Console(stderr=True),
                transient=True,
                redirect_stdout=False,
            )
            self._line = self._bar.add_task(self._tally.text(), total=1.0)
            self._own_stderr = sys.stderr
            self._start()
        return self

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Take the bar away while the block writes to the terminal."""
        if self._bar is None:
            yield
            return
        self._stop()
        yield
        self._start()

    def _start(self) -> None:
        """Show the bar; what is logged goes above it, by way of rich's own standard error."""
        self._bar.start()
        log_above(self._own_stderr, sys.stderr)

    def _stop(self) -> None:
        log_above(sys.stderr, self._own_stderr)
        self._bar.stop()

    def reported(self, task: Task, values: tuple[Any, ...]) -> None:
        """Take what the process of a slide has reported."""
        self._tally.report(task.name, *values)
        self._show()

    def ended(self, outcome: Outcome) -> None:
        """Count a slide that is done or has failed."""
        worked = outcome.error is None and outcome.value.made
        self._tally.end(outcome.task.name, worked=worked)
        self._show()
        if self._bar is None and self._tally.slides > 1:
            log.info("%s", self._tally.text())

    def _show(self) -> None:
        if self._bar is not None:
            text, share = self._tally.text(), self._tally.share
            self._bar.update(self._line, description=text, completed=share)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._stop()


def _weight(entry: SlideEntry) -> float:
    try:
        return float(max(1, entry.path.stat().st_size))
    except OSError:
        return 1.0
