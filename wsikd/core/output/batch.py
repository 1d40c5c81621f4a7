"""Processes slides one by one; a failed slide is recorded, and the others continue."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

from wsikd.core.errors import OutputError, WsikdError
from wsikd.core.faults import explain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Future
    from pathlib import Path

log = logging.getLogger(__name__)


class Named(Protocol):
    """Anything with a name, such as a ``SlideEntry``."""

    @property
    def name(self) -> str:
        """Unique within a run."""


Entry = TypeVar("Entry", bound=Named)
T = TypeVar("T")


@dataclass
class Batch:
    """The slides of one run, and which of them failed.

    If a slide fails, ``failures.csv`` (slide, error, fault, remedy) is written to ``out``. Lines of
    other runs or processes stay until their slides are done.
    """

    out: Path | None
    failures: list[tuple[str, WsikdError]] = field(default_factory=list)
    _unwritten: dict[str, WsikdError | None] = field(default_factory=dict)

    def say(self, line: str) -> None:
        """Receive a line of the run's report; commands print it."""

    def run(self, entries: Iterable[Entry], work: Callable[[Entry], str]) -> None:
        """Call ``work`` for each slide; it returns the slide's line of the report."""
        for entry in entries:
            start = time.perf_counter()
            if (line := self._of(entry, partial(work, entry))) is not None:
                self.went_well(entry, line, time.perf_counter() - start)

    def run_beside(
        self, entries: Iterable[Entry], work: Callable[[Entry], Callable[[], str]]
    ) -> None:
        """The same; what ``work`` returns ends the slide, and gives its line.

        It is called in a thread beside the work of the next slide; slides are reported in order.
        """

        def ended(finish: Callable[[], str], start: float) -> tuple[str, float]:
            return finish(), time.perf_counter() - start

        with ThreadPoolExecutor(1) as pool:
            report: Callable[[], None] | None = None
            for entry in entries:
                start = time.perf_counter()
                finish = self._of(entry, partial(work, entry))
                before, report = report, None
                if finish is not None:
                    done = pool.submit(ended, finish, start)
                    report = partial(self._report, entry, done)
                if before is not None:
                    before()
            if report is not None:
                report()

    def _report(self, entry: Named, done: Future[tuple[str, float]]) -> None:
        if (found := self._of(entry, done.result)) is not None:
            self.went_well(entry, *found)

    def _of(self, entry: Named, work: Callable[[], T]) -> T | None:
        """What ``work`` gives; None if the slide has failed."""
        try:
            return work()
        except WsikdError as error:
            self.failed(entry, error)
        except BrokenPipeError:  # the reader of the report has closed the pipe: stop
            raise
        except Exception as error:
            log.debug("%s", entry.name, exc_info=True)
            self.failed(entry, explain(entry.name, error))
        return None

    def went_well(self, entry: Named, line: str, took_s: float) -> None:
        """Report a slide that is done."""
        self._unwritten[entry.name] = None
        self.keep_failures(logging.DEBUG)
        self.say(f"{entry.name}: {line} ({took_s:.1f} s)")

    def failed(self, entry: Named, error: WsikdError) -> None:
        """Record a failure. If it cannot be written to the disk, it is logged at the end."""
        self.failures.append((entry.name, error))
        self._unwritten[entry.name] = error
        self.keep_failures(logging.DEBUG)

    def keep_failures(self, level: int) -> None:
        """Bring ``failures.csv`` up to date; a full disk is logged at ``level``."""
        try:
            self._write_failures()
        except OutputError as full:
            log.log(level, "%s", full)

    def _write_failures(self) -> None:
        if self.out is None or not self._unwritten:
            return
        from wsikd.core.output.failures import update_failures

        failed = {name: error for name, error in self._unwritten.items() if error is not None}
        update_failures(self.out, failed, self._unwritten.keys() - failed.keys())
        self._unwritten.clear()
