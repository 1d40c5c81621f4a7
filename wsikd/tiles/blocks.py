"""One block of a tile store, from slide to disk: what a task does, wherever it runs."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wsikd.core.errors import ConfigError
from wsikd.core.registry import nearest
from wsikd.core.timing import StageClock
from wsikd.slides.resample.area import area_resample
from wsikd.slides.scaled_view import Canvas
from wsikd.tiles.grid import TileGrid, patch_sizes
from wsikd.tiles.layout import chunk_path, encode
from wsikd.tiles.shards import ShardFile, write_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
    """How the pixels of a store are cut into blocks: all settings of a task but its slide.

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
        return all(file.exists() for file in self._files(row, column, needed))

    def _files(self, row: int, column: int, needed: NDArray[np.bool_]) -> list[Path]:
        """Files of a block's finest pixels."""
        index, version, per = 0, self.settings.ome_version, self.per_side
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
    clock = StageClock()
    with _writer(plan, row, column) as write:
        maker = _Chunks(slide, plan, clock)
        for y, x in np.argwhere(needed).tolist():
            made = maker.make(row * plan.per_side + y, column * plan.per_side + x)
            with clock("write"):
                # The finest is written last: in OME-Zarr 0.4 its file is the mark of the chunk.
                for index in reversed(range(len(made))):
                    write(index, (y, x), made[index])
    return clock.seconds


@contextmanager
def _writer(
    plan: BlockPlan, row: int, column: int
) -> Iterator[Callable[[int, tuple[int, int], Bytes], None]]:
    """What takes (array, place in the block, bytes) of each chunk of a block.

    Shards appear when all is written, the finest last: its file is the mark that the block is done
    at every size.
    """
    folder, version, per = Path(plan.folder), plan.settings.ome_version, plan.per_side
    if version == "0.4":
        yield lambda index, place, data: write_file(
            chunk_path(folder, index, row * per + place[0], column * per + place[1], version), data
        )
        return
    shards: list[ShardFile] = []
    try:
        files = [chunk_path(folder, i, row, column, version) for i in range(len(plan.sizes))]
        shards += (ShardFile(file, per) for file in files)
        yield lambda index, place, data: shards[index].add(place, data)
        for shard in reversed(shards):
            shard.finish()
    finally:
        for shard in shards:
            shard.discard()


class _Chunks:
    """Makes the chunks of a block, encoded; raw ones are good until the next is made."""

    def __init__(self, slide: Slide, plan: BlockPlan, clock: StageClock) -> None:
        settings = plan.settings
        sources = settings.mpps if settings.route == PYRAMID else settings.mpps[:1]
        self.sides, self.clock = plan.chunk_px, clock
        self.canvases = [Canvas.plan(slide, mpp) for mpp in sources]
        self.encode = encode(settings)
        self.pixels = [_scratch(index, side) for index, side in enumerate(self.sides)]

    def make(self, row: int, column: int) -> list[Bytes]:
        """Read one chunk and derive it at the other resolutions: bytes, finest first."""
        finest = self.pixels[0]
        for index, (side, out) in enumerate(zip(self.sides, self.pixels, strict=True)):
            if index < len(self.canvases):
                canvas = self.canvases[index]
                canvas.read(column * side, row * side, side, side, self.clock, out=out)
            else:
                ratio = self.sides[0] / side
                with self.clock("resize"):
                    area_resample(finest, (0.0, 0.0), (ratio, ratio), (side, side), out)
        with self.clock("encode"):
            return [self.encode(out) for out in self.pixels]


_own = threading.local()


def _scratch(index: int, side: int) -> NDArray[np.uint8]:
    """This thread's memory for a chunk of array ``index``, uint8 (side, side, 3)."""
    kept: dict[int, NDArray[np.uint8]] = _own.__dict__.setdefault("kept", {})
    if index not in kept or kept[index].shape[0] != side:
        kept[index] = np.empty((side, side, 3), np.uint8)
    return kept[index]
