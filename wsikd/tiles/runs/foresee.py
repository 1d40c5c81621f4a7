"""What tiling many slides would take: patches, bytes, minutes, room on the disk."""

from __future__ import annotations

import logging
import os
import shutil
from typing import TYPE_CHECKING

from wsikd.core.timing import span
from wsikd.tiles.jobs import estimate_job
from wsikd.tiles.runs.run import Ended, outcomes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from wsikd.core.output.batch import Batch
    from wsikd.tiles.estimate import Estimate
    from wsikd.tiles.jobs import TileJob
    from wsikd.tiles.runs.labels import Labels
    from wsikd.tiles.runs.run import Running

log = logging.getLogger(__name__)


def estimate_tiles(
    jobs: Sequence[TileJob], how: Running, batch: Batch, out: Path, labels: Labels
) -> Ended:
    """Report what tiling would take, slide by slide and in total; writes nothing."""
    found: list[Estimate] = []
    by_name = {job.entry.name: job for job in jobs}
    side_by_side = _side_by_side(how, len(jobs))
    with outcomes(jobs, estimate_job, how, None) as ended:
        for outcome in ended:
            job = by_name[outcome.task.name]
            if outcome.error:
                batch.failed(job.entry, outcome.error)
                continue
            estimate = outcome.value.estimate
            if estimate is not None:
                found.append(estimate)
            counted = labels.add(job.entry, outcome.value.labels)
            line = _estimate_line(job, estimate, counted, min(side_by_side, how.threads))
            batch.went_well(job.entry, line, outcome.seconds)
    total = sum(e.pixel_bytes for e in found)
    needed = sum(round(e.pixel_bytes * e.left / e.chunks) for e in found if e.chunks)
    free = _free_bytes(out)
    if needed > free:
        log.warning(
            "%s: not enough disk space, %s needed and %s free; free space, or choose another -o",
            out,
            _size(needed),
            _size(free),
        )
    unlabelled = labels.finish(batch.say, dry=True)
    patches = sum(e.patches for e in found)
    about = "" if all(e.exact for e in found) else "about "
    needed_s = sum(e.thread_s for e in found) / side_by_side
    done = (
        f"in all {patches} patches, {about}{_size(total)}, about {span(needed_s)} of reading; "
        f"{_size(free)} free"
    )
    return Ended(done, unlabelled)


def _estimate_line(job: TileJob, found: Estimate | None, patches: str, threads: int) -> str:
    if found is None:
        return f"{patches}, already in {job.store}"
    about = "" if found.exact else "about "
    left = f", {found.left} of {found.chunks} chunks left" if found.left < found.chunks else ""
    size = _size(found.pixel_bytes)
    return f"{patches}, {about}{size}, about {span(found.thread_s / threads)}{left}"


def _side_by_side(how: Running, slides: int) -> int:
    """Threads that can work at a time, as far as this machine knows."""
    if how.workers:
        return min(how.workers, os.cpu_count() or 1)
    return min(max(1, min(how.jobs, slides)) * how.threads, os.cpu_count() or 1)


def _free_bytes(folder: Path) -> int:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
