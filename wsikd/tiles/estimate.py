"""What tiling a slide will take: patches, bytes and time, before anything is written."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.slides.resample.area import area_resample
from wsikd.slides.scaled_view import Canvas
from wsikd.slides.tissue.find import TissueAreas, find_tissue
from wsikd.tiles.blocks import PYRAMID, BlockPlan
from wsikd.tiles.grid import TileGrid
from wsikd.tiles.labels import label_patches
from wsikd.tiles.layout import encode
from wsikd.tiles.metadata import can_resume
from wsikd.tiles.store import PatchTable

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from wsikd.slides.base import Slide
    from wsikd.tiles.blocks import Job
    from wsikd.tiles.metadata import SlideNotes
    from wsikd.tiles.store import StoreSettings

MB_PER_MP = {"zstd": 2.1, "jpeg": 0.4}
"""Megabytes per megapixel of tissue, about the mean of docs/decisions/0005-codec.md."""
_SAMPLES = 6
_INDEX_ENTRY, _INDEX_CRC = 16, 4


@dataclass(frozen=True)
class Estimate:
    """Estimated patches, bytes and seconds of a slide.

    ``patches`` and ``chunks`` are exact, ``left`` are the chunks that an unfinished run has not
    written; ``pixel_bytes``, of all pixels on disk, is exact where ``exact``; ``thread_s`` is what
    one thread would take for the chunks left, from the time of a few of them, without writing;
    ``label`` int16 (patches,), -1 where unlabelled.
    """

    patches: int
    chunks: int
    left: int
    pixel_bytes: int
    exact: bool
    thread_s: float
    reader: str
    label: NDArray[np.int16] = field(repr=False, compare=False)


def estimate(
    slide: Slide,
    path: Path,
    settings: StoreSettings,
    notes: SlideNotes,
    meta: dict[str, Any],
    *,
    workers: int = 1,
    seed: int = 0,
) -> Estimate:
    """Find the tissue and read a few fields of it; writes nothing.

    Args:
        slide: an open slide.
        path: where its store would be made.
        settings: settings of the store.
        notes: notes on the slide; mask file, annotation and label are used.
        meta: the store's record, by which an unfinished store of the same settings is known.
        workers: threads that read the overview.
        seed: chooses the fields that are timed.

    Raises:
        MissingMppError, RegionReadError, SlideError: from the slide.
        AnnotationError: the mask file cannot be read.
    """
    grid = TileGrid.plan(slide, settings.mpps[0], settings.patch_px, settings.stride_px)
    part = path.with_name(path.name + ".part")
    plan = BlockPlan.of(part, settings, grid)
    areas = TissueAreas(settings.min_tissue_um2, settings.max_hole_um2)
    tissue = find_tissue(
        slide, method=settings.tissue, mask_file=notes.mask_file, workers=workers, areas=areas
    )
    cover = grid.cover(tissue)
    rows, columns = np.nonzero((cover >= settings.min_tissue) & (cover > 0))
    jobs = plan.jobs(_table(rows, columns))
    chunks = sum(int(needed.sum()) for _, needed in jobs)
    resumed = can_resume(part, meta)
    todo = [job for job in jobs if not (resumed and plan.done(job))]
    left = sum(int(needed.sum()) for _, needed in todo)
    each_s = _seconds_a_chunk(slide, plan, todo, seed) if todo else 0.0
    exact = settings.codec == "none"
    size = sum(_raw_bytes(plan, job) for job in jobs)
    if not exact:
        pixels = chunks * sum(side**2 for side in plan.chunk_px)
        size = round(pixels * MB_PER_MP.get(settings.codec, 3.0))
    label, _ = label_patches(grid.boxes(rows, columns), settings, notes)
    return Estimate(len(rows), chunks, left, size, exact, each_s * left, slide.info.reader, label)


def _table(rows: NDArray[np.integer], columns: NDArray[np.integer]) -> PatchTable:
    """The places of patches alone; other columns are not needed here."""
    none = np.zeros(len(rows), np.float32)
    label = np.zeros(len(rows), np.int16)
    return PatchTable(
        np.zeros((len(rows), 2)),
        rows.astype(np.int32),
        columns.astype(np.int32),
        none,
        label,
        none,
    )


def _raw_bytes(plan: BlockPlan, job: Job) -> int:
    """Bytes of a block's files with raw pixels: chunks, and in a shard its index."""
    chunks = int(job[1].sum())
    pixels = sum(3 * side**2 * chunks for side in plan.chunk_px)
    if plan.settings.ome_version == "0.4":
        return pixels
    return pixels + len(plan.chunk_px) * (_INDEX_ENTRY * plan.per_side**2 + _INDEX_CRC)


def _seconds_a_chunk(slide: Slide, plan: BlockPlan, jobs: list[Job], seed: int) -> float:
    """Time to read, derive and encode a chunk, the mean of a few random ones."""
    places = np.concatenate(
        [np.argwhere(needed) + np.multiply(corner, plan.per_side) for corner, needed in jobs]
    )
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(places), min(1 + _SAMPLES, len(places)), replace=False)
    settings, sides = plan.settings, plan.chunk_px
    sources = settings.mpps if settings.route == PYRAMID else settings.mpps[:1]
    canvases = [Canvas.plan(slide, mpp) for mpp in sources]
    encoded = encode(settings)
    _derive(canvases, sides, encoded, *places[chosen[0]].tolist())  # what only the first one pays
    timed = places[chosen[1:] if len(chosen) > 1 else chosen]
    start = time.perf_counter()
    for row, column in timed.tolist():
        _derive(canvases, sides, encoded, row, column)
    return (time.perf_counter() - start) / len(timed)


def _derive(canvases: list[Canvas], sides: list[int], encoded: Any, row: int, column: int) -> None:
    """One chunk at every resolution, as ``blocks`` makes it, and forgotten."""
    first: NDArray[np.uint8] | None = None
    for index, side in enumerate(sides):
        out = np.empty((side, side, 3), np.uint8)
        if index < len(canvases):
            canvases[index].read(column * side, row * side, side, side, out=out)
        else:
            assert first is not None
            ratio = sides[0] / side
            area_resample(first, (0.0, 0.0), (ratio, ratio), (side, side), out)
        first = out if first is None else first
        encoded(out)
