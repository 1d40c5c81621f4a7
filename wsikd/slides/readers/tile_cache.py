"""Decoded tiles that several reads share: each is decoded once, and kept while it is wanted."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]


@dataclass
class _Kept:
    pixels: Pixels
    left_px: int


def tile_memory(shape: tuple[int, int, int]) -> Pixels:
    """Memory for the decoder to write a tile to, uint8 (height, width, 3), off by 8 bytes.

    Into rows that start at multiples of 16 or 32 bytes libjpeg-turbo writes past the processor's
    caches, from where the next step would read: decoding and halving then take a fifth longer.
    """
    size = math.prod(shape)
    memory = np.empty(size + 72, np.uint8)
    start = -memory.ctypes.data % 64 + 8
    return memory[start : start + size].reshape(shape)


class TileCache:
    """Tiles whose neighbours' reads will want them too, up to ``capacity`` bytes.

    First evicted, the oldest first, are the tiles whose pixels were all requested; then
    the longest unused. A tile that two threads want at once is decoded by one of them.
    """

    def __init__(self, capacity: int) -> None:
        """Start empty."""
        self.capacity = capacity
        self.decoded = 0
        self._bytes = 0
        self._wanted: OrderedDict[Hashable, _Kept] = OrderedDict()
        self._spent: OrderedDict[Hashable, _Kept] = OrderedDict()
        self._pending: dict[Hashable, threading.Event] = {}
        self._lock = threading.Lock()

    def reserve(self, capacity: int) -> None:
        """Raise the size of the cache to at least so many bytes."""
        self.capacity = max(self.capacity, capacity)

    def get(self, key: Hashable, wanted_px: int, decode: Callable[[], Pixels]) -> Pixels:
        """A tile's pixels; ``wanted_px`` of them are about to be used.

        Args:
            key: which tile.
            wanted_px: number of pixels the caller takes of it.
            decode: makes the tile, in an array of its own.
        """
        while True:
            with self._lock:
                if (tile := self._take(key, wanted_px)) is not None:
                    return tile
                busy = self._pending.get(key)
                if busy is None:
                    self._pending[key] = threading.Event()
                    break
            busy.wait()
        try:
            pixels = decode()
        except BaseException:
            self._release(key)
            raise
        with self._lock:
            self.decoded += 1
            self._keep(key, _Kept(pixels, pixels.shape[0] * pixels.shape[1] - wanted_px))
        self._release(key)
        return pixels

    def _take(self, key: Hashable, wanted_px: int) -> Pixels | None:
        entry = self._spent.get(key)
        if entry is None:
            entry = self._wanted.pop(key, None)
            if entry is None:
                return None
            entry.left_px -= wanted_px
            self._file(key, entry)
        return entry.pixels

    def _keep(self, key: Hashable, entry: _Kept) -> None:
        self._file(key, entry)
        self._bytes += entry.pixels.nbytes
        while self._bytes > self.capacity:
            _, oldest = (self._spent or self._wanted).popitem(last=False)
            self._bytes -= oldest.pixels.nbytes

    def _file(self, key: Hashable, entry: _Kept) -> None:
        """Put a tile at the end of the line it belongs to."""
        (self._wanted if entry.left_px > 0 else self._spent)[key] = entry

    def _release(self, key: Hashable) -> None:
        with self._lock:
            self._pending.pop(key).set()
