"""Patches straight from a slide, in batches: what inference and embedding read. Needs no torch.

Threads read ahead into batches that are used again and again, by the next slide too: fresh memory
costs a twentieth of decoding. Where patches overlap or are small, the slide is read strip by strip,
each once, and patches are cut from the strips.
"""

from __future__ import annotations

import math
from collections import deque
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

import numpy as np

from wsikd.core.timing import StageClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from wsikd.slides.scaled_view import Canvas
    from wsikd.tiles.grid import TileGrid

    Batch = tuple[NDArray[np.int64], NDArray[np.uint8]]

T = TypeVar("T")
_RUN_PX = 1024
_SMALL_PX = 256
_TASK_PATCHES = 4
_SPARE_BYTES = 64 << 20


def stream_patches(
    canvas: Canvas,
    grid: TileGrid,
    rows: NDArray[np.integer],
    columns: NDArray[np.integer],
    *,
    batch_size: int = 32,
    workers: int = 2,
    clock: StageClock | None = None,
) -> Iterator[Batch]:
    """Read fields of a grid, row by row.

    Args:
        canvas: the slide at the grid's resolution.
        grid: where fields lie.
        rows: grid row of each field wanted, int (N,), not falling.
        columns: grid column of each, int (N,), rising within a row.
        batch_size: fields a batch.
        workers: threads that read; 0: the calling thread reads, which costs less for few fields.
        clock: times the stages ``read`` and ``resize``.

    Yields:
        Indices into ``rows`` (int64 (B,)), and patches uint8 (B, patch_px, patch_px, 3). The
        patches are overwritten once the next batch is asked for, or another stream begins.

    Raises:
        RegionReadError: the slide is damaged at a field.
    """
    clock = clock or StageClock()
    with _Memory() as memory, _Here() if workers < 1 else ThreadPoolExecutor(workers) as pool:
        small = grid.patch_px <= _SMALL_PX and grid.stride_px == grid.patch_px
        if grid.stride_px < grid.patch_px or small:
            yield from _cut(canvas, grid, rows, columns, batch_size, pool, clock)
        else:
            where = (canvas, grid, rows, columns)
            yield from _one_by_one(*where, batch_size, max(1, workers), pool, memory, clock)


