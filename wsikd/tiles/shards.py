"""Shard files of Zarr v3, written whole and read in part, without zarr-python's detour.

A shard is its chunks one after another and an index at the end: offset and size of every chunk as
uint64, row by row, and the CRC-32C of that. A chunk that was never written has all bits set.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

import google_crc32c
import numpy as np

from wsikd.core.errors import StoreError
from wsikd.core.output.files import drop_temporary, into_place
from wsikd.core.positioned import open_for_reading, read_at, read_into_at

if TYPE_CHECKING:
    from io import FileIO
    from pathlib import Path

    from numpy.typing import NDArray

    from wsikd.tiles.codecs import Bytes

ABSENT = 2**64 - 1
_OPEN_FILES = 64
_PARTIAL = r".+\.\d+-\d+\.partial"
_REMEDY = "copy it again, or run wsikd tile --overwrite"


class ShardFile:
    """A shard being written beside its place, chunk by chunk, under a name unique to the thread.

    Each chunk goes to the disk while it is still in the processor's cache. ``finish`` puts the
    shard in its place, ``discard`` removes what was written of it.
    """

    def __init__(self, file: Path, per_side: int) -> None:
        """Begin the shard that belongs at ``file``, with ``per_side`` chunks on a side.

        Raises:
            OSError: the disk does not take it.
        """
        self.file, self._aside = file, _aside(file)
        self._index = np.full((per_side, per_side, 2), ABSENT, "<u8")
        self._at = 0
        _make_folder(self._aside.parent)
        self._stream = self._aside.open("wb", buffering=0)

    def add(self, place: tuple[int, int], data: Bytes) -> None:
        """Append a chunk's encoded bytes; ``place`` is (row, column) within the shard."""
        self._index[place] = (self._at, self._write(data))
        self._at = int(self._index[place].sum())

    def finish(self) -> None:
        """Write the index and put the shard in its place."""
        table = self._index.tobytes()
        self._write(table + _crc(table))
        self._stream.close()
        into_place(self._aside, self.file)

    def discard(self) -> None:
        """Leave nothing of it; after ``finish`` there is nothing to leave."""
        self._stream.close()
        drop_temporary(self._aside, _PARTIAL)

    def _write(self, data: Bytes) -> int:
        return _write_all(self._stream, data)


def write_file(file: Path, data: Bytes) -> None:
    """Write a file beside its place and put it there; raises OSError."""
    aside = _aside(file)
    try:
        _make_folder(aside.parent)
        with aside.open("wb", buffering=0) as stream:
            _write_all(stream, data)
        into_place(aside, file)
    except BaseException:
        drop_temporary(aside, _PARTIAL)
        raise


def _make_folder(folder: Path) -> None:
    """Make a folder within a store, but not the store: its maker may have given it up."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    if any(place.suffix == ".part" for place in missing):
        raise FileNotFoundError(errno.ENOENT, "the unfinished store is gone", str(folder))
    folder.mkdir(parents=True, exist_ok=True)


def _aside(file: Path) -> Path:
    return file.with_name(f"{file.name}.{os.getpid()}-{threading.get_ident()}.partial")


def _write_all(stream: FileIO, data: Bytes) -> int:
    view = memoryview(data).cast("B")
    size = len(view)
    while len(view):
        view = view[stream.write(view) :]
    return size


class RawShards:
    """Reads pixels of a raw, interleaved array shard by shard. Threads may share it."""

    def __init__(self, folder: Path, chunk_px: int, per_side: int, fill: int | None) -> None:
        """Read the shards in ``folder``, the array's ``c/0``.

        An absent chunk reads as ``fill``; with None it is an error.
        """
        self.folder, self.chunk_px, self.per_side, self.fill = folder, chunk_px, per_side, fill
        self._files: OrderedDict[tuple[int, int], tuple[int, NDArray[np.uint64]] | None]
        self._files = OrderedDict()
        self._lock = threading.Lock()

    def read_into(self, x: int, y: int, out: NDArray[np.uint8]) -> None:
        """Fill ``out``, contiguous uint8 (height, width, 3), from array pixel (x, y) on.

        Raises:
            StoreError: a shard is cut short, or a chunk is absent and there is no fill value.
        """
        height, width = out.shape[:2]
        side = self.chunk_px
        for row in range(y // side, -(-(y + height) // side)):
            top, bottom = max(y, row * side), min(y + height, (row + 1) * side)
            for column in range(x // side, -(-(x + width) // side)):
                left, right = max(x, column * side), min(x + width, (column + 1) * side)
                target = out[top - y : bottom - y, left - x : right - x]
                inside = (
                    slice(top - row * side, bottom - row * side),
                    slice(left - column * side, right - column * side),
                )
                self._chunk(row, column, inside, target)

    def close(self) -> None:
        """Close the files."""
        with self._lock:
            while self._files:
                self._forget()

    def __del__(self) -> None:
        self.close()

    def _chunk(
        self, row: int, column: int, inside: tuple[slice, slice], target: NDArray[np.uint8]
    ) -> None:
        per, side = self.per_side, self.chunk_px
        with self._lock:
            found = self._open(row // per, column // per)
            if found is None or found[1][row % per, column % per, 0] == ABSENT:
                if self.fill is None:
                    place = self.folder / str(row // per) / str(column // per)
                    raise StoreError(place, "lacks pixels that were recorded", _REMEDY)
                target[...] = self.fill
                return
            handle, index = os.dup(found[0]), found[1]
        try:
            offset = int(index[row % per, column % per, 0]) + inside[0].start * side * 3
            lines = inside[0].stop - inside[0].start
            whole = target.flags.c_contiguous and target.shape[1] == side
            block = target if whole else np.empty((lines, side, 3), np.uint8)
            if read_into_at(handle, block.data.cast("B"), offset) < block.nbytes:
                place = self.folder / str(row // per) / str(column // per)
                raise StoreError(place, "damaged or truncated", _REMEDY)
        finally:
            os.close(handle)
        if not whole:
            target[...] = block[:, inside[1]]

    def _open(self, row: int, column: int) -> tuple[int, NDArray[np.uint64]] | None:
        """Handle and index of a shard, kept open; None where no chunk of it was written."""
        key = (row, column)
        if key in self._files:
            self._files.move_to_end(key)
            return self._files[key]
        place = self.folder / str(row) / str(column)
        found = None
        if place.exists():
            handle = open_for_reading(place)
            index = read_index(handle, self.per_side)
            if index is None:
                os.close(handle)
                raise StoreError(place, "damaged or truncated", _REMEDY)
            found = (handle, index)
        self._files[key] = found
        if len(self._files) > _OPEN_FILES:
            self._forget()
        return found

    def _forget(self) -> None:
        _, oldest = self._files.popitem(last=False)
        if oldest is not None:
            os.close(oldest[0])


def read_index(handle: int, per_side: int) -> NDArray[np.uint64] | None:
    """Offset and size of each chunk of an open shard: uint64 (per_side, per_side, 2).

    A chunk that was not written has ``ABSENT``. None where the shard is torn.
    """
    size = per_side**2 * 16
    data = read_at(handle, size + 4, max(0, os.fstat(handle).st_size - size - 4))
    if len(data) < size + 4 or _crc(data[:size]) != data[size:]:
        return None
    return np.frombuffer(data[:size], "<u8").reshape(per_side, per_side, 2)


def _crc(data: bytes) -> bytes:
    return int(google_crc32c.value(data)).to_bytes(4, "little")
