"""A slide becomes a tile store. The only file that builds Dask graphs.

One Dask task fills one shard at every resolution: it reads the shard's tissue chunks from the slide
at the finest resolution, averages them down to the others, and writes. No two tasks share a shard,
since two writers in one shard lose pixels. A shard's file appears whole or not at all, so a killed
run goes on where it stopped.
"""

from __future__ import annotations

import logging
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from dask.base import compute
from dask.delayed import delayed
from zarr.codecs import TransposeCodec

from wsikd.core.errors import OutputError, RegionReadError, StoreMismatchError
from wsikd.core.lock import locked
from wsikd.slides.canvas import Canvas
from wsikd.slides.resample import area_resample
from wsikd.slides.tissue import find_tissue
from wsikd.tiles import ome
from wsikd.tiles.grid import TileGrid, patch_sizes
from wsikd.tiles.labels import UNLABELLED, label_fields
from wsikd.tiles.record import SlideNotes, describe, flat
from wsikd.tiles.store import FILL, PatchTable, TileStore, differences, read_meta

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from wsikd.slides.base import Slide
    from wsikd.slides.tissue import TissueMask
    from wsikd.tiles.store import StoreSettings

log = logging.getLogger(__name__)

_SHARD_PX = 2048
_MIN_CHUNK_PX = 256


