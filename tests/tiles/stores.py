"""Whole tile stores made of known pixels, chunk by chunk, without a slide and without the tiler."""

import struct
from dataclasses import asdict
from pathlib import Path

import google_crc32c
import numpy as np

from wsikd.tiles.layout import add_label, add_table, chunk_path, create_group, encode
from wsikd.tiles.store import FILL, StoreSettings, TileStore

CHUNK_PX, SHARD_PX = (64, 16), (128, 32)
GRID = (3, 5)  # rows, columns of patches of 64 px
SLIDE_MPP = 0.499
MISSING = 2**64 - 1


def settings_of(**changes):
    usual = {
        "mpps": (1.0, 4.0),
        "patch_px": 64,
        "stride_px": 64,
        "tissue": "otsu",
        "min_tissue": 0.1,
        "classes": ("NC", "G3"),
        "min_cover": 0.5,
    }
    return StoreSettings(**{**usual, **changes})


def picture(seed=0, size=(GRID[0] * 64, GRID[1] * 64)):
    """Smooth colours with some grain, as JPEG expects them: uint8 (height, width, 3)."""
    y, x = np.mgrid[: size[0], : size[1]] / 40
    waves = np.stack([np.sin(x + y), np.cos(x - y), np.sin(2 * x) * np.cos(y)], -1)
    grain = np.random.default_rng(seed).normal(0, 3, waves.shape)
    return np.clip(150 + 70 * waves + grain, 0, 255).astype(np.uint8)


def shrunk(pixels, factor=4):
    """The mean of squares of ``factor`` pixels, rounded."""
    height, width = pixels.shape[0] // factor, pixels.shape[1] // factor
    squares = pixels.reshape(height, factor, width, factor, 3).astype(float)
    return np.rint(squares.mean((1, 3))).astype(np.uint8)


def record(settings, *, name="s", file="s.svs", mpp=(SLIDE_MPP, SLIDE_MPP), **more):
    """What a store's attribute ``wsikd`` holds, as far as readers need it."""
    slide = {
        "name": name,
        "file": file,
        "mpp": list(mpp),
        "dimensions": [641, 385],
        "level_downsamples": [[1.0, 1.0], [4.006, 4.01]],
    }
    known = {"digest": "0" * 16, "patient": None, "split": None, "complete": True}
    return {**known, "settings": asdict(settings), "slide": slide, **more}


def table_of(settings, labels=None):
    """Columns of ``patches``: every second field of the grid, left out the first."""
    rows, columns = np.divmod(np.arange(1, GRID[0] * GRID[1], 2), GRID[1])
    count = len(rows)
    return {
        "coords": np.column_stack([columns, rows]) * settings.stride_px / SLIDE_MPP,
        "row": rows.astype(np.int32),
        "column": columns.astype(np.int32),
        "tissue": np.linspace(0.1, 1, count, dtype=np.float32),
        "label": np.asarray(labels or np.arange(count) % 3 - 1, np.int16),
        "cover": np.ones(count, np.float32),
    }


def write_store(path, settings=None, *, levels=None, labels=None, **about):
    """A complete store at ``path`` whose chunks and shards are put there byte by byte."""
    settings = settings or settings_of()
    levels = levels or (picture(), shrunk(picture()))
    group = create_group(
        Path(path), settings, shapes=[pixels.shape[:2] for pixels in levels],
        chunk_px=CHUNK_PX, shard_px=SHARD_PX, attributes={"wsikd": record(settings, **about)},
        name="s", origin_um=(10.0, 20.0),
    )  # fmt: skip
    encoded = encode(settings)
    for index, pixels in enumerate(levels):
        chunks = cut(pixels, CHUNK_PX[index])
        files = {place: encoded(chunk) for place, chunk in chunks.items()}
        if settings.ome_version == "0.5":
            files = shards(files, SHARD_PX[index] // CHUNK_PX[index])
        for (row, column), data in files.items():
            file = chunk_path(Path(path), index, row, column, settings.ome_version)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
    add_table(group, table_of(settings, labels), {"patch_size": settings.patch_px})
    mask = np.zeros((7, 9), bool)
    mask[2:5, 3:] = True
    add_label(group, "tissue", mask, mpp=16.0, origin_um=(10.0, 20.0), attributes={"wsikd": {}})
    return TileStore.open(path)


def cut(pixels, side):
    """Whole chunks by (row, column), those at the edges filled up; white ones are left out."""
    chunks = {}
    for row in range(-(-pixels.shape[0] // side)):
        for column in range(-(-pixels.shape[1] // side)):
            part = pixels[row * side : (row + 1) * side, column * side : (column + 1) * side]
            chunk = np.full((side, side, 3), FILL, np.uint8)
            chunk[: part.shape[0], : part.shape[1]] = part
            if (chunk != FILL).any():
                chunks[row, column] = chunk
    return chunks


def shards(chunks, per):
    """Shard files by (row, column) of ``per`` x ``per`` chunks, as Zarr's specification has them:
    the chunks, then (offset, size) of each in C order, then the CRC32C of that index."""
    files = {}
    for place in {(row // per, column // per) for row, column in chunks}:
        body, index = b"", b""
        for row in range(per):
            for column in range(per):
                data = chunks.get((place[0] * per + row, place[1] * per + column))
                if data is None:
                    index += struct.pack("<QQ", MISSING, MISSING)
                else:
                    index += struct.pack("<QQ", len(body), len(bytes(data)))
                    body += bytes(data)
        files[place] = body + index + struct.pack("<I", google_crc32c.value(index))
    return files
