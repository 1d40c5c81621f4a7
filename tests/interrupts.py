"""Interrupts for the processes that tests start."""

import signal


def hear_interrupts():
    """Undo that a process started in the background of a script ignores Ctrl-C: ``preexec_fn``."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
