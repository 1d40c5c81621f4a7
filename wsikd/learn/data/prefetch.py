"""Batches that are read some steps before their use."""

from __future__ import annotations

import math
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from wsikd.learn.data.ring import Ring

AHEAD = 3
_JOBS_A_THREAD = 2


def read_ahead(
    order: NDArray[np.int64],
    size: int,
    threads: int,
    read: Callable[[NDArray[np.int64]], Tensor],
    *,
    parts: int = 1,
    ring: Ring | None = None,
) -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
    """Read batches in threads, at least three in advance.

    At least two readings a thread are in flight, so that no thread waits for work.

    Args:
        order: int64 (M,), indices.
        size: indices in a batch; the last may have fewer.
        threads: number of reading threads.
        read: what is read of indices.
        parts: in which a batch is read, where what is read of its parts can be joined along the
            first axis. A batch of many patches thus keeps many threads busy; fewer batches are in
            memory.
        ring: buffers that parts are copied into by the thread that read them; a batch is then
            valid until the next one is asked for. None: batches are tensors of their own.

    Yields:
        What was read, and the indices.
    """
    threads = max(1, threads)
    ahead = max(AHEAD, math.ceil(_JOBS_A_THREAD * threads / parts))
    batches = [order[i : i + size] for i in range(0, len(order), size)]
    with ThreadPoolExecutor(threads) as pool:

        def start(batch: NDArray[np.int64]) -> _Parts:
            step = math.ceil(len(batch) / parts)
            slot = None if ring is None else _Slot(ring, len(batch), read)
            return _Parts(slot, [
                pool.submit(read, batch[i : i + step])
                if slot is None
                else pool.submit(slot.fill, i, batch[i : i + step])
                for i in range(0, len(batch), step)
            ])  # fmt: skip

        waiting = deque(map(start, batches[:ahead]))
        for n, batch in enumerate(batches):
            found = waiting.popleft()
            whole = found.joined()
            if n + ahead < len(batches):
                waiting.append(start(batches[n + ahead]))
            yield whole, batch
            if ring is not None:
                ring.give(whole)


class _Slot:
    """The buffer of one batch, taken when its first part has been read and its shape is known."""

    def __init__(self, ring: Ring, count: int, read: Callable[[NDArray[np.int64]], Tensor]) -> None:
        self.ring, self.count, self.read = ring, count, read
        self.buffer: Tensor | None = None
        self._lock = Lock()

    def fill(self, start: int, indices: NDArray[np.int64]) -> Tensor:
        """Read a part into its place; returns it."""
        found = self.read(indices)
        with self._lock:
            if self.buffer is None:
                self.buffer = self.ring.take((self.count, *found.shape[1:]), found.dtype)
        return self.buffer[start : start + len(found)].copy_(found)


class _Parts(NamedTuple):
    """The parts of a batch that are being read."""

    slot: _Slot | None
    reading: list[Future[Tensor]]

    def joined(self) -> Tensor:
        """The whole batch, once it is there."""
        found = [part.result() for part in self.reading]
        if self.slot is not None:
            assert self.slot.buffer is not None
            return self.slot.buffer
        return found[0] if len(found) == 1 else torch.cat(found)
