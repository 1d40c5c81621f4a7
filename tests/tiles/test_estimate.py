"""What a dry run tells, against what tiling then does."""

import pytest

from wsikd.slides.listing.manifest import SlideEntry
from wsikd.tiles.jobs import TileJob, estimate_job, tile_job
from wsikd.tiles.store import StoreSettings, TileStore


def quiet(*_):
    """Nobody listens."""


def job_of(slide_file, out, **changes):
    usual = {
        "mpps": (1.0, 4.0),
        "patch_px": 64,
        "stride_px": 64,
        "tissue": "otsu",
        "min_tissue": 0.1,
        "classes": (),
        "min_cover": 0.5,
    }
    return TileJob(SlideEntry(slide_file, "s"), out, StoreSettings(**{**usual, **changes}))


def pixel_files(store):
    arrays = [p for p in store.iterdir() if p.name.isdecimal()]
    hidden = ("zarr.json", ".zarray", ".zattrs")
    return [p for a in arrays for p in a.rglob("*") if p.is_file() and p.name not in hidden]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"stride_px": 32},
        {"patch_px": 256, "stride_px": 256},
        {"ome_version": "0.4"},
        {"route": "pyramid"},
        {"codec": "zstd"},
        {"codec": "jpeg"},
    ],
    ids=str,
)
def test_patches_and_bytes_are_those_of_the_store(slide_file, tmp_path, changes):
    job = job_of(slide_file, tmp_path, **changes)
    told = estimate_job(quiet, job).estimate
    assert list(tmp_path.iterdir()) == []
    reports = []
    made = tile_job(lambda *values: reports.append(values), job)
    store = TileStore.open(tmp_path / "s.zarr")
    size = sum(p.stat().st_size for p in pixel_files(store.path))
    assert told.patches == made.patches == len(store.patches) > 0
    assert told.chunks == told.left == reports[-1][0] == reports[-1][1]
    assert told.reader == made.reader
    assert told.thread_s > 0
    assert told.exact == ("codec" not in changes)
    if told.exact:
        assert told.pixel_bytes == size
    else:
        assert size / 4 < told.pixel_bytes < size * 4
    assert estimate_job(quiet, job).estimate is None
    pace = reports[0][2]
    assert pace.level0_mp == pytest.approx((max(256, store.patch_px(1.0)) / 0.499) ** 2 / 1e6)
    assert pace.patches == pytest.approx((256 / changes.get("stride_px", 64)) ** 2)


def test_a_slide_without_tissue_takes_nothing(slide_file, tmp_path):
    told = estimate_job(quiet, job_of(slide_file, tmp_path, min_tissue_um2=1e12)).estimate
    assert (told.patches, told.chunks, told.pixel_bytes, told.thread_s) == (0, 0, 0, 0.0)
