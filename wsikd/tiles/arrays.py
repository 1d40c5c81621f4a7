"""Arrays and records of a Zarr group that somebody may have damaged."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from wsikd.core.errors import UNREADABLE, StoreError, WsikdError
from wsikd.tiles.completeness import REMEDY

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from wsikd.tiles.patch_table import PatchTable

MOST_COLUMN_BYTES = 1 << 27
"""Of one column of a table of patches: eight million rows."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what libraries raise at a damaged store into StoreError."""
    try:
        yield
    except WsikdError:
        raise
    except UNREADABLE as error:
        raise StoreError(path, f"damaged ({type(error).__name__}: {error})", REMEDY) from error


def member(group: zarr.Group, name: str) -> zarr.Array[Any]:
    """An array of a group. Raises KeyError where there is none."""
    found = group[name]
    if not isinstance(found, zarr.Array):
        raise KeyError(name)
    return found


def read_column(array: zarr.Array[Any], dtype: type, *, width: int | None = None) -> NDArray[Any]:
    """A column of numbers: (N,), or (N, width).

    Raises:
        ValueError: it has another shape, claims a size that no table has, or holds NaN or infinity.
    """
    name = array.basename
    size = math.prod(array.shape) * array.dtype.itemsize
    if array.ndim != (1 if width is None else 2) or (width and array.shape[1] != width):
        raise ValueError(f"column '{name}' has shape {array.shape}")
    if size > MOST_COLUMN_BYTES or array.dtype.kind not in "iuf":
        raise ValueError(f"column '{name}' claims {array.shape} values of {array.dtype}")
    found = np.asarray(array[...])
    if not np.isfinite(found).all():
        raise ValueError(f"column '{name}' holds NaN or infinity")
    with np.errstate(all="ignore"):
        return np.asarray(found, dtype)


def check_rgb(array: zarr.Array[Any]) -> None:
    """Raise ValueError unless an array is uint8 (3, height, width), in shards of whole chunks."""
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[0] != 3:
        raise ValueError(f"array '{array.basename}' is {array.dtype} {array.shape}, not RGB")
    if array.shards and any(s % c for s, c in zip(array.shards, array.chunks, strict=True)):
        raise ValueError(f"array '{array.basename}' has broken chunks")


def check_places(
    patches: PatchTable,
    classes: int,
    arrays: Sequence[zarr.Array[Any]],
    sizes: Sequence[tuple[int, int]],
) -> None:
    """Raise ValueError where a patch lies beyond the arrays, or has a class that is none.

    Args:
        patches: the table.
        classes: how many there are.
        arrays: uint8 (3, height, width), one a resolution.
        sizes: side and stride of a patch in px of each.
    """
    if not len(patches):
        return
    if patches.label.min() < -1 or patches.label.max() >= max(1, classes):
        raise ValueError("a label is of no class")
    if min(patches.row.min(), patches.column.min()) < 0:
        raise ValueError("a patch lies beyond the image")
    for array, (side, stride) in zip(arrays, sizes, strict=True):
        last = [int(place.max()) * stride for place in (patches.row, patches.column)]
        if side < 1 or last[0] >= array.shape[1] or last[1] >= array.shape[2]:
            raise ValueError("a patch lies beyond the image")


def check_record(meta: Mapping[str, Any]) -> None:
    """Raise KeyError, TypeError, ValueError unless the record of a store can be used."""
    settings, slide = meta["settings"], meta["slide"]
    _names(settings["classes"], "classes")
    mpps = _numbers(settings["mpps"], "mpps")
    patch_px, stride_px = _numbers([settings["patch_px"], settings["stride_px"]], "patch_px")
    if not mpps or max(mpps) / min(mpps) * max(patch_px, stride_px) > 2**20:
        raise ValueError("mpps are out of range")
    _names([slide["name"], slide.get("file", "-"), meta["digest"]], "slide")
    _names([meta[k] for k in ("patient", "split") if meta[k] is not None], "patient")
    for key in ("dimensions", "mpp"):
        if key in slide and len(_numbers(slide[key], key)) != 2:
            raise ValueError(f"{key} must be two numbers")
    for pair in slide.get("level_downsamples", ()):
        if len(_numbers(pair, "level_downsamples")) != 2:
            raise ValueError("level_downsamples must be pairs")
    if not isinstance(meta.get("identity", {}), dict):
        raise TypeError("identity must be a section")


def _numbers(values: Any, name: str) -> list[float]:
    """Positive numbers of an ordinary size."""
    if not isinstance(values, list | tuple) or any(isinstance(v, bool) for v in values):
        raise TypeError(f"{name} must be a list")
    found = [float(v) for v in values if isinstance(v, int | float)]
    if len(found) != len(values) or not all(1e-6 < v < 2**40 for v in found):
        raise ValueError(f"{name} must be positive numbers")
    return found


def _names(values: Any, name: str) -> None:
    if not isinstance(values, list | tuple) or not all(isinstance(v, str) and v for v in values):
        raise TypeError(f"{name} must be names")
