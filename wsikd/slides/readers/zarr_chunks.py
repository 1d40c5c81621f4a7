"""Which chunks an OME-Zarr image lacks. Zarr lets writers omit them; readers see the fill value.

Whether nothing was scanned there or a copy is not whole cannot be known, so such places are counted
and reported, and no field in them is taken as tissue. Metadata and file names are read, no pixels.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.slides.file_format import zarr_attributes
from wsikd.slides.resample.area import running_sums

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_INDEX_CODECS = ["bytes", "crc32c"]
_ABSENT = 2**64 - 1

_MOST_CHUNKS = 1 << 26


@dataclass(frozen=True)
class _Level:
    """One array: whether each place lacks a chunk, bool (rows, columns), and (height, width)."""

    lacks: NDArray[np.bool_]
    chunk_px: tuple[int, int]
    size_px: tuple[int, int]


@dataclass(frozen=True)
class AbsentChunks:
    """Where an OME-Zarr image lacks chunks; true if it lacks any.

    ``absent`` of ``chunks`` chunks are not there, in all levels; ``fill`` is what they read as.
    """

    levels: tuple[_Level, ...]
    absent: int
    chunks: int
    fill: Any

    def __bool__(self) -> bool:
        return self.absent > 0

    def __str__(self) -> str:
        return f"{self.absent} of {self.chunks} chunks are absent and read as {self.fill}"

    def on(
        self,
        origin_xy: tuple[float, float],
        cell_px: tuple[float, float],
        size: tuple[int, int],
    ) -> NDArray[np.bool_]:
        """Cells of a grid that touch an absent chunk of any level: bool (rows, columns).

        Args:
            origin_xy: level-0 corner of the grid.
            cell_px: level-0 (width, height) of a cell.
            size: (columns, rows).
        """
        found = np.zeros(size[::-1], np.bool_)
        for level in self.levels:
            if not level.lacks.any():
                continue
            sums = running_sums(level.lacks)
            (left, right), (top, bottom) = (
                self._touched(level, axis, origin_xy[axis], cell_px[axis], size[axis])
                for axis in (0, 1)
            )
            found |= (
                sums[np.ix_(bottom, right)]
                - sums[np.ix_(top, right)]
                - sums[np.ix_(bottom, left)]
                + sums[np.ix_(top, left)]
            ) > 0
        return found

    def _touched(
        self, level: _Level, axis: int, origin: float, cell: float, count: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First chunk that each cell touches along x (0) or y (1), and the one after the last."""
        chunk, most = level.chunk_px[1 - axis], level.lacks.shape[1 - axis]
        scale = level.size_px[1 - axis] / self.levels[0].size_px[1 - axis]
        edges = (origin + cell * np.arange(count + 1)) * scale / chunk
        first = np.floor(edges[:-1] + 1e-9).clip(0, most)
        return first.astype(np.int64), np.ceil(edges[1:] - 1e-9).clip(0, most).astype(np.int64)


def absent_chunks(path: Path) -> AbsentChunks:
    """The chunks that an OME-Zarr image lacks.

    Raises:
        OSError, ValueError, KeyError, TypeError: its metadata cannot be read.
    """
    multiscale = zarr_attributes(path)["multiscales"][0]
    axes = [axis["name"] for axis in multiscale["axes"]]
    levels, absent, chunks, fill = [], 0, 0, None
    for dataset in multiscale["datasets"]:
        about = _Array.read(path / str(dataset["path"]))
        there = about.present()
        absent, chunks = absent + int((~there).sum()), chunks + there.size
        fill = about.fill if fill is None else fill
        places = (axes.index("y"), axes.index("x"))
        planes = np.moveaxis(~there, places, (0, 1)).reshape(*(there.shape[p] for p in places), -1)
        lacks: NDArray[np.bool_] = np.asarray(planes.any(2))
        chunk_px, size_px = (
            (int(values[places[0]]), int(values[places[1]]))
            for values in (about.chunk, about.shape)
        )
        levels.append(_Level(lacks, chunk_px, size_px))
    return AbsentChunks(tuple(levels), absent, chunks, fill)


