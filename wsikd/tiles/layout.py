"""The Zarr groups and arrays of a tile store, in OME-Zarr 0.5 and 0.4.

===========  ====================================  =================================
..           0.5                                   0.4
===========  ====================================  =================================
Zarr         3; many chunks in one shard file      2; one file a chunk
array ``i``  ``i/c/0/ROW/COLUMN`` is a shard       ``i/0/ROW/COLUMN`` is a chunk
chunk        interleaved y, x, c (``transpose``)   planar c, y, x
codecs       none, zstd, JPEG                      none, zstd (in Blosc's frame)
read by      ome-zarr-py, napari, wsikd            the same, TIAToolbox, QuPath
===========  ====================================  =================================
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import zarr

from wsikd.tiles import ome
from wsikd.tiles.codecs import check_codec, encoder, v2_pipeline, v3_pipeline
from wsikd.tiles.completeness import WHOLE
from wsikd.tiles.store import FILL, is_group

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from wsikd.tiles.codecs import Encoder
    from wsikd.tiles.store import StoreSettings

CHANNELS = 3


def create_group(
    path: Path,
    settings: StoreSettings,
    *,
    shapes: Sequence[tuple[int, int]],
    chunk_px: Sequence[int],
    shard_px: Sequence[int],
    attributes: Mapping[str, Any],
    name: str,
    origin_um: tuple[float, float],
) -> zarr.Group:
    """Make the group of a store and its empty arrays, one a resolution.

    Args:
        path: the folder to make, or one that holds no Zarr group yet.
        settings: resolutions, codec, OME-Zarr version and route.
        shapes: (height, width) in px of each array, finest first.
        chunk_px: side of a chunk of each array.
        shard_px: side of a shard of each array, a multiple of its chunk; 0.4 has no shards.
        attributes: the group's attributes beside OME-Zarr's own.
        name: the image's name, shown by viewers.
        origin_um: (x, y) of the arrays' common corner.

    Returns:
        The group, open for writing, with the uint8 arrays (c, y, x) named "0", "1", ...

    Raises:
        ConfigError: codec or version is unknown, or they do not go together.
        OSError: the disk does not take it, or a group is there already.
    """
    if is_group(path):
        raise FileExistsError(errno.EEXIST, "holds a Zarr group already", str(path))
    version = settings.ome_version
    check_codec(settings.codec, version)
    image = ome.image(name, settings.mpps, origin_um, version=version, downscaling=settings.route)
    group = zarr.create_group(
        path,
        zarr_format=_zarr_format(version),
        attributes={**ome.attributes(image, version=version), **attributes},
    )
    for index, (shape, chunk, shard) in enumerate(zip(shapes, chunk_px, shard_px, strict=True)):
        group.create_array(
            str(index),
            shape=(CHANNELS, *shape),
            chunks=(CHANNELS, chunk, chunk),
            dtype="uint8",
            fill_value=FILL,
            **_array_options(settings, shard),
        )
    return group


def encode(settings: StoreSettings) -> Encoder:
    """What turns a chunk, uint8 (size, size, 3), into its bytes in such a store.

    See ``wsikd.tiles.codecs.encoder``; a chunk at the edge of an array is given whole, filled up
    with ``FILL``.

    Raises:
        ConfigError: codec or version is unknown, or they do not go together.
    """
    return encoder(settings.codec, settings.ome_version)


def chunk_path(path: Path, index: int, row: int, column: int, version: str) -> Path:
    """The file of array ``index`` that holds place (``row``, ``column``).

    Rows and columns count shards in OME-Zarr 0.5, where a file is a shard, and chunks in 0.4.
    """
    folder = path / str(index)
    return (folder if version == "0.4" else folder / "c") / "0" / str(row) / str(column)


def add_table(
    group: zarr.Group, columns: Mapping[str, NDArray[Any]], attributes: Mapping[str, Any]
) -> zarr.Group:
    """Write the group ``patches``: one array a column, in the Zarr format of ``group``.

    Chunks of zeros are written too, so that a lost one is noticed.
    """
    table = group.create_group("patches", attributes={**attributes, WHOLE: True})
    for name, column in columns.items():
        data = np.ascontiguousarray(column)
        table.create_array(name, data=data, config={"write_empty_chunks": True})
    return table


def add_label(
    group: zarr.Group,
    name: str,
    mask: NDArray[np.bool_],
    *,
    mpp: float,
    origin_um: tuple[float, float],
    attributes: Mapping[str, Any],
) -> None:
    """Write the group ``labels`` with one label image, 0 and 1, in the format of ``group``.

    It gets as many levels as the image has arrays, as OME-Zarr wants; each is half as large as the
    one before, and 1 wherever that has a 1.

    Args:
        group: the store's group.
        name: the label's name, and its folder.
        mask: bool (height, width).
        mpp: um per mask pixel.
        origin_um: (x, y) of the mask's corner.
        attributes: attributes of the label image beside OME-Zarr's own.
    """
    version = "0.4" if group.metadata.zarr_format == 2 else "0.5"
    listing = ome.attributes(ome.labels([name], version=version), version=version)
    levels = sum(1 for _ in group.array_keys())
    metadata = ome.label(name, mpp, origin_um, version=version, levels=levels)
    about = ome.attributes(metadata, version=version)
    folder = group.create_group("labels", attributes=listing)
    image = folder.create_group(name, attributes={**about, **attributes})
    options: dict[str, Any] = (
        {**v2_pipeline("zstd"), "chunk_key_encoding": {"name": "v2", "separator": "/"}}
        if version == "0.4"
        else {"dimension_names": ("y", "x")}
    )
    for level in range(levels):
        image.create_array(str(level), data=mask.astype(np.uint8), **options)
        mask = _halved(mask)


def _halved(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Half the size, rounded up: true where any of four pixels is."""
    height, width = mask.shape
    even = np.pad(mask, ((0, height % 2), (0, width % 2)))
    halved: NDArray[np.bool_] = (
        even[::2, ::2] | even[1::2, ::2] | even[::2, 1::2] | even[1::2, 1::2]
    )
    return halved


def _zarr_format(version: str) -> Literal[2, 3]:
    return 2 if version == "0.4" else 3


def _array_options(settings: StoreSettings, shard_px: int) -> dict[str, Any]:
    if settings.ome_version == "0.4":
        separator = {"name": "v2", "separator": "/"}
        return {**v2_pipeline(settings.codec), "chunk_key_encoding": separator}
    return {
        **v3_pipeline(settings.codec),
        "shards": (CHANNELS, shard_px, shard_px),
        "dimension_names": ("c", "y", "x"),
    }
