"""Batches that are read some steps before their use."""

from __future__ import annotations

import math
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

AHEAD = 3
_JOBS_A_THREAD = 2


def read_ahead(
    order: NDArray[np.int64],
    size: int,
    threads: int,
    read: Callable[[NDArray[np.int64]], Tensor],
    *,
    parts: int = 1,
) -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
    """Read batches in threads, at least three in advance.

    At least two readings a thread are in flight, so that no thread waits for work.

    Args:
        order: int64 (M,), indices.
        size: indices in a batch; the last may have fewer.
        threads: that read.
        read: what is read of indices.
        parts: in which a batch is read, where what is read of its parts can be joined along the
            first axis. A batch of many patches thus keeps many threads busy; fewer batches are in
            memory.

    Yields:
        What was read, and the indices.
    """
    threads = max(1, threads)
    ahead = max(AHEAD, math.ceil(_JOBS_A_THREAD * threads / parts))
    batches = [order[i : i + size] for i in range(0, len(order), size)]
    with ThreadPoolExecutor(threads) as pool:

        def start(batch: NDArray[np.int64]) -> list[Future[Tensor]]:
            step = math.ceil(len(batch) / parts)
            return [pool.submit(read, batch[i : i + step]) for i in range(0, len(batch), step)]

        waiting = deque(map(start, batches[:ahead]))
        for n, batch in enumerate(batches):
            found = _joined(waiting.popleft())
            if n + ahead < len(batches):
                waiting.append(start(batches[n + ahead]))
            yield found, batch


def _joined(parts: list[Future[Tensor]]) -> Tensor:
    found = [part.result() for part in parts]
    return found[0] if len(found) == 1 else torch.cat(found)
