"""Reading and tiling against the JPEG decoder and against peers; see benchmarks/README.md.

Rates are level-0 megapixels per CPU second over one block of tissue of a 40,960 px slide.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from harness import Options, Report, child_memory, measure, options, own_peak_mb, workplace

# isort: split
import numpy as np
import openslide
from native_level import Fields, compare_memory, measure_native, own_memory
from peers import (
    PATCH_PX,
    WORKERS,
    JpegTiles,
    cucim_patches,
    megapixels,
    naive_dask,
    read_field,
    read_region_loop,
    tiatoolbox_extractor,
    tiatoolbox_patches,
)
from PIL import Image
from synthetic import MPP, synthetic_slide, window_mask
from whole_slide import measure_whole

from wsikd.slides.base import open_slide
from wsikd.slides.scaled_view import Canvas
from wsikd.tiles.grid import TileGrid
from wsikd.tiles.stream import stream_patches

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from synthetic import BenchSlide

    from wsikd.tiles.store import TileStore

STORE_MPPS = (1.0, 2.0, 4.0)
PEERS = {"tiatoolbox": 4.5, "cuCIM": 1.0}


@dataclass(frozen=True)
class Sizes:
    """How much is read: fields of a block, and on a side of the larger one that is stored."""

    side_px: int
    share: float
    columns: int
    rows: int
    store: int
    pairs: int
    native: int


DEFAULT = Sizes(40_960, 0.477, 16, 12, 20, 60, 9)
SMALLEST = Sizes(2048, 1.0, 2, 1, 2, 4, 1)


def main() -> None:
    """Measure and report."""
    given = options("tiling")
    if given.child:
        run_child(*given.child)
        return
    sizes = SMALLEST if given.smallest else DEFAULT
    report = Report(given)
    with workplace(given) as (slides, scratch):
        slide = synthetic_slide(slides, sizes.side_px, share=sizes.share)
        measure_rates(report, slide, sizes, scratch)
        measure_native(report, slide, sizes.native, sizes.native)
        measure_whole(report, slide)
        measure_training(report, slide, sizes, scratch)
        native = partial(child_memory, "native", str(slide.path), json.dumps(asdict(sizes)))
        compare_memory(report, native)
        for name in ("stream", "build"):
            found = child_memory(name, str(slide.path), str(scratch))
            report.raw.setdefault("memory (MB)", {})[name] = found
            title = f"peak memory, {name} of the whole slide, imports included (MB)"
            report.ratio(title, found["peak"], 600, "lower")
    report.finish()


def measure_rates(report: Report, slide: BenchSlide, sizes: Sizes, scratch: Path) -> None:
    """Decode, streams, stores and peers over one block of tissue, in turn."""
    rows, columns = slide.window(PATCH_PX / MPP, sizes.columns, sizes.rows)
    tiles = JpegTiles(slide.path)
    block = tiles.covering(rows, columns)
    report.raw["block"] = {
        "fields": len(rows),
        "level-0 megapixels": len(block) * tiles.side**2 / 1e6,
        "mean JPEG bytes a tile": float(np.mean([tiles.counts[i] for i in block])),
    }
    report.raw["decoded tile equals OpenSlide's"] = tiles.check(block[0])
    run: dict[str, Callable[[], float]] = {
        "decode": partial(tiles.decode, block),
        "decode (imagecodecs)": partial(tiles.decode, block, imagecodecs=True),
    }
    for mpp in (0.5, 0.499, 0.2527):
        run[f"stream {mpp}"] = Stream(slide, sizes, mpp)
    run["read_region loop"] = partial(read_region_loop, slide.path, rows, columns)
    absent = add_peers(run, report.options, slide, sizes)
    larger = slide.window(PATCH_PX / MPP, sizes.store, sizes.store)
    mask = window_mask(scratch / "block.geojson", larger, PATCH_PX / MPP)
    store, naive = scratch / "s.zarr", scratch / "naive.zarr"
    run["store 10x+5x+2.5x"] = Fresh(store, partial(build, slide.path, store, STORE_MPPS, mask))
    run["dask over OpenSlide, 10x"] = Fresh(
        naive, partial(naive_dask, slide.path, naive, rows, columns)
    )
    check_pixels(report, slide, rows, columns)
    timed = measure(run, report.options.rounds)
    report.timings(timed, "MP")
    for mpp, bar in ((0.5, 0.9), (0.499, 0.5), (0.2527, 0.5)):
        for decode in ("decode", "decode (imagecodecs)"):
            name = f"stream at {mpp} um/px / {decode}"
            report.speed(name, (f"stream {mpp}", decode), bar, timed)
    report.speed("stream / read_region loop", ("stream 0.5", "read_region loop"), 5, timed)
    for peer, bar in PEERS.items():
        if peer in absent:
            report.missing(f"stream / {peer}", absent[peer], bar)
        else:
            report.speed(f"stream / {peer}", ("stream 0.5", peer), bar, timed)
    name = "stream / cuCIM, 50 % overlap"
    if "cuCIM" in absent:
        report.missing(name, absent["cuCIM"], 2)
    else:
        report.speed(name, ("stream 50 %", "cuCIM 50 %"), 2, timed)
    report.speed("store 10x+5x+2.5x / decode", ("store 10x+5x+2.5x", "decode"), 0.65, timed)
    pair = ("store 10x+5x+2.5x", "dask over OpenSlide, 10x")
    report.speed("store 10x+5x+2.5x / dask over OpenSlide (10x only)", pair, 3.5, timed)


class Stream:
    """Patches of 512 px at 1 um/px, read as ``wsikd infer`` reads them.

    ``mpp`` is what level 0 is said to have: at 0.499 the resampling is fractional.
    """

    def __init__(
        self, slide: BenchSlide, sizes: Sizes, mpp: float, stride_px: int = PATCH_PX
    ) -> None:
        """Open the slide and choose the fields."""
        self.slide = open_slide(slide.path, slide_mpp=mpp)
        self.field_px = stride_px / mpp
        per = PATCH_PX / stride_px * mpp / MPP  # as many megapixels whatever the resolution
        size = (max(1, round(sizes.columns * per)), max(1, round(sizes.rows * per)))
        self.rows, self.columns = slide.window(self.field_px, *size)
        self.grid = TileGrid.plan(self.slide, 1.0, PATCH_PX, stride_px)
        self.canvas = Canvas.plan(self.slide, 1.0)

    def __call__(self) -> float:
        """Read all fields; returns level-0 megapixels."""
        fields = 0
        batches = stream_patches(self.canvas, self.grid, self.rows, self.columns, workers=WORKERS)
        for index, patches in batches:
            assert patches.shape[1:] == (PATCH_PX, PATCH_PX, 3)
            fields += len(index)
        return fields * self.field_px**2 / 1e6


def add_peers(
    run: dict[str, Callable[[], float]], given: Options, slide: BenchSlide, sizes: Sizes
) -> dict[str, str]:
    """Add the peers that are installed; returns why the others are missing."""
    absent = {}
    rows, columns = slide.window(PATCH_PX / MPP, sizes.columns, sizes.rows)
    if given.smallest:
        absent["tiatoolbox"] = "its import takes half a minute: left out at the smallest size"
    elif find_spec("tiatoolbox") is None:
        absent["tiatoolbox"] = "tiatoolbox is not installed"
    else:
        run["tiatoolbox"] = partial(
            tiatoolbox_patches, tiatoolbox_extractor(slide.path), rows, columns
        )
    if find_spec("cucim") is None:
        absent["cuCIM"] = "cucim is not installed"
    else:
        run["cuCIM"] = partial(cucim_patches, slide.path, rows, columns, PATCH_PX)
        run["stream 50 %"] = Stream(slide, sizes, MPP, PATCH_PX // 2)
        half = slide.window(PATCH_PX / 2 / MPP, 2 * sizes.columns, 2 * sizes.rows)
        run["cuCIM 50 %"] = partial(cucim_patches, slide.path, *half, PATCH_PX // 2)
    return absent


@dataclass(frozen=True)
class Fresh:
    """A writer whose output of the round before is removed outside of the timing."""

    store: Path
    write: Callable[[], float]

    def prepare(self) -> None:
        shutil.rmtree(self.store, ignore_errors=True)

    def __call__(self) -> float:
        return self.write()


def build(path: Path, store: Path, mpps: tuple[float, ...], mask: Path | None) -> float:
    """``tile_slide`` of the block (or, without a mask, of all tissue); returns megapixels."""
    from wsikd.tiles.store import StoreSettings
    from wsikd.tiles.write import SlideNotes, tile_slide

    settings = StoreSettings(mpps, PATCH_PX, PATCH_PX, "otsu", 0.5, (), 0.5)
    with open_slide(path) as slide:
        made, _ = tile_slide(slide, store, settings, SlideNotes(mask_file=mask), workers=WORKERS)
    return megapixels(made.patches.row)


def check_pixels(
    report: Report, slide: BenchSlide, rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> None:
    """Stream and loop must read the same fields: their largest difference in grey levels."""
    with open_slide(slide.path) as ours, openslide.OpenSlide(slide.path) as theirs:
        y, x = int(rows[-1]), int(columns[-1])
        own = Canvas.plan(ours, 1.0).read(x * PATCH_PX, y * PATCH_PX, PATCH_PX, PATCH_PX)
        peer = np.asarray(read_field(theirs, x, y))
    difference = int(np.abs(own.astype(np.int16) - peer).max())
    assert difference <= 1, f"stream and read_region differ by {difference} grey levels"
    report.raw["largest difference of stream and read_region loop (grey levels)"] = difference


def measure_training(report: Report, slide: BenchSlide, sizes: Sizes, scratch: Path) -> None:
    """Random aligned pairs, 512 px at 1 um/px and 128 px at 4: store against slide."""
    from wsikd.tiles.store import TileStore

    block = slide.window(PATCH_PX / MPP, sizes.columns, sizes.rows)
    mask = window_mask(scratch / "block.geojson", block, PATCH_PX / MPP)
    shutil.rmtree(scratch / "s.zarr", ignore_errors=True)
    build(slide.path, scratch / "s.zarr", STORE_MPPS, mask)
    store = TileStore.open(scratch / "s.zarr")
    order = np.random.default_rng(3).integers(0, len(store.patches), sizes.pairs).tolist()
    run = {
        "pairs from the store": partial(store_pairs, store, order),
        "pairs through OpenSlide": partial(slide_pairs, slide.path, store, order),
    }
    timed = measure(run, report.options.rounds)
    report.timings(timed, "pairs")
    pair = ("pairs from the store", "pairs through OpenSlide")
    report.speed("training pairs, store / OpenSlide", pair, 20, timed)


def store_pairs(store: TileStore, order: list[int]) -> float:
    """Both patches of each field from the store."""
    for index in order:
        high, low = store.read_patch(index, 1.0), store.read_patch(index, 4.0)
        assert (len(high), len(low)) == (PATCH_PX, PATCH_PX // 4)
    return len(order)


def slide_pairs(path: Path, store: TileStore, order: list[int]) -> float:
    """Both patches of each field from the slide: one read, the lower averaged from the higher."""
    rows, columns = store.patches.row, store.patches.column
    with openslide.OpenSlide(path) as slide:
        for index in order:
            high = read_field(slide, int(columns[index]), int(rows[index]))
            low = high.resize((PATCH_PX // 4, PATCH_PX // 4), Image.Resampling.BOX)
            np.asarray(high), np.asarray(low)
    return len(order)


def run_child(name: str, path: str, scratch: str, reader: str = "") -> None:
    """Stream or build the whole slide in a process of its own, and print its peak memory."""
    if name == "native":
        sizes = Sizes(**json.loads(scratch))
        slide = find_slide(Path(path), sizes)
        print(json.dumps(own_memory(reader, Fields.of(slide, sizes.native, sizes.native))))
        return
    if name == "build":
        import_module("wsikd.tiles.write")
        imports = own_peak_mb()
        store = Path(scratch) / "whole.zarr"
        build(Path(path), store, STORE_MPPS, None)
        shutil.rmtree(store)
    else:
        imports = own_peak_mb()
        stream_whole(Path(path))
    print(json.dumps({"imports": imports, "peak": own_peak_mb()}))


def find_slide(path: Path, sizes: Sizes) -> BenchSlide:
    """The slide that has been made."""
    return synthetic_slide(path.parent, sizes.side_px, share=sizes.share)


def stream_whole(path: Path) -> None:
    """Find the tissue of a slide and read all its fields."""
    from wsikd.slides.tissue.find import find_tissue

    with open_slide(path) as slide:
        grid = TileGrid.plan(slide, 1.0, PATCH_PX)
        canvas = Canvas.plan(slide, 1.0)
        cover = grid.cover(find_tissue(slide, workers=WORKERS))
        rows, columns = np.nonzero(cover >= 0.1)
        for _ in stream_patches(canvas, grid, rows, columns, workers=WORKERS):
            pass


if __name__ == "__main__":
    main()
