"""Texts in HDF5 files, read only where the library comes back from it.

The HDF5 library goes round for ever in a damaged heap of texts (format specification, III.E "Global
Heap": an object whose size leads back to itself).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    import h5py

_EDGE_BYTES = 1 << 20
_SIGNATURE, _HEAD, _OBJECT_HEAD = b"GCOL", 16, 16


def text_attribute(path: Path, attributes: h5py.AttributeManager, name: str) -> str | None:
    """A text; None where there is none, or where the file's heaps of texts are damaged."""
    from h5py import check_string_dtype

    if name not in attributes:
        return None
    kind: Any = attributes.get_id(name).dtype
    text = check_string_dtype(kind)
    if text is None or (text.length is None and not _heaps_are_sound(path)):
        return None
    value = attributes[name]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _heaps_are_sound(path: Path) -> bool:
    """Whether the heaps near both ends of a file, where small texts are kept, can be walked."""
    with path.open("rb") as stream:
        size = stream.seek(0, 2)
        starts = {0, max(0, size - _EDGE_BYTES)}
        found = 0
        for start in starts:
            stream.seek(start)
            data = stream.read(_EDGE_BYTES)
            place = data.find(_SIGNATURE)
            while place >= 0:
                found += 1
                if not _can_be_walked(data, place):
                    return False
                place = data.find(_SIGNATURE, place + 4)
    return found > 0


def _can_be_walked(data: bytes, place: int) -> bool:
    if place + _HEAD > len(data):
        return False
    end = place + int(struct.unpack_from("<Q", data, place + 8)[0])
    at = place + _HEAD
    if end > len(data):
        return False
    while at + _OBJECT_HEAD <= end:
        index, _, _, size = struct.unpack_from("<HHIQ", data, at)
        if index == 0:  # the free space that ends the heap
            return bool(at + size == end)
        at += _OBJECT_HEAD + -(-size // 8) * 8
    return bool(at <= end)
