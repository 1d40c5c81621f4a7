"""Processes slides one by one; a failed slide is recorded, and the others continue."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

from wsikd.core.errors import OutputError, WsikdError
from wsikd.core.faults import explain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

log = logging.getLogger(__name__)


class Named(Protocol):
    """Anything with a name, such as a ``SlideEntry``."""

    @property
    def name(self) -> str:
        """Unique within a run."""


Entry = TypeVar("Entry", bound=Named)


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
            try:
                line = work(entry)
            except WsikdError as error:
                self.failed(entry, error)
                continue
            except BrokenPipeError:  # the reader of the report has closed the pipe: stop
                raise
            except Exception as error:
                log.debug("%s", entry.name, exc_info=True)
                self.failed(entry, explain(entry.name, error))
                continue
            self.went_well(entry, line, time.perf_counter() - start)

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
