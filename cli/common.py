"""What the commands share: options, threads, bars, and slide after slide."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from wsikd.core.errors import OutputError, WsikdError
from wsikd.core.faults import explain

from .exits import LIBGL_REMEDY as LIBGL_REMEDY
from .exits import SOME_FAILED as SOME_FAILED
from .exits import is_libgl as is_libgl
from .exits import one_line_errors as one_line_errors
from .exits import printable
from .exits import together as together
from .exits import told as told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from wsikd.slides.listing.manifest import SlideEntry

log = logging.getLogger(__name__)


def input_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """``-i``: which slides."""
    return click.option(
        "-i",
        "--input",
        "inputs",
        multiple=True,
        required=True,
        metavar="SLIDES",
        help="A slide, a folder, a glob in quotes, or a CSV manifest (columns slide, mpp, label, "
        "patient, split, annotation, mask). May be given again.",
    )(command)


def slide_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of every command that reads slides."""
    for option in (
        click.option("--threads", type=click.IntRange(1), help="Reading threads  [default: cores]"),
        click.option(
            "--reader",
            default="auto",
            show_default=True,
            metavar="NAME",
            help="What reads the slides: auto, openslide, direct, tiatoolbox, or a reader that an "
            "installed package adds.",
        ),
        click.option(
            "--series",
            type=click.IntRange(0),
            metavar="N",
            help="Which image of a file with several, as info lists them.  [default: largest scan]",
        ),
        click.option(
            "--slide-mpp",
            type=click.FloatRange(0, min_open=True),
            metavar="UM",
            help="um per level-0 pixel, for slides where neither manifest nor file says it.",
        ),
        click.option(
            "--accept-grey",
            is_flag=True,
            help="Read slides that are not brightfield: grey, dark or fluorescent ones.",
        ),
    ):
        command = option(command)
    return command


def engine_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--engine``: what computes."""
    return click.option(
        "--engine",
        default="auto",
        show_default=True,
        metavar="NAME",
        help="What computes: auto, torch, compile, onnx, openvino, or an engine that an installed "
        "package adds.",
    )(command)


def tissue_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that decide which fields count as tissue."""
    for option in (
        click.option(
            "--min-tissue",
            type=click.FloatRange(0, 1),
            default=0.1,
            show_default=True,
            help="Smallest share of tissue for a field to be read.",
        ),
        click.option(
            "--tissue",
            default="otsu",
            show_default=True,
            metavar="NAME|PATH",
            help="How tissue is found: otsu, all, tiatoolbox-otsu, tiatoolbox-morphological, or a "
            "masker that an installed package adds; or your own mask, an image or GeoJSON, or a "
            "folder of masks named as the slides are.",
        ),
    ):
        command = option(command)
    return command


def own_tissue(tissue: str, entries: Sequence[SlideEntry], batch: Batch) -> list[SlideEntry]:
    """The slides with their masks where ``--tissue`` is a place of masks, else as they are.

    A slide that has none there is a failure of the batch. Raises ConfigError.
    """
    from wsikd.slides.listing.sidecar import no_mask, own_masks

    _, found, without = own_masks(tissue, entries)
    for entry in without:
        batch.failed(entry, no_mask(entry, tissue))
    return found


def use_threads(threads: int | None, jobs: int = 1) -> int:
    """Threads: what was asked, else one a core, shared out to the jobs. OpenCV gets one in each."""
    import cv2

    cv2.setNumThreads(1)
    return threads or max(1, (os.cpu_count() or 1) // max(1, jobs))


@dataclass
class Batch:
    """Slides one after another: a fault in one is written down, and the others go on.

    ``out`` receives ``failures.csv`` (slide, error, fault, remedy) when some slide failed; lines of
    slides that other runs or processes put there stay until those slides are done. ``quiet`` prints
    no line for a slide that went well.
    """

    out: Path | None
    quiet: bool = False
    failures: list[tuple[str, WsikdError]] = field(default_factory=list)
    _unwritten: dict[str, WsikdError | None] = field(default_factory=dict)

    def run(self, entries: Sequence[SlideEntry], work: Callable[[SlideEntry], str]) -> None:
        """Call ``work`` for each slide; what it returns is printed as that slide's line."""
        for entry in entries:
            start = time.perf_counter()
            try:
                line = work(entry)
            except WsikdError as error:
                self.failed(entry, error)
                continue
            except BrokenPipeError:  # nobody reads what is told: there is no sense in going on
                raise
            except Exception as error:
                log.debug("%s", entry.path, exc_info=True)
                self.failed(entry, explain(entry.name, error))
                continue
            self.went_well(entry, line, time.perf_counter() - start)

    def went_well(self, entry: SlideEntry, line: str, took_s: float) -> None:
        """Tell what came of a slide."""
        self._unwritten[entry.name] = None
        self._keep_failures(logging.DEBUG)
        if not self.quiet:
            click.echo(printable(f"{entry.name}: {line} ({took_s:.1f} s)"))

    def finish(self, done: str) -> None:
        """Sum up, failures last; exits with 3 when some slide failed."""
        self._keep_failures(logging.WARNING)
        if done:
            click.echo(f"{done}, {len(self.failures)} failed" if self.failures else done)
        for _, error in self.failures:
            click.echo(told(error), err=True)
        if self.failures:
            sys.exit(SOME_FAILED)

    def failed(self, entry: SlideEntry, error: WsikdError) -> None:
        """Write a failure down. Where the disk does not even take that, it is told at the end."""
        self.failures.append((entry.name, error))
        self._unwritten[entry.name] = error
        self._keep_failures(logging.DEBUG)

    def _keep_failures(self, level: int) -> None:
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


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM, which batch systems send before they kill, unwind as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, _frame: object) -> None:
        sys.exit(128 + number)

    own = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, own if own is not None else signal.SIG_DFL)


@contextmanager
def progress(label: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on standard error while something runs; nothing where there is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    own = sys.stderr
    with Progress(console=Console(stderr=True), transient=True, redirect_stdout=False) as bar:
        task = bar.add_task(label, total=None)

        def update(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        log_above(own, sys.stderr)
        try:
            yield update
        finally:
            log_above(sys.stderr, own)


def log_above(old: Any, new: Any) -> None:
    """Let what is logged to one stream go to another, e.g. rich's own, above a bar."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is old:
            handler.setStream(new)