@dataclass(frozen=True)
class _Array:
    """File layout in the metadata of a Zarr array."""

    folder: Path
    shape: tuple[int, ...]
    file_chunk: tuple[int, ...]
    separator: str
    prefix: str
    fill: Any
    sharding: dict[str, Any] | None

    @classmethod
    def read(cls, folder: Path) -> _Array:
        if (folder / "zarr.json").is_file():
            about = json.loads((folder / "zarr.json").read_text(encoding="utf-8"))
            keys = about["chunk_key_encoding"]
            default = keys["name"] == "default"
            usual = "/" if default else "."
            separator = keys.get("configuration", {}).get("separator", usual)
            chunk = about["chunk_grid"]["configuration"]["chunk_shape"]
            codec = about["codecs"][0] if about["codecs"] else {}
            sharding = codec["configuration"] if codec.get("name") == "sharding_indexed" else None
            prefix = f"c{separator}" if default else ""
        else:
            about = json.loads((folder / ".zarray").read_text(encoding="utf-8"))
            chunk, prefix, sharding = about["chunks"], "", None
            separator = about.get("dimension_separator", ".")
        fill = 0 if about["fill_value"] is None else about["fill_value"]
        shape = tuple(map(int, about["shape"]))
        return cls(folder, shape, tuple(map(int, chunk)), separator, prefix, fill, sharding)

    @property
    def chunk(self) -> tuple[int, ...]:
        """Shape of a chunk; of those within a shard, if there are shards."""
        inner = self.sharding["chunk_shape"] if self.sharding else self.file_chunk
        return tuple(map(int, inner))

    def present(self) -> NDArray[np.bool_]:
        """Whether each chunk is there: bool, an axis for each of the array's."""
        counts = tuple(-(-n // c) for n, c in zip(self.shape, self.file_chunk, strict=True))
        if math.prod(counts) > _MOST_CHUNKS:
            raise ValueError(f"an array of {math.prod(counts)} chunks")
        files = self._files()
        there = np.zeros(counts, np.bool_)
        for place in np.ndindex(counts):
            there[place] = self.prefix + self.separator.join(map(str, place)) in files
        return self._within_shards(there) if self.sharding else there

    def _files(self) -> set[str]:
        base = os.fspath(self.folder)
        return {
            os.path.relpath(os.path.join(folder, name), base).replace(os.sep, "/")  # noqa: PTH118
            for folder, _, names in os.walk(base)
            for name in names
        }

    def _within_shards(self, files: NDArray[np.bool_]) -> NDArray[np.bool_]:
        per = tuple(f // c for f, c in zip(self.file_chunk, self.chunk, strict=True))
        there = np.repeat(files, per[0], 0)
        for axis, count in enumerate(per[1:], 1):
            there = np.repeat(there, count, axis)
        for place in np.argwhere(files).tolist():
            inside = self._index(place, per)
            if inside is not None:
                there[tuple(slice(p * n, p * n + n) for p, n in zip(place, per, strict=True))] = (
                    inside
                )
        wanted = (-(-n // c) for n, c in zip(self.shape, self.chunk, strict=True))
        return there[tuple(slice(0, n) for n in wanted)]

    def _index(self, place: Sequence[int], per: tuple[int, ...]) -> NDArray[np.bool_] | None:
        """Which chunks a shard holds, from its index; None where that is of an unusual kind."""
        assert self.sharding is not None
        codecs = [codec.get("name") for codec in self.sharding.get("index_codecs", [])]
        if codecs not in (_INDEX_CODECS, _INDEX_CODECS[:1]):
            return None
        size, tail = 16 * math.prod(per), 4 * (len(codecs) - 1)
        file = self.folder / (self.prefix + self.separator.join(map(str, place)))
        with file.open("rb") as stream:
            if self.sharding.get("index_location", "end") == "end":
                stream.seek(-size - tail, os.SEEK_END)
            data = stream.read(size)
        offsets = np.frombuffer(data, "<u8").reshape(*per, 2)[..., 0]
        return np.asarray(offsets != _ABSENT)
