"""Damaged slides: no hang, no crash, and no store that holds what the file does not."""

import numpy as np
import openslide
import pytest

from tests.slides.pixels import area_average, tissue_rgb
from wsikd.core.errors import WsikdError
from wsikd.core.workers.process import Task, WorkerPool
from wsikd.slides.listing.manifest import SlideEntry
from wsikd.synthetic.cohort import write_pyramid
from wsikd.tiles.jobs import TileJob, tile_job
from wsikd.tiles.store import StoreSettings, TileStore

PATCH = 64
SETTINGS = StoreSettings(
    mpps=(1.0, 4.0),
    patch_px=PATCH,
    stride_px=PATCH,
    tissue="all",
    min_tissue=0.1,
    classes=(),
    min_cover=0.5,
)
CASES = [*(f"cut{n:02}" for n in range(50)), *(f"flip{n:02}" for n in range(50))]


def damage(whole, name):
    """The bytes of a slide cut short at random, or with some bits turned over."""
    kind, number = name[:-2], int(name[-2:])
    rng = np.random.default_rng([len(kind), number])
    if kind == "cut":
        return whole[: int(rng.integers(0, len(whole)))]
    data = bytearray(whole)
    for _ in range(int(rng.integers(1, 9))):
        # A TIFF's structure is a few hundred bytes at the ends of its levels: hit it as well.
        near = [0, len(data) - 3000, int(rng.integers(0, len(data)))][int(rng.integers(0, 3))]
        place = min(len(data) - 1, near + int(rng.integers(0, 3000)))
        data[place] ^= 1 << int(rng.integers(0, 8))
    return bytes(data)


def tile_all(entries, out):
    """Tile slides through one worker process: {name: outcome}."""
    tasks = [
        Task(entry.name, tile_job, (TileJob(entry, out, SETTINGS, overwrite=True),))
        for entry in entries
    ]
    with WorkerPool(stall_s=60) as pool:
        return {outcome.task.name: outcome for outcome in pool.run(tasks)}


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """Damaged copies of two small slides, and what became of each."""
    folder = tmp_path_factory.mktemp("faults")
    sources = []
    for number, quality in enumerate((80, 95)):
        path = folder / f"source{number}.svs"
        rgb = tissue_rgb(700, 560, (40, 30, 600, 500), seed=number)
        write_pyramid(path, rgb, mpp=0.5, power=20, downsamples=(1, 4), quality=quality)
        sources.append(path.read_bytes())
    entries = []
    for number, name in enumerate(CASES):
        path = folder / f"{name}.svs"
        path.write_bytes(damage(sources[number % 2], name))
        entries.append(SlideEntry(path, name, mpp=0.5, mpp_source="the test"))
    outcomes = tile_all(entries, folder / "out")
    return {entry.name: (entry, outcomes[entry.name]) for entry in entries}, folder / "out"


def pixels_of(path, level, box):
    """What OpenSlide shows of a box of a level, over white; a fresh handle each time."""
    x, y, width, height = box
    with openslide.OpenSlide(path) as slide:
        scale = slide.level_downsamples[level]
        corner = (round(x * scale), round(y * scale))
        rgba = np.asarray(slide.read_region(corner, level, (width, height))).astype(float)
    share = rgba[..., 3:] / 255
    return rgba[..., :3] * share + 255 * (1 - share)


def check_pixels(path, store):
    """Hold every patch against the average of the pixels that OpenSlide reads."""
    about = store.provenance
    level = about["source_levels"][0]
    down = np.array(about["slide"]["level_downsamples"][level])
    factor = SETTINGS.mpps[0] / np.array(about["slide"]["mpp"]) / down
    for index in range(len(store.patches)):
        start = store.patches.xy[index] / down
        first = np.floor(start).astype(int)
        size = np.ceil(start + PATCH * factor).astype(int) - first
        own = pixels_of(path, level, (*first.tolist(), *size.tolist()))
        exact = area_average(own, start - first, factor, (PATCH, PATCH), beyond=255)
        assert np.abs(store.read_patch(index, 1.0) - exact).max() <= 1
        low = exact.reshape(PATCH // 4, 4, PATCH // 4, 4, 3).mean((1, 3))
        assert np.abs(store.read_patch(index, 4.0) - low).max() <= 1


def check_outcome(entry, outcome, out):
    """Either one line and no store, or a whole store of the file's own pixels."""
    store = out / f"{entry.name}.zarr"
    if outcome.error is not None:
        assert isinstance(outcome.error, WsikdError)
        told = str(outcome.error)
        assert "\n" not in told
        assert told.count("; ") >= 1
        assert "unforeseen" not in told, told
        assert not store.exists()
        return False
    check_pixels(entry.path, TileStore.open(store))
    return True


@pytest.mark.parametrize("name", CASES)
def test_a_damaged_slide_is_whole_or_refused(damaged, name):
    found, out = damaged
    check_outcome(*found[name], out)


def test_some_are_refused_and_some_are_not(damaged):
    found, out = damaged
    failed = [name for name, (_, outcome) in found.items() if outcome.error]
    assert 20 <= len(failed) <= 98
    assert len(list(out.glob("*.zarr"))) == len(CASES) - len(failed)
    assert {name[:3] for name in failed} == {"cut", "fli"}


def test_what_others_found_odd(real_slides, tmp_path):
    files = sorted(p for p in (real_slides / "odd").iterdir() if p.is_file())
    assert len(files) >= 5
    entries = [SlideEntry(path, path.name, mpp=0.5) for path in files]
    outcomes = tile_all(entries, tmp_path)
    whole = 0
    for entry in entries:
        outcome = outcomes[entry.name]
        if outcome.error is None and outcome.value.reader in ("tifffile", "tiatoolbox"):
            assert TileStore.open(tmp_path / f"{entry.name}.zarr").patches is not None
        else:
            whole += check_outcome(entry, outcome, tmp_path)
    assert whole >= 1
