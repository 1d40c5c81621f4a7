"""``wsikd tile --compare``: how far the two routes to a low magnification differ."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from wsikd.tiles.jobs import compare_job
from wsikd.tiles.runs.run import Ended, outcomes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from wsikd.core.output.batch import Batch
    from wsikd.tiles.compare_levels import RouteDifference
    from wsikd.tiles.jobs import TileJob
    from wsikd.tiles.runs.labels import Labels
    from wsikd.tiles.runs.run import Running


def compare_tiles(
    jobs: Sequence[TileJob], how: Running, batch: Batch, out: Path, labels: Labels
) -> Ended:
    """Report slide by slide how --route pyramid differs from area; writes nothing."""
    del out, labels
    by_name = {job.entry.name: job for job in jobs}
    with outcomes(jobs, compare_job, how, None) as ended:
        for outcome in ended:
            job = by_name[outcome.task.name]
            if outcome.error:
                batch.failed(job.entry, outcome.error)
                continue
            lines = [_line(found) for found in outcome.value]
            text = "\n  ".join(lines) or "one magnification, so no other route"
            batch.went_well(job.entry, text, outcome.seconds)
    return Ended("pyramid against area, tissue fields spread evenly; nothing written")


def _line(found: RouteDifference) -> str:
    name = f"{10 / found.mpp:g}x"
    if not found.fields:
        return f"{name}: no tissue to compare"
    levels = f"area from level {found.levels[0]}, pyramid from level {found.levels[1]}"
    if math.isinf(found.psnr_db):
        return f"{name}: equal to the bit over {found.fields} fields ({levels})"
    colour = " ".join(f"{shift:+.2f}" for shift in found.colour_shift)
    x, y = found.shift_px
    return (
        f"{name}: PSNR {found.psnr_db:.1f} dB, mean shift of colour {colour} grey levels (R G B), "
        f"of place {x:+.2f} {y:+.2f} px (x y), over {found.fields} fields ({levels})"
    )
