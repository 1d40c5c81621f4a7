"""Memory of the process that tiles slide after slide."""

from pathlib import Path

import pytest

from tests.slides.pixels import tissue_rgb
from wsikd.core.workers.process import Task, WorkerPool
from wsikd.slides.listing.manifest import SlideEntry
from wsikd.synthetic.cohort import write_pyramid
from wsikd.tiles.jobs import TileJob, tile_job
from wsikd.tiles.store import StoreSettings

SETTINGS = StoreSettings(
    mpps=(1.0, 4.0),
    patch_px=256,
    stride_px=256,
    tissue="otsu",
    min_tissue=0.1,
    classes=(),
    min_cover=0.5,
)
MB = 1e6


def resident_mb(pid):
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / MB


@pytest.mark.slow
def test_it_does_not_grow_over_fifty_slides(tmp_path):
    slide = tmp_path / "s.svs"
    rgb = tissue_rgb(4000, 3600, (300, 300, 3200, 2900))
    write_pyramid(slide, rgb, mpp=0.5, power=20, downsamples=(1, 4))
    entries = [SlideEntry(slide, f"s{n:02}") for n in range(50)]
    tasks = [Task(e.name, tile_job, (TileJob(e, tmp_path, SETTINGS, threads=2),)) for e in entries]
    sizes = []
    with WorkerPool(recycle=len(tasks)) as pool:
        for outcome in pool.run(tasks):
            assert outcome.error is None
            sizes.append(resident_mb(pool.pids[0]))
    assert max(sizes) < 600
    assert sizes[-1] - sizes[9] < 35, sizes  # what one slide holds in memory, not forty
