"""How a command ends: one line for what went wrong, and an exit code.

0 done, 1 a fault of wsikd, 2 a wrong call, setting, file or machine, 3 some slide failed, 4 no
slide found; 128 + n where signal n ended it (130 for Ctrl-C, 141 where nobody reads the output).
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NoReturn

import click

from wsikd.core.errors import ConfigError, WsikdError
from wsikd.core.faults import explain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

log = logging.getLogger(__name__)

SOME_FAILED = 3
CODES = (
    "0 done, 1 fault of wsikd, 2 wrong call, setting, file or machine, 3 some slide failed, "
    "4 no slide found, 128+n ended by signal n"
)
INTERRUPTED = 128 + signal.SIGINT
UNREAD = 128 + 13  # SIGPIPE, which Windows does not name
LIBGL_REMEDY = "on Debian: apt-get install libgl1 libglib2.0-0"
_REPORT_IT = "run it again with --log-level debug and report the traceback"


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End with one line and an exit code; the traceback is logged at level debug."""
    try:
        yield
    except (click.ClickException, click.exceptions.Exit, click.Abort):
        raise  # click's own, of a wrong call
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        with suppress(OSError):  # so that the rest of the buffer does not fail at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(UNREAD)
    except Exception as error:  # noqa: BLE001 - this is the place for all of them
        found = _explained(error)
        click.echo(error_line(found), err=True)
        sys.exit(found.exit_code)


def check_working_directory() -> None:
    """Raise ConfigError where the shell's folder has been removed."""
    try:
        os.getcwd()  # noqa: PTH109
    except OSError as error:
        fault, remedy = "does not exist any more", "change to another folder and run it again"
        raise ConfigError("the current folder", fault, remedy) from error


def refuse_twice(context: click.Context, arguments: list[str]) -> None:
    """Raise a usage error where an option that holds one value is given twice.

    Click itself would keep the last and drop the others without a word.
    """
    parser = context.command.make_parser(context)
    _, _, order = parser.parse_args(list(arguments))
    for option in order:
        single = isinstance(option, click.Option) and not (
            option.multiple or option.is_flag or option.count
        )
        if single and order.count(option) > 1:
            name = max(option.opts, key=len)
            raise click.UsageError(f"give {name} once, not {order.count(option)} times", context)


def together(work: Callable[[], None], *, first: bool) -> NoReturn:
    """Do the work of one of several processes, and end it; the first one that fails reports it.

    Threads of the collective library sometimes outlive the interpreter, which then aborts; so the
    process is left by the shortest way.
    """
    code = 0
    if not first:
        logging.getLogger("wsikd").setLevel(logging.ERROR)
    try:
        work()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:  # noqa: BLE001 - as in one_line_errors
        found = _explained(error)
        code = found.exit_code
        if not found.elsewhere:
            click.echo(error_line(found), err=True)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def is_libgl(error: ImportError) -> bool:
    """Whether an import failed for the system libraries that OpenCV links."""
    return any(library in str(error) for library in ("libGL", "libgthread"))


def error_line(error: WsikdError) -> str:
    """The line that reports an error, in characters that any stream takes."""
    return printable(f"{type(error).__name__}: {error}")


def printable(text: str) -> str:
    """Text with what is not UTF-8 spelt out."""
    return text.encode("utf-8", "backslashreplace").decode()


def _explained(error: Exception) -> WsikdError:
    if not isinstance(error, WsikdError):
        log.debug("%s", type(error).__name__, exc_info=error)
    if isinstance(error, ImportError) and is_libgl(error):
        return WsikdError("opencv-python", str(error), LIBGL_REMEDY)
    if isinstance(error, OSError):
        return explain("file", error)
    context = click.get_current_context(silent=True)
    command = context.invoked_subcommand if context else None
    return explain(f"wsikd {command}" if command else "wsikd", error, _REPORT_IT)
