"""Grade what arrives in a folder, until the process is stopped."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from wsikd.core.about import __version__
from wsikd.core.errors import NoSlidesError, OutputError, WsikdError
from wsikd.core.output.batch import Batch
from wsikd.core.output.files import check_file
from wsikd.core.output.lock import locked
from wsikd.core.output.markers import METRICS, WATCH, WATCH_KIND, WATCH_LOG
from wsikd.core.run import write_json_atomic, write_text_atomic
from wsikd.core.workers.terminable import terminable
from wsikd.grade.runs.arrivals import Arrivals
from wsikd.grade.runs.folder import Arrived, Inputs, Unwatched, grade_slides

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from wsikd.core.output.batch import Named
    from wsikd.grade.runs.folder import Running, Wanted
    from wsikd.grade.runs.jobs import Grading
    from wsikd.slides.listing.entry import SlideEntry

log = logging.getLogger(__name__)

STATE, EVENTS = "watch.json", "watch.jsonl"
_COUNTERS = ("graded", "withheld", "failed")


@dataclass(frozen=True)
class Pace:
    """How often the folder is listed, and when a slide counts as complete.

    Attributes:
        every_s: seconds between two listings.
        settle_s: seconds for which size and time of change of a slide must have stayed the same.
        once: return when no slide is waiting.
    """

    every_s: float = 5.0
    settle_s: float = 10.0
    once: bool = False


@dataclass
class Reporter(Unwatched):
    """Keeps the log of events, the state, and the file for Prometheus.

    Attributes:
        out: the output folder.
        prometheus: file for the textfile collector of Prometheus' node exporter, if any.
    """

    out: Path
    prometheus: Path | None = None
    _state: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise OutputError where a file of one of these names is not ours."""
        check_file(self.out / STATE, WATCH)
        check_file(self.out / EVENTS, WATCH_LOG)
        if self.prometheus is not None:
            check_file(self.prometheus, METRICS)
        self._state = {
            "kind": WATCH_KIND, "wsikd": __version__, "pid": os.getpid(),
            "host": socket.gethostname(), "since": _now(), "state": "starting", "waiting": 0,
            **dict.fromkeys(_COUNTERS, 0),
        }  # fmt: skip

    def event(self, what: str, **more: object) -> None:
        """Append a line to the log, in one write."""
        line = json.dumps({"watch": 1, "time": _now(), "event": what, **more}) + "\n"
        handle = os.open(self.out / EVENTS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)

    def state(self, **changes: object) -> None:
        """Update the state, and write it. A full disk is logged."""
        self._state |= changes | {"at": _now()}
        try:
            write_json_atomic(self.out / STATE, self._state, WATCH)
            if self.prometheus is not None:
                write_text_atomic(self.prometheus, _metrics(self._state), METRICS)
        except OutputError as error:
            log.warning("%s", error)

    def count(self, what: str) -> None:
        """Count a slide, and write the state."""
        self.state(**{what: self._state[what] + 1})

    def graded(self, name: str, row: Mapping[str, Any], *, made: bool, took_s: float) -> None:
        """A slide is done. What was there already is not counted again."""
        if not made:
            return
        withheld = str(row.get("grade_status", "")).startswith("withheld")
        self.event(
            "withheld" if withheld else "graded", slide=name, seconds=round(took_s, 2),
            grade_status=row.get("grade_status"), grade_group=row.get("isup_grade_group"),
            review=row.get("review"),
        )  # fmt: skip
        self.count("withheld" if withheld else "graded")


@dataclass
class _Batch(Batch):
    """Reports failed slides; finished ones are reported with their row."""

    reporter: Reporter | None = None
    line: Callable[[str], None] = log.info

    def say(self, line: str) -> None:
        self.line(line)

    def failed(self, entry: Named, error: WsikdError) -> None:
        super().failed(entry, error)
        if self.reporter is not None:
            self.reporter.event("failed", slide=entry.name, fault=str(error))
            self.reporter.count("failed")
        log.warning("%s", error)


def watch(
    inputs: Inputs,
    grading: Grading,
    wanted: Wanted,
    how: Running,
    reporter: Reporter,
    pace: Pace,
    say: Callable[[str], None] = log.info,
) -> None:
    """Grade the slides of a folder, and those that arrive, until SIGTERM or Ctrl-C.

    A slide that failed is graded again once its files change, or the watch is started again. What
    is done is kept: a slide's result appears whole or not at all.

    Args:
        inputs: the folder.
        grading: the network and its settings.
        wanted: what to write for each slide.
        how: processes and threads.
        reporter: keeps log and state in the output folder.
        pace: how often to look.
        say: receives a line for each slide.

    Raises:
        OutputError: another watch uses the output folder, or it cannot be written.
        WsikdError: nothing can be graded: fault of the student or the settings.
    """
    arrivals, out = Arrivals(pace.settle_s), reporter.out
    with locked(out / "watch"), terminable():
        reporter.event("started", student=str(grading.model))
        try:
            while True:
                ready = arrivals.ready(_listed(inputs), time.monotonic())
                if ready:
                    reporter.state(state="grading", waiting=arrivals.waiting)
                    _grade(ready, inputs, grading, wanted, how, reporter, say)
                    arrivals.handled(ready)
                reporter.state(state="waiting", waiting=arrivals.waiting)
                if pace.once and not arrivals.waiting:
                    return
                time.sleep(pace.every_s)
        except SystemExit as asked:
            if asked.code != 128 + signal.SIGTERM:
                raise
        finally:
            reporter.state(state="stopped")
            reporter.event("stopped")


def _listed(inputs: Inputs) -> list[SlideEntry]:
    """The slides that are there; none where the folder is empty, or out of reach for a while."""
    try:
        return inputs.find(Batch(None))
    except (NoSlidesError, OSError) as error:
        log.debug("%s", error)
        return []


def _grade(
    ready: list[SlideEntry],
    inputs: Inputs,
    grading: Grading,
    wanted: Wanted,
    how: Running,
    reporter: Reporter,
    say: Callable[[str], None],
) -> None:
    batch = _Batch(reporter.out, reporter=reporter, line=say)
    arrived = Arrived(**vars(inputs), entries=tuple(ready))
    grade_slides(arrived, grading, replace(wanted), how, reporter.out, batch, reporter)
    batch.keep_failures(logging.WARNING)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _metrics(state: Mapping[str, Any]) -> str:
    """The state in Prometheus' text format."""
    lines = []
    for name in _COUNTERS:
        lines += [
            f"# HELP wsikd_watch_{name}_total Slides {name} since the watch was started.",
            f"# TYPE wsikd_watch_{name}_total counter",
            f"wsikd_watch_{name}_total {state[name]}",
        ]
    up = int(state["state"] != "stopped")
    for name, text, value in (
        ("waiting", "Slides that are not done.", state["waiting"]),
        ("up", "1 while the watch runs.", up),
        ("seen_timestamp_seconds", "Time of the last look.", f"{time.time():.0f}"),
    ):
        lines += [
            f"# HELP wsikd_watch_{name} {text}",
            f"# TYPE wsikd_watch_{name} gauge",
            f"wsikd_watch_{name} {value}",
        ]
    return "\n".join(lines) + "\n"
