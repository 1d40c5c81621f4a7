"""Batches on a GPU: the next one is sent while one is computed. A CPU computes at once."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    Wait = Callable[[], NDArray[Any]]

K = TypeVar("K")
V = TypeVar("V")
R = TypeVar("R")


def most_in_flight(device: torch.device) -> int:
    """Number of batches that a device has at once."""
    return 2 if device.type == "cuda" else 1


def in_turn(
    batches: Iterable[tuple[K, V]], start: Callable[[V], Callable[[], R]], most: int
) -> Iterator[tuple[K, R]]:
    """Results in the order of the batches; at most ``most`` are started at once.

    Args:
        batches: keys, and what is computed; the latter may be overwritten after ``start``.
        start: starts a batch; what it returns waits for the result.
        most: at least 1.
    """
    waiting: deque[tuple[K, Callable[[], R]]] = deque()
    for key, value in batches:
        waiting.append((key, start(value)))
        if len(waiting) >= most:
            first, wait = waiting.popleft()
            yield first, wait()
    while waiting:
        first, wait = waiting.popleft()
        yield first, wait()


class Lane:
    """Sends batches to a GPU beside the one that it computes, and brings results back."""

    def __init__(self, device: torch.device) -> None:
        """For one device."""
        self.device = device
        self._sending: torch.cuda.Stream | None = None

    def start(self, batch: NDArray[Any], compute: Callable[[torch.Tensor], torch.Tensor]) -> Wait:
        """Send a batch and compute it; what is returned waits for the result.

        Args:
            batch: may be overwritten afterwards.
            compute: maps it, as a tensor on the device, to a tensor there.
        """
        if self.device.type != "cuda":
            return download(compute(torch.from_numpy(batch).to(self.device)))
        if self._sending is None:
            self._sending = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        computing = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self._sending):
            sent = torch.from_numpy(batch).pin_memory().to(self.device, non_blocking=True)
        computing.wait_stream(self._sending)
        sent.record_stream(computing)
        return download(compute(sent))


def download(values: torch.Tensor) -> Wait:
    """Start to copy a tensor to the host; what is returned waits for the copy."""
    if values.device.type != "cuda":
        found = values.cpu().numpy()
        return partial(_given, found)
    copy = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    copy.copy_(values, non_blocking=True)
    there = torch.cuda.Event()  # type: ignore[no-untyped-call]
    there.record(torch.cuda.current_stream(values.device))
    return partial(_awaited, copy, there)


def _given(found: NDArray[Any]) -> NDArray[Any]:
    return found


def _awaited(found: torch.Tensor, there: torch.cuda.Event) -> NDArray[Any]:
    there.synchronize()
    return np.asarray(found.numpy())
