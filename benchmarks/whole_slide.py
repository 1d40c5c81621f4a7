"""All tissue of a slide as patches at 2 um/px: wsikd, and packages that do the whole of it too.

Each package finds the tissue by its own method, lays its own grid, and reads with its default
reader. So their counts of patches differ, and rates are compared, from opening the slide on.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from harness import Report, measure

# isort: split
import numpy as np
from peers import PATCH_PX, WORKERS

from wsikd.slides.base import open_slide
from wsikd.slides.scaled_view import Canvas
from wsikd.slides.tissue.find import find_tissue
from wsikd.tiles.grid import TileGrid
from wsikd.tiles.stream import stream_patches

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from synthetic import BenchSlide

LEVEL, WANTED_MPP, COVER = 1, 2.0, 0.5
ROUNDS = 3
"""At most: these packages take seconds of CPU time a slide."""
SIDE = (PATCH_PX, PATCH_PX)


def of_wsikd(path: Path) -> int:
    """Patches by wsikd."""
    with open_slide(path) as slide:
        grid = TileGrid.plan(slide, WANTED_MPP, PATCH_PX)
        cover = grid.cover(find_tissue(slide, workers=WORKERS))
        rows, columns = np.nonzero(cover >= COVER)
        canvas = Canvas.plan(slide, WANTED_MPP)
        batches = stream_patches(canvas, grid, rows, columns, workers=WORKERS)
        return sum(_whole(patches.shape[1:3], len(index)) for index, patches in batches)


def of_hs2p(path: Path) -> int:
    """Patches by hs2p."""
    hs2p, streaming = import_module("hs2p"), import_module("hs2p.wsi.streaming")
    tiling = hs2p.TilingConfig(
        requested_spacing_um=WANTED_MPP, requested_tile_size_px=PATCH_PX, tolerance=0.05,
        overlap=0.0,
    )  # fmt: skip
    segmentation = hs2p.SegmentationConfig(method="hsv", downsample=16)
    slide = hs2p.SlideSpec(sample_id="slide", image_path=path)
    made = hs2p.tile_slide(slide, tiling=tiling, segmentation=segmentation)
    found = streaming.iter_tile_arrays_from_result(result=made, num_workers=WORKERS)
    return sum(_whole(patch.shape[:2]) for patch in found)


def of_wsistream(path: Path) -> int:
    """Patches by wsistream."""
    backends, sampling = import_module("wsistream.backends"), import_module("wsistream.sampling")
    pipeline = import_module("wsistream.pipeline").PatchPipeline(
        slide_paths=[str(path)],
        backend=backends.OpenSlideBackend(),
        tissue_detector=import_module("wsistream.tissue").OtsuTissueDetector(),
        sampler=sampling.GridSampler(PATCH_PX, level=LEVEL, tissue_threshold=COVER),
        pool_size=1,
        patches_per_slide=10**6,
        cycle=False,
    )
    return sum(_whole(found.image.shape[:2]) for found in pipeline)


def of_pytessera(path: Path) -> int:
    """Patches by PyTessera."""
    pytessera = import_module("pytessera")
    with import_module("pytessera.io").open_wsi(path) as slide:
        found = pytessera.build_datatiles(slide, "slide", magnification=5, tile_px=PATCH_PX)
    (tiles,) = found.values()
    return sum(_whole(tile.img.shape[:2]) for tile in tiles.values())


def of_lazyslide(path: Path) -> int:
    """Patches by LazySlide, which finds tissue on the coarsest level."""
    lazyslide = import_module("lazyslide")
    slide = import_module("wsidata").open_wsi(str(path))
    lazyslide.pp.find_tissues(slide, level=-1)
    lazyslide.pp.tile_tissues(slide, PATCH_PX, mpp=WANTED_MPP, background_fraction=1 - COVER)
    return sum(_whole(tile.image.shape[:2]) for tile in slide.iter.tile_images("tiles"))


PACKAGES: dict[str, Callable[[Path], int]] = {
    "hs2p": of_hs2p, "wsistream": of_wsistream, "pytessera": of_pytessera,
    "lazyslide": of_lazyslide,
}  # fmt: skip


def _whole(side: tuple[int, ...], count: int = 1) -> int:
    """``count``, of patches of the wanted size."""
    assert tuple(side) == SIDE, side
    return count


def measure_whole(report: Report, slide: BenchSlide) -> None:
    """wsikd and the packages that are installed, in turn; the others are named in the record."""
    counted: dict[str, int] = {}

    def rate(name: str, read: Callable[[Path], int]) -> Callable[[], float]:
        def run() -> float:
            counted[name] = read(slide.path)
            return counted[name] * PATCH_PX**2 / 1e6

        return run

    ours = "whole slide, wsikd"
    run = {ours: rate("wsikd", of_wsikd)}
    missing = report.raw.setdefault("whole slide: packages that were not run", {})
    for name, read in PACKAGES.items():
        if report.options.smallest:
            missing[name] = "its imports take long: left out at the smallest size"
        elif find_spec(name) is None:
            missing[name] = "is not installed"
        elif (fault := _fault(read, slide.path)) is not None:
            missing[name] = fault
        else:
            run[f"whole slide, {name}"] = rate(name, read)
    timed = measure(run, min(ROUNDS, report.options.rounds))
    report.timings(timed, "MP of the level")
    report.raw["whole slide: patches"] = counted
    for name in run:
        if name != ours:
            report.speed(f"{ours} / {name.removeprefix('whole slide, ')}", (ours, name), 1, timed)


def _fault(read: Callable[[Path], int], path: Path) -> str | None:
    """Why a package does not run here, with the other packages as they are installed."""
    try:
        read(path)
    except Exception as error:  # noqa: BLE001 - whatever another package raises
        return f"{type(error).__name__}: {error}"
    return None
