"""CPU time of the study, that of killed runs included: a file a run, written every few seconds."""

from __future__ import annotations

import json
import os
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from wsikd.core.run import write_json_atomic

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EVERY_S = 10.0


@contextmanager
def metered(out: Path, job: str) -> Iterator[None]:
    """Count what the block costs in ``cost`` below ``out``."""
    start = time.process_time(), time.perf_counter()
    file = out / "cost" / f"{time.time_ns()}-{os.getpid()}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    ended = threading.Event()

    def note(*, finished: bool = False) -> None:
        cpu, wall = time.process_time() - start[0], time.perf_counter() - start[1]
        entry = {"job": job, "cpu_s": round(cpu, 1), "wall_s": round(wall, 1)}
        write_json_atomic(file, entry | {"finished": finished})

    def watch() -> None:
        while not ended.wait(EVERY_S):
            note()

    note()
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    finished = False
    try:
        yield
        finished = True
    finally:
        ended.set()
        thread.join()
        note(finished=finished)


def entries(out: Path) -> list[dict[str, Any]]:
    """What every run cost, one entry each time it was begun or continued."""
    files = sorted((out / "cost").glob("*.json"))
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def spent_s(out: Path) -> float:
    """CPU seconds of all runs so far."""
    return float(sum(entry["cpu_s"] for entry in entries(out)))
