"""What the commands share: options, threads, bars, and slide after slide."""

from __future__ import annotations

import logging
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import click

from wsikd.core.output import batch as core

from .exits import LIBGL_REMEDY as LIBGL_REMEDY
from .exits import SOME_FAILED as SOME_FAILED
from .exits import error_line as error_line
from .exits import is_libgl as is_libgl
from .exits import one_line_errors as one_line_errors
from .exits import printable
from .exits import together as together

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from wsikd.core.workers.process import Task

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
        "patient, split, annotation, mask). Repeatable.",
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
            help="Slide reader: auto, openslide, direct, tiatoolbox, or a reader that an "
            "installed package adds.",
        ),
        click.option(
            "--series",
            type=click.IntRange(0),
            metavar="N",
            help="Number of the image in a file with several, as listed by wsikd info.  "
            "[default: largest scan]",
        ),
        click.option(
            "--slide-mpp",
            type=click.FloatRange(0, min_open=True),
            metavar="UM",
            help="um per level-0 pixel, for slides without a resolution in manifest or file.",
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
        help="Inference engine: auto, torch, compile, onnx, openvino, or an engine that an "
        "installed package adds.",
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
            "folder of masks named after the slides.",
        ),
    ):
        command = option(command)
    return command


@dataclass
class Batch(core.Batch):
    """The slides of a command: a line for each that is done, and an exit code at the end."""

    def say(self, line: str) -> None:
        """Print a line of the report."""
        click.echo(printable(line))

    def finish(self, done: str, note: str = "") -> None:
        """Sum up, failures last; exits with 3 when some slide failed. ``note`` ends the line."""
        self.keep_failures(logging.WARNING)
        if done:
            line = f"{done}, {len(self.failures)} failed" if self.failures else done
            click.echo(f"{line}. {note}" if note else line)
        for _, error in self.failures:
            click.echo(error_line(error), err=True)
        if self.failures:
            sys.exit(SOME_FAILED)


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


class SlideBar:
    """How far the slide at hand has come, where there is a terminal."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._name: str | None = None
        self._update: Callable[[int, int], None] | None = None

    def report(self, task: Task, values: tuple[Any, ...]) -> None:
        """Take (fields done, fields in all) of a slide."""
        if task.name != self._name:
            self.end()
            self._name, self._update = task.name, self._stack.enter_context(progress(task.name))
        if self._update:
            self._update(*values)

    def end(self) -> None:
        """The slide at hand is done."""
        self._stack.close()
        self._name = self._update = None

    def note(self, line: str) -> None:
        """Print a line on how the slides are graded."""
        click.echo(line, err=True)

    def graded(self, name: str, row: Mapping[str, Any], *, made: bool, took_s: float) -> None:
        """Do nothing: the batch prints a line."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
