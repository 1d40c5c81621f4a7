"""Grading that some slides kill; worker processes import this file by its name."""

import os
import signal

from wsikd.grade.work import infer_job


def deadly_job(report, job):
    """As a crash in a C library would: whoever touches such a slide dies."""
    for entry in (job.entry, job.ahead):
        if entry is not None and entry.name.startswith("killer"):
            report(0, 1)
            os.kill(os.getpid(), signal.SIGSEGV)
    return infer_job(report, job)
