"""One block of a tile store, from slide to disk: what a task does, wherever it runs."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wsikd.core.clock import StageClock
from wsikd.core.errors import ConfigError
from wsikd.core.tables import nearest
from wsikd.slides.canvas import Canvas
from wsikd.slides.resample import area_resample
from wsikd.tiles.grid import TileGrid, patch_sizes
from wsikd.tiles.layout import chunk_path, encode
from wsikd.tiles.shards import write_file, write_shard
from wsikd.tiles.store import FILL

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsikd.slides.base import Slide
    from wsikd.tiles.codecs import Bytes
    from wsikd.tiles.store import PatchTable, StoreSettings

    Job = tuple[tuple[int, int], NDArray[np.bool_]]

AREA, PYRAMID = "area", "pyramid"
ROUTES = (AREA, PYRAMID)
_SHARD_PX = 2048
_MIN_CHUNK_PX = 256


def check_route(route: str) -> None:
    """Refuse a route that does not exist; raises ConfigError."""
    if route not in ROUTES:
        raise ConfigError(f"--route {route}", "unknown", nearest(route, ROUTES))


@dataclass(frozen=True)
class BlockPlan:
    """How the pixels of a store are cut into blocks; all a task must know beside its slide.

    A block is a shard at every resolution, or the files of the same chunks in OME-Zarr 0.4. Two
    writers in one shard lose pixels, so a block belongs to one task.
    """

    folder: str
    settings: StoreSettings
    rows: int
    columns: int

    @classmethod
    def of(cls, folder: Path, settings: StoreSettings, grid: TileGrid) -> BlockPlan:
        """Plan the blocks of a grid of fields."""
        return cls(str(folder), settings, grid.rows, grid.columns)

    @cached_property
    def sizes(self) -> list[tuple[int, int]]:
        """Patch and stride in px at each resolution."""
        settings = self.settings
        return patch_sizes(settings.mpps, settings.patch_px, settings.stride_px)

    @cached_property
    def chunk_px(self) -> list[int]:
        """Side of a chunk at each resolution: a patch, or several small ones."""
        several = -(-_MIN_CHUNK_PX // self.settings.patch_px)
        return [patch * several for patch, _ in self.sizes]

    @property
    def per_side(self) -> int:
        """Chunks on a side of a block."""
        return max(1, round(_SHARD_PX / self.chunk_px[0]))

    @property
    def shard_px(self) -> list[int]:
        """Side of a shard at each resolution."""
        return [chunk * self.per_side for chunk in self.chunk_px]

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(height, width) of the arrays in px."""
        return [
            ((self.rows - 1) * stride + patch, (self.columns - 1) * stride + patch)
            for patch, stride in self.sizes
        ]

    def jobs(self, table: PatchTable) -> list[Job]:
        """Blocks that hold patches: ((row, column), bool (per_side, per_side) chunks needed)."""
        needed, per = self._needed(table), self.per_side
        jobs = []
        for row in range(-(-needed.shape[0] // per)):
            for column in range(-(-needed.shape[1] // per)):
                chunks = needed[row * per : (row + 1) * per, column * per : (column + 1) * per]
                if chunks.any():
                    jobs.append(((row, column), chunks))
        return jobs

    def done(self, job: Job) -> bool:
        """Whether a block is on disk: its finest pixels are written last."""
        (row, column), needed = job
        return all(file.exists() for file in self.files(row, column, needed))

    def files(self, row: int, column: int, needed: NDArray[np.bool_], index: int = 0) -> list[Path]:
        """Files of a block in array ``index``."""
        version, per = self.settings.ome_version, self.per_side
        if version != "0.4":
            return [chunk_path(Path(self.folder), index, row, column, version)]
        return [
            chunk_path(Path(self.folder), index, row * per + y, column * per + x, version)
            for y, x in np.argwhere(needed).tolist()
        ]

    def _needed(self, table: PatchTable) -> NDArray[np.bool_]:
        """Chunks of the finest array that some patch touches: bool (rows, columns)."""
        (patch, stride), chunk = self.sizes[0], self.chunk_px[0]
        height, width = self.shapes[0]
        needed = np.zeros((-(-height // chunk), -(-width // chunk)), np.bool_)
        first_y, first_x = table.row.astype(np.int64) * stride, table.column * np.int64(stride)
        for y in (0, patch - 1):
            for x in (0, patch - 1):
                needed[(first_y + y) // chunk, (first_x + x) // chunk] = True
        return needed


def fill_block(slide: Slide, plan: BlockPlan, job: Job) -> dict[str, float]:
    """Read a block's chunks from the slide and write them at every resolution.

    Returns:
        Seconds by stage.

    Raises:
        RegionReadError: the slide is damaged there.
        OSError: the disk does not take it.
    """
    (row, column), needed = job
    writer = _Writer(slide, plan, int(needed.sum()))
    for y, x in np.argwhere(needed).tolist():
        writer.add(row * plan.per_side + y, column * plan.per_side + x)
    writer.write(row, column, needed)
    return writer.clock.seconds


class _Writer:
    """The chunks of one block, until they are written."""

    def __init__(self, slide: Slide, plan: BlockPlan, count: int) -> None:
        settings = plan.settings
        sources = settings.mpps if settings.route == PYRAMID else settings.mpps[:1]
        self.plan = plan
        self.canvases = [Canvas.plan(slide, mpp) for mpp in sources]
        self.encode = encode(settings)
        self.memory = [
            _scratch(index, count, side, keep=settings.codec == "none")
            for index, side in enumerate(plan.chunk_px)
        ]
        self.chunks: list[dict[tuple[int, int], Bytes]] = [{} for _ in plan.chunk_px]
        self.clock = StageClock()
        self.number = 0

    def add(self, row: int, column: int) -> None:
        """Read one chunk and derive it at the other resolutions."""
        per, sides = self.plan.per_side, self.plan.chunk_px
        pixels = [memory[self.number % len(memory)] for memory in self.memory]
        self.number += 1
        for index, (side, out) in enumerate(zip(sides, pixels, strict=True)):
            if index < len(self.canvases):
                self.canvases[index].read(
                    column * side, row * side, side, side, self.clock, out=out
                )
            else:
                ratio = sides[0] / side
                with self.clock("resize"):
                    area_resample(pixels[0], (0.0, 0.0), (ratio, ratio), (side, side), out)
            with self.clock("encode"):
                self.chunks[index][row % per, column % per] = self.encode(out)

    def write(self, row: int, column: int, needed: NDArray[np.bool_]) -> None:
        """Write the finest last: its file is the mark that the block is done at every size."""
        plan = self.plan
        with self.clock("write"):
            for index in reversed(range(len(plan.chunk_px))):
                files = plan.files(row, column, needed, index)
                if plan.settings.ome_version != "0.4":
                    write_shard(files[0], plan.per_side, self.chunks[index])
                    continue
                for file, data in zip(files, self.chunks[index].values(), strict=True):
                    write_file(file, data)


_own = threading.local()


def _scratch(index: int, count: int, side: int, *, keep: bool) -> NDArray[np.uint8]:
    """This thread's memory for chunks, uint8 (chunks, side, side, 3).

    Raw chunks are views of it until they are written, so each needs a place (``keep``).
    """
    shape = (count if keep else 1, side, side, 3)
    store: dict[int, NDArray[np.uint8]] = _own.__dict__.setdefault("store", {})
    need = int(np.prod(shape))
    if index not in store or store[index].size < need:
        store[index] = np.full(need, FILL, np.uint8)
    return store[index][:need].reshape(shape)
