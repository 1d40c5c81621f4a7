"""Buffers that batches are read into, used again in turn: pinned, where a GPU copies from them."""

from __future__ import annotations

import math
from collections import deque
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from torch import Tensor


class _Free(NamedTuple):
    """A buffer, and the moment on the GPU after which nothing reads it any more."""

    buffer: Tensor
    after: torch.cuda.Event | None


class Ring:
    """Memory for batches of one shape at a time.

    Pinning memory takes longer than reading it, so a buffer is pinned once and then goes round.
    """

    def __init__(self, device: torch.device) -> None:
        """For batches that are copied to a device; a CPU needs no pinned memory."""
        self.device = device
        self._free: deque[_Free] = deque()
        self._lock = Lock()
        self.made = 0

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A buffer (B, ...) that nothing else uses, the longest unused one first."""
        with self._lock:
            if self._free and self._serves(self._free[0], shape, dtype):
                return self._free.popleft().buffer.flatten()[: math.prod(shape)].view(shape)
            if self._free and not self._fits(self._free[0].buffer, shape, dtype):
                self._free.clear()  # a batch of another shape: begin again
            self.made += 1
        return torch.empty(shape, dtype=dtype, pin_memory=self.device.type == "cuda")

    def give(self, buffer: Tensor) -> None:
        """Take a buffer back; what the GPU was asked to do before this may still read it."""
        after = None
        if self.device.type == "cuda":
            after = torch.cuda.Event()  # type: ignore[no-untyped-call]
            after.record(torch.cuda.current_stream(self.device))
        whole = buffer if buffer._base is None else buffer._base
        with self._lock:
            self._free.append(_Free(whole, after))

    def _serves(self, free: _Free, shape: tuple[int, ...], dtype: torch.dtype) -> bool:
        ended = free.after is None or free.after.query()  # type: ignore[no-untyped-call]
        return ended and self._fits(free.buffer, shape, dtype)

    @staticmethod
    def _fits(buffer: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> bool:
        return buffer.dtype == dtype and buffer.numel() >= math.prod(shape)