class _Here(Executor):
    """Does everything at once, in the calling thread."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **named: Any) -> Future[T]:
        """Call a function; its error is raised here."""
        done: Future[T] = Future()
        done.set_result(fn(*args, **named))
        return done


class _Memory:
    """Arrays for the time of a stream, taken over from the one before where that left enough."""

    _spare: ClassVar[deque[NDArray[np.uint8]]] = deque(maxlen=2)

    def __init__(self) -> None:
        self._taken: list[NDArray[np.uint8]] = []

    def array(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """An array that holds anything, uint8."""
        size = math.prod(shape)
        try:
            memory = self._spare.pop()
        except IndexError:
            memory = np.empty(0, np.uint8)
        if not size <= memory.size <= 2 * size:
            memory = np.empty(size, np.uint8)
        self._taken.append(memory)
        return memory[:size].reshape(shape)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._spare.extend(memory for memory in self._taken if memory.size <= _SPARE_BYTES)


def _one_by_one(
    canvas: Canvas,
    grid: TileGrid,
    rows: NDArray[np.integer],
    columns: NDArray[np.integer],
    batch_size: int,
    workers: int,
    pool: Executor,
    store: _Memory,
    clock: StageClock,
) -> Iterator[Batch]:
    """Each patch by a read of its own, into its place in the batch."""
    side, stride = grid.patch_px, grid.stride_px
    batches = [
        np.arange(first, min(first + batch_size, len(rows)))
        for first in range(0, len(rows), batch_size)
    ]
    batch_size = min(batch_size, max(1, len(rows)))
    ahead = -(-2 * workers // batch_size)
    free = deque(store.array((batch_size, side, side, 3)) for _ in range(ahead + 1))
    waiting: deque[tuple[NDArray[np.int64], NDArray[np.uint8], list[Future[None]]]] = deque()
    few = max(1, min(_TASK_PATCHES, batch_size // (2 * workers)))

    def read(indices: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
        for index, patch in zip(indices.tolist(), out, strict=True):
            x, y = int(columns[index]) * stride, int(rows[index]) * stride
            canvas.read(x, y, side, side, clock, out=patch)

    todo = iter(batches)
    try:
        while True:
            while free and (indices := next(todo, None)) is not None:
                memory = free.popleft()
                reads = [
                    pool.submit(read, indices[k : k + few], memory[k : k + few][: len(indices) - k])
                    for k in range(0, len(indices), few)
                ]
                waiting.append((indices, memory, reads))
            if not waiting:
                return
            indices, memory, reads = waiting.popleft()
            for done in reads:
                done.result()
            yield indices, memory[: len(indices)]
            free.append(memory)
    finally:
        for _, _, reads in waiting:
            for pending in reads:
                pending.cancel()


def _cut(
    canvas: Canvas,
    grid: TileGrid,
    rows: NDArray[np.integer],
    columns: NDArray[np.integer],
    batch_size: int,
    pool: Executor,
    clock: StageClock,
) -> Iterator[Batch]:
    """Patches cut from strips one stride high, each of which is read once."""
    side = grid.patch_px
    strips = _Strips(canvas, grid, rows, columns, pool, clock)
    batch = np.empty((batch_size, side, side, 3), np.uint8)
    first = filled = 0
    for index in range(len(rows)):
        if index == 0 or rows[index] != rows[index - 1]:
            strips.advance(int(rows[index]))
        strips.copy(int(columns[index]), batch[filled])
        filled += 1
        if filled == batch_size or index == len(rows) - 1:
            yield np.arange(first, index + 1), batch[:filled]
            first, filled = index + 1, 0


class _Strips:
    """The strips of canvas under the current grid row, and the next one being read."""

    def __init__(
        self,
        canvas: Canvas,
        grid: TileGrid,
        rows: NDArray[np.integer],
        columns: NDArray[np.integer],
        pool: Executor,
        clock: StageClock,
    ) -> None:
        self.canvas, self.pool, self.clock = canvas, pool, clock
        self.stride, self.side = grid.stride_px, grid.patch_px
        self.per_patch = -(-self.side // self.stride)
        self.left = int(columns.min()) if len(columns) else 0
        cells = (int(columns.max()) if len(columns) else 0) + self.per_patch - self.left
        self.needed: dict[int, NDArray[np.bool_]] = {}
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            for strip in range(row, row + self.per_patch):
                line = self.needed.setdefault(strip, np.zeros(cells, np.bool_))
                line[column - self.left : column - self.left + self.per_patch] = True
        self.order = sorted(self.needed)
        self.ready: dict[int, tuple[NDArray[np.uint8], list[Future[None]]]] = {}
        self.spare: list[NDArray[np.uint8]] = []
        self.row = 0

    def advance(self, row: int) -> None:
        """Load the strips of a grid row, and start to read the next one."""
        self.row = row
        for strip in [s for s in self.ready if s < row]:
            self.spare.append(self.ready.pop(strip)[0])
        for strip in range(row, row + self.per_patch + 1):
            if strip in self.needed and strip not in self.ready:
                self._start(strip)
        for strip in range(row, row + self.per_patch):
            for done in self.ready[strip][1]:
                done.result()

    def copy(self, column: int, out: NDArray[np.uint8]) -> None:
        """Cut a patch of the current row."""
        x = (column - self.left) * self.stride
        for part in range(self.per_patch):
            top = part * self.stride
            height = min(self.stride, self.side - top)
            strip = self.ready[self.row + part][0]
            out[top : top + height] = strip[:height, x : x + self.side]

    def _start(self, strip: int) -> None:
        line = self.needed[strip]
        shape = (self.stride, len(line) * self.stride, 3)
        memory = self.spare.pop() if self.spare else np.empty(shape, np.uint8)
        most = max(1, _RUN_PX // self.stride)
        edges = np.flatnonzero(np.diff(np.concatenate([[0], line.view(np.int8), [0]])))
        reads: list[Future[None]] = []
        for begin, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            for cell in range(begin, end, most):
                stop = min(cell + most, end)
                out = memory[:, cell * self.stride : stop * self.stride]
                x, y = (self.left + cell) * self.stride, strip * self.stride
                reads.append(self.pool.submit(self._read, x, y, out))
        self.ready[strip] = (memory, reads)

    def _read(self, x: int, y: int, out: NDArray[np.uint8]) -> None:
        self.canvas.read(x, y, out.shape[1], out.shape[0], self.clock, out=out)
