"""Threads of a run."""

from __future__ import annotations

import os


def use_threads(threads: int | None, jobs: int = 1) -> int:
    """Threads: ``threads``, else one a core, shared out to the jobs. OpenCV gets one in each."""
    import cv2

    cv2.setNumThreads(1)
    return threads or max(1, (os.cpu_count() or 1) // max(1, jobs))
