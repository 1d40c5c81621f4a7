"""Is all there that a store recorded? A copy may lack files, and Zarr reads those as fill values.

Every chunk that holds part of a recorded patch was written, whatever its colour. So a chunk that is
absent there is lost, not white. The check reads the index of each shard, not its pixels.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.core.errors import StoreError
from wsikd.core.positioned import open_for_reading, read_at
from wsikd.tiles.shards import ABSENT, read_index

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import zarr
    from numpy.typing import NDArray

    from wsikd.tiles.patch_table import PatchTable

WHOLE = "every_chunk_written"
_BLOSC_HEAD = 16
REMEDY = "copy it again, or run wsikd tile --overwrite"


def check_pixels(
    path: Path,
    arrays: Sequence[zarr.Array[Any]],
    mpps: Sequence[float],
    sizes: Sequence[tuple[int, int]],
    patches: PatchTable,
) -> None:
    """Refuse a store that lost pixels of its patches.

    Args:
        path: the store.
        arrays: one a resolution, uint8 (c, y, x).
        mpps: um/px of each.
        sizes: side and stride of a patch in px of each.
        patches: the store's patches.

    Raises:
        StoreError: patches lack pixels; the number is given for the resolution that lost most.
        OSError: the store cannot be read.
    """
    if not len(patches):
        return
    lost = [
        int(_lost(path, array, *size, patches).sum())
        for array, size in zip(arrays, sizes, strict=True)
    ]
    worst = int(np.argmax(lost))
    if lost[worst]:
        share = f"{lost[worst]} of {len(patches)} patches at {10 / mpps[worst]:.3g}x"
        raise StoreError(path, f"has no pixels for {share}", REMEDY)


def check_table(
    path: Path,
    columns: Mapping[str, zarr.Array[Any]],
    patches: PatchTable,
    meta: Mapping[str, Any],
    *,
    zeros_written: bool,
) -> None:
    """Refuse a store that lost part of its table of patches.

    Args:
        path: the store.
        columns: the arrays of the table.
        patches: what was read from them.
        meta: the store's record.
        zeros_written: whether chunks of zeros were written too. wsikd 0.1.0 left them out; there
            the columns must agree with each other and with the record.

    Raises:
        StoreError: a column is lost, or the record has another number of patches.
    """
    count = meta.get("patches", len(patches))
    if count != len(patches):
        fault = f"lists {len(patches)} patches, but its record says {count}"
        raise StoreError(path, fault, REMEDY)
    lost = [name for name, array in columns.items() if lacks_chunk(path / array.path, array)]
    if not zeros_written:
        lost = [name for name in lost if not _may_be_zero(name, patches, meta)]
    if lost:
        raise StoreError(path, f"lacks the column '{lost[0]}' of its patches", REMEDY)


def _may_be_zero(name: str, patches: PatchTable, meta: Mapping[str, Any]) -> bool:
    if name == "label":
        return bool((patches.label >= 0).sum() == meta.get("labelled"))
    if name in ("row", "column"):
        return len(np.unique(patches.xy[:, 1 if name == "row" else 0])) == 1
    return name == "cover" or (name == "coords" and len(patches) == 1)


def lacks_chunk(folder: Path, array: zarr.Array[Any]) -> bool:
    """Whether some chunk of the array in a folder is not a file."""
    keys = map(array.metadata.encode_chunk_key, np.ndindex(array.cdata_shape))
    return any(not (folder / key).is_file() for key in keys)


def _lost(
    path: Path, array: zarr.Array[Any], side: int, stride: int, patches: PatchTable
) -> NDArray[np.bool_]:
    """Which patches touch a chunk that is not there: bool (N,)."""
    chunk = array.chunks[1]
    first_y, first_x = (p.astype(np.int64) * stride for p in (patches.row, patches.column))
    corners = [
        ((first_y + y) // chunk, (first_x + x) // chunk)
        for y in (0, side - 1)
        for x in (0, side - 1)
    ]
    needed = np.zeros(tuple(-(-n // chunk) for n in array.shape[1:]), np.bool_)
    for corner in corners:
        needed[corner] = True
    there = (
        _chunk_files(path, array, needed) if array.shards is None else _shards(path, array, needed)
    )
    lost = np.zeros(len(patches), np.bool_)
    for corner in corners:
        lost |= ~there[corner]
    return lost


def _shards(path: Path, array: zarr.Array[Any], needed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which of the needed chunks lie in their shards: bool, as ``needed``."""
    assert array.shards is not None
    per = array.shards[1] // array.chunks[1]
    there = np.zeros_like(needed)
    folder = path / array.basename / "c" / "0"
    for row, column in np.unique(np.argwhere(needed) // per, axis=0).tolist():
        found = _indexed(folder / str(row) / str(column), per)
        block = there[row * per : (row + 1) * per, column * per : (column + 1) * per]
        block[...] = found[: block.shape[0], : block.shape[1]]
    return there


def _indexed(file: Path, per_side: int) -> NDArray[np.bool_]:
    """Which chunks a shard holds: bool (per_side, per_side); none where it is torn or absent."""
    try:
        handle = open_for_reading(file)
    except (FileNotFoundError, NotADirectoryError):
        return np.zeros((per_side, per_side), np.bool_)
    try:
        index = read_index(handle, per_side)
        if index is None:
            return np.zeros((per_side, per_side), np.bool_)
        room = os.fstat(handle).st_size - index.nbytes
    finally:
        os.close(handle)
    offset, size = index[..., 0], index[..., 1]
    there: NDArray[np.bool_] = offset != ABSENT
    return there & (offset <= room) & (size <= room) & (offset + size <= room)


def _chunk_files(
    path: Path, array: zarr.Array[Any], needed: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Which of the needed chunks are files of their own, OME-Zarr 0.4: bool, as ``needed``."""
    raw_bytes = None if array.compressors else int(np.prod(array.chunks))
    there = np.zeros_like(needed)
    folder = os.fspath(path / array.basename / "0")
    for row, column in np.argwhere(needed).tolist():
        there[row, column] = _is_whole(f"{folder}/{row}/{column}", raw_bytes)
    return there


def _is_whole(file: str, raw_bytes: int | None) -> bool:
    """Whether a chunk's file has its size: ``raw_bytes``, else what its Blosc header says.

    Blosc itself decodes a file that is cut short, to other pixels.
    """
    try:
        if raw_bytes is not None:
            return os.stat(file).st_size == raw_bytes  # noqa: PTH116 - thrice as quick
        handle = open_for_reading(file)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        head = read_at(handle, _BLOSC_HEAD, 0)
        return int.from_bytes(head[12:], "little") == os.fstat(handle).st_size > _BLOSC_HEAD
    finally:
        os.close(handle)