def tile_slide(
    slide: Slide,
    path: Path,
    settings: StoreSettings,
    notes: SlideNotes | None = None,
    *,
    workers: int = 2,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[TileStore, bool]:
    """Write the tissue of a slide into a store, or find it done already.

    Args:
        slide: an open slide.
        path: the store; it appears there only when it is whole.
        settings: what to write.
        notes: regions, labels, patient and split.
        workers: Dask threads.
        overwrite: replace a store made with other settings or from another slide.
        on_progress: called with (shards done, shards in all).

    Returns:
        The store, and whether it was made now.

    Raises:
        MissingMppError, RegionReadError, SlideError: from the slide.
        AnnotationError: the mask file cannot be read.
        StoreMismatchError: ``path`` holds a store of other settings.
        OutputError: the disk does not take it, or another process is at work on it.
    """
    notes = notes or SlideNotes()
    part = path.with_name(path.name + ".part")
    try:
        meta = describe(slide, settings, notes, path.parent)
        if not overwrite and _is_made(path, meta):
            return TileStore.open(path), False
        with locked(path):
            if not overwrite and _is_made(path, meta):  # by another process, meanwhile
                return TileStore.open(path), False
            _build(_Build(slide, part, settings, notes, meta, workers), path, on_progress)
    except OSError as error:
        fault = f"cannot be written ({error.strerror or error})"
        raise OutputError(path, fault, "free space, or choose another -o") from error
    return TileStore.open(path), True


def _is_made(path: Path, meta: dict[str, Any]) -> bool:
    """Whether this very store is there; raises StoreMismatchError where another one is."""
    if not path.exists():
        return False
    found = read_meta(path)
    if found is None or not found.get("complete"):
        fault = "exists and is no finished tile store"
        raise StoreMismatchError(path, fault, "choose another -o, or --overwrite")
    if found["digest"] == meta["digest"]:
        return True
    fault = f"made with other settings ({differences(flat(found), flat(meta))})"
    raise StoreMismatchError(path, fault, "choose another -o, or replace it with --overwrite")


def _build(work: _Build, path: Path, on_progress: Callable[[int, int], None] | None) -> None:
    try:
        work.run(on_progress)
    except RegionReadError:
        shutil.rmtree(work.part, ignore_errors=True)
        raise
    _put_in_place(work.part, path)


class _Build:
    """The making of one store in a folder aside."""

    def __init__(
        self,
        slide: Slide,
        part: Path,
        settings: StoreSettings,
        notes: SlideNotes,
        meta: dict[str, Any],
        workers: int,
    ) -> None:
        self.slide, self.part, self.settings, self.notes = slide, part, settings, notes
        self.meta, self.workers = meta, workers
        self.sizes = patch_sizes(settings.mpps, settings.patch_px, settings.stride_px)
        self.canvas = Canvas.plan(slide, settings.mpps[0])
        self.grid = TileGrid.plan(slide, settings.mpps[0], settings.patch_px, settings.stride_px)
        self.chunk_px = settings.patch_px * -(-_MIN_CHUNK_PX // settings.patch_px)
        self.shard_px = self.chunk_px * max(1, round(_SHARD_PX / self.chunk_px))
        self.done = 0
        self.lock = threading.Lock()

    def run(self, on_progress: Callable[[int, int], None] | None) -> None:
        """Fill the folder; what an earlier, killed run finished in it is kept."""
        self._discard_foreign()
        tissue = find_tissue(
            self.slide,
            method=self.settings.tissue,
            mask_file=self.notes.mask_file,
            workers=self.workers,
        )
        table = self._select(tissue)
        group = self._create()
        arrays = [group[str(i)] for i in range(len(self.sizes))]
        jobs = self._jobs(self._needed_chunks(table))

        self._fill(arrays, jobs, on_progress)
        self._finish(group, table, tissue)

    def _fill(
        self,
        arrays: Sequence[Any],
        jobs: Sequence[tuple[tuple[int, int], NDArray[np.bool_]]],
        on_progress: Callable[[int, int], None] | None,
    ) -> None:
        """Fill the shards in Dask's threads, none of which outlives this call."""
        stop = threading.Event()

        def work(corner: tuple[int, int], needed: NDArray[np.bool_]) -> None:
            if stop.is_set():
                return
            self._write_shard(arrays, corner, needed)
            with self.lock:
                self.done += 1
                if on_progress:
                    on_progress(self.done, len(jobs))

        tasks = [delayed(work, pure=False)(corner, needed) for corner, needed in jobs]
        # Dask raises a task's error at once while others run on: they would read from a slide that
        # is closed by then, and write into a folder that is being removed.
        with ThreadPoolExecutor(self.workers) as pool:
            try:
                compute(*tasks, scheduler="threads", pool=pool)  # type: ignore[no-untyped-call]
            finally:
                stop.set()

    def _discard_foreign(self) -> None:
        if not self.part.exists():
            return
        found = read_meta(self.part)
        if found is None or found.get("digest") != self.meta["digest"]:
            log.info("%s: unfinished with other settings; begun anew", self.part.name)
            shutil.rmtree(self.part)
            return
        for leftover in self.part.rglob("*.partial"):
            leftover.unlink()
        for name in ("patches", "labels"):
            shutil.rmtree(self.part / name, ignore_errors=True)

    def _create(self) -> zarr.Group:
        if (self.part / "zarr.json").exists() and all(
            (self.part / str(i) / "zarr.json").exists() for i in range(len(self.sizes))
        ):
            return zarr.open_group(self.part, mode="r+")
        origin_um = _origin_um(self.slide)
        ome_image = ome.image(self.slide.info.name, self.settings.mpps, origin_um)
        attributes = {"ome": ome_image, "wsikd": self.meta}
        group = zarr.create_group(self.part, overwrite=True, attributes=attributes)
        for index, (patch, stride) in enumerate(self.sizes):
            ratio = self.settings.patch_px / patch
            group.create_array(
                str(index),
                shape=(
                    3,
                    (self.grid.rows - 1) * stride + patch,
                    (self.grid.columns - 1) * stride + patch,
                ),
                chunks=(3, round(self.chunk_px / ratio), round(self.chunk_px / ratio)),
                shards=(3, round(self.shard_px / ratio), round(self.shard_px / ratio)),
                dtype="uint8",
                fill_value=FILL,
                filters=[TransposeCodec(order=(1, 2, 0))],
                compressors=None,
                dimension_names=("c", "y", "x"),
            )
        return group

    def _select(self, tissue: TissueMask) -> PatchTable:
        cover = self.grid.cover(tissue)
        rows, columns = np.nonzero((cover >= self.settings.min_tissue) & (cover > 0))
        boxes = self.grid.boxes(rows, columns)
        classes = self.settings.classes
        label, share = label_fields(
            boxes, self.notes.regions, classes, min_cover=self.settings.min_cover
        )
        if self.notes.label in classes and not self.notes.regions:
            label = np.full(len(boxes), classes.index(self.notes.label), np.int16)
            share = np.ones(len(boxes), np.float32)
        if not len(boxes):
            log.warning("%s: no tissue found; the store is empty", self.slide.info.name)
        return PatchTable(
            boxes[:, :2],
            rows.astype(np.int32),
            columns.astype(np.int32),
            cover[rows, columns],
            label if classes else np.full(len(boxes), UNLABELLED, np.int16),
            share,
        )

    def _needed_chunks(self, table: PatchTable) -> NDArray[np.bool_]:
        """Chunks of the finest array that some patch touches: bool (rows, columns)."""
        stride, patch = self.settings.stride_px, self.settings.patch_px
        height = (self.grid.rows - 1) * stride + patch
        width = (self.grid.columns - 1) * stride + patch
        needed = np.zeros((-(-height // self.chunk_px), -(-width // self.chunk_px)), np.bool_)
        for end_y in (0, patch - 1):
            for end_x in (0, patch - 1):
                row = (table.row.astype(np.int64) * stride + end_y) // self.chunk_px
                column = (table.column.astype(np.int64) * stride + end_x) // self.chunk_px
                needed[row, column] = True
        return needed

    def _jobs(self, needed: NDArray[np.bool_]) -> list[tuple[tuple[int, int], NDArray[np.bool_]]]:
        """Shards that hold tissue and are not yet on disk: ((row, column), its needed chunks)."""
        per = self.shard_px // self.chunk_px
        jobs = []
        for row in range(-(-needed.shape[0] // per)):
            for column in range(-(-needed.shape[1] // per)):
                chunks = needed[row * per : (row + 1) * per, column * per : (column + 1) * per]
                file = self.part / "0" / "c" / "0" / str(row) / str(column)
                if chunks.any() and not file.exists():
                    jobs.append(((row, column), chunks))
        return jobs

    def _write_shard(
        self, arrays: Sequence[Any], corner: tuple[int, int], needed: NDArray[np.bool_]
    ) -> None:
        top, left = corner[0] * self.shard_px, corner[1] * self.shard_px
        height = min(self.shard_px, arrays[0].shape[1] - top)
        width = min(self.shard_px, arrays[0].shape[2] - left)
        block = np.full((height, width, 3), FILL, np.uint8)
        for y, x0, x1 in _runs(needed):
            rows = slice(y * self.chunk_px, min((y + 1) * self.chunk_px, height))
            columns = slice(x0 * self.chunk_px, min(x1 * self.chunk_px, width))
            block[rows, columns] = self.canvas.read(
                left + columns.start,
                top + rows.start,
                columns.stop - columns.start,
                rows.stop - rows.start,
            )
        # The finest is written last: its file is the mark that the shard is done at every size.
        for index in reversed(range(len(self.sizes))):
            ratio = self.settings.patch_px / self.sizes[index][0]
            h, w, y, x = (round(v / ratio) for v in (height, width, top, left))
            small = area_resample(block, (0.0, 0.0), (ratio, ratio), (w, h))
            arrays[index][:, y : y + h, x : x + w] = small.transpose(2, 0, 1)

    def _finish(self, group: zarr.Group, table: PatchTable, tissue: TissueMask) -> None:
        """Write the small parts, then the mark of completeness."""
        patches = group.create_group("patches", attributes=self._table_attributes())
        for name, column in (("coords", table.xy), *list(asdict(table).items())[1:]):
            patches.create_array(name, data=np.ascontiguousarray(column))
        labels = group.create_group(
            "labels", attributes={"ome": {"version": "0.5", "labels": ["tissue"]}}
        )
        mask: dict[str, Any] = ome.label("tissue", tissue.mpp, _origin_um(self.slide))
        where: dict[str, Any] = {"origin_xy": tissue.origin_xy, "scale_xy": tissue.scale_xy}
        folder = labels.create_group("tissue", attributes={"ome": mask, "wsikd": where})
        folder.create_array("0", data=tissue.mask.astype(np.uint8), dimension_names=("y", "x"))
        summary: dict[str, Any] = {
            "patches": len(table),
            "labelled": int((table.label != UNLABELLED).sum()),
            "tissue_fraction": round(tissue.fraction, 6),
            "tissue_method": tissue.method,
            "source_level": self.canvas.level,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        group.attrs["wsikd"] = {**self.meta, **summary, "complete": True}

    def _table_attributes(self) -> dict[str, Any]:
        """The attribute names that CLAM and TRIDENT users know, beside exact ones."""
        return {
            "patch_size": self.settings.patch_px,
            "patch_size_level0": list(self.grid.field_px),
            "stride_level0": list(self.grid.step_px),
            "target_magnification": 10 / self.settings.mpps[0],
            "mpp": self.settings.mpps[0],
            "level0_mpp": [self.slide.mpp.x, self.slide.mpp.y],
            "bounds_offset": list(self.slide.info.bounds[:2]),
            "classes": list(self.settings.classes),
        }


def _origin_um(slide: Slide) -> tuple[float, float]:
    x, y = slide.info.bounds[:2]
    return (x * slide.mpp.x, y * slide.mpp.y)


def _runs(needed: NDArray[np.bool_]) -> list[tuple[int, int, int]]:
    """Stretches of needed chunks: (row, first column, column after the last)."""
    runs = []
    for y, line in enumerate(needed):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], line.view(np.int8), [0]])))
        runs += [(y, int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
    return runs


def _put_in_place(part: Path, path: Path) -> None:
    if path.exists():
        old = path.with_name(path.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
        part.rename(path)
        shutil.rmtree(old)
    else:
        part.rename(path)
