"""Grading that some slides kill or hold up; worker processes import this file by its name."""

import os
import signal
import time

from wsikd.core.workers.worker import Beside
from wsikd.grade.runs.jobs import infer_job


def deadly_job(report, job):
    """As a crash in a C library would: whoever touches such a slide dies."""
    for entry in (job.entry, job.ahead):
        if entry is not None and entry.name.endswith("killer"):
            report(0, 1)
            os.kill(os.getpid(), signal.SIGSEGV)
    return infer_job(report, job)


def stuck_job(report, job):
    """As a disk does that answers no more: it waits, and computes nothing."""
    if job.entry.name == "stuck":
        report(0, 1)
        time.sleep(60)
    return infer_job(report, job)


def deadly_writing_job(report, job):
    """As a crash while files are written, beside the next slide or not."""

    def work():
        os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(30)

    if not job.entry.name.endswith("killer"):
        return infer_job(report, job)
    if not job.beside:
        work()
    infer_job(report, job)
    return Beside(work)
