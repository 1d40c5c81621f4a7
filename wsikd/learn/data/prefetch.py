"""Batches that are read some steps ahead of their use."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

AHEAD = 3


def read_ahead(
    order: NDArray[np.int64], size: int, threads: int, read: Callable[[NDArray[np.int64]], Tensor]
) -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
    """Read batch after batch in threads, three ahead.

    Args:
        order: int64 (M,), indices.
        size: indices in a batch; the last may have fewer.
        threads: that read.
        read: what is read of the indices of a batch.

    Yields:
        What was read, and the indices.
    """
    parts = [order[i : i + size] for i in range(0, len(order), size)]
    with ThreadPoolExecutor(max(1, threads)) as pool:
        waiting = [pool.submit(read, part) for part in parts[:AHEAD]]
        for n, part in enumerate(parts):
            found = waiting.pop(0).result()
            if n + AHEAD < len(parts):
                waiting.append(pool.submit(read, parts[n + AHEAD]))
            yield found, part
