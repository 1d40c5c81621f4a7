"""Filters messages of C libraries on damaged files, since wsikd's own error has the cause."""

from __future__ import annotations

import logging
import os
import re
import sys
import threading

log = logging.getLogger(__name__)

_LIBRARIES = re.compile(
    r"\[ ?(WARN|ERROR|INFO|FATAL):\d+@"  # OpenCV
    r"|(CRITICAL|ERROR|WARNING|INFO) +\[[^]]*\d{4}\] - "  # libdicom
    r"|libpng (warning|error): |Corrupt JPEG data: |Premature end of JPEG file"
    r"|Invalid SOS parameters|Unsupported marker type|\w+: Warning, |TIFF\w+: "
    r"|\(process:\d+\): \w+-(WARNING|CRITICAL) "  # GLib
)


def is_noise(line: str) -> bool:
    """Whether a line on standard error is from one of these libraries."""
    return _LIBRARIES.match(line) is not None


def listen(pipe: int, name: str) -> threading.Thread:
    """Forward the standard error of a process, and log the messages of its libraries.

    Args:
        pipe: read end of a pipe, closed when the process has closed the other end.
        name: name of the process, for the log.

    Returns:
        The thread that reads; it ends with the process.
    """

    def work() -> None:
        with os.fdopen(pipe, encoding="utf-8", errors="backslashreplace") as lines:
            for line in lines:
                if is_noise(line):
                    log.debug("%s: %s", name, line.rstrip())
                elif sys.stderr is not None:
                    sys.stderr.write(line)

    thread = threading.Thread(target=work, name=f"stderr of {name}", daemon=True)
    thread.start()
    return thread
