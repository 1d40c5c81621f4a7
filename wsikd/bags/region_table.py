"""Region grids of many slides as one table, read at random through memory maps.

A region grid is a bag whose features are (R, D, g, g): R regions of a slide, each g x g tiles of D
numbers. Zarr's own chunks are mapped where they lie as plain bytes, which is how ``write_bag`` puts
them; any other chunk is read by zarr. No server, and no slide is ever held in memory as a whole.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from wsikd.bags.bag import H5_SUFFIXES, REMEDY, find_bags, open_bag
from wsikd.core.errors import MALFORMED, UNREADABLE, DataError
from wsikd.core.reading import read_json
from wsikd.tiles.arrays import member

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from wsikd.bags.bag import Bag

logger = logging.getLogger(__name__)
_ENCODER = ("id", "sha256", "input_px", "mean", "std")
_OPEN_MAPS = 256


@dataclass(frozen=True)
class RegionTable:
    """All regions of a cohort, slide by slide; what it says is checked where it is made.

    Attributes:
        slides: names, ascending, each once.
        patients: hashed patient of each slide, None where unknown.
        labels: class of each slide, None where not given.
        splits: train, val or test, None where not given.
        paths: the grids of each slide.
        slide_index: int64 (R,), not falling: the slide of each region.
        region_index: int64 (R,), 0 to n - 1 within each slide, in the order of its file.
        coords: float64 (R, 2), level-0 (x, y) of each region's corner.
        field_px: float64 (S, 2), level-0 (width, height) of a region on each slide; NaN if unknown.
        shape: shape of a region, (D, g, g).
        encoder: id, licence, transform and digest of what embedded the tiles.
        mpp: um per pixel of the tiles; None where the grids do not say.
        region_px: side of a region at ``mpp``; None as before.
        sources: digest of the slide that each grid was made from, None if unknown.
    """

    slides: tuple[str, ...]
    patients: tuple[str | None, ...]
    labels: tuple[str | None, ...]
    splits: tuple[str | None, ...]
    paths: tuple[Path, ...]
    slide_index: NDArray[np.int64]
    region_index: NDArray[np.int64]
    coords: NDArray[np.float64]
    field_px: NDArray[np.float64]
    shape: tuple[int, int, int]
    encoder: Mapping[str, Any]
    mpp: float | None = None
    region_px: int | None = None
    sources: tuple[str | None, ...] = ()
    _rows: tuple[_Rows, ...] = field(default=(), repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the order.

        Raises:
            DataError: slides are not ascending, or regions not slide by slide.
        """
        remedy = "list them with wsikd.bags.region_table.open_regions"
        if any(a >= b for a, b in zip(self.slides, self.slides[1:], strict=False)):
            raise DataError("slides of regions", "are not sorted and unique", remedy)
        index, count = self.slide_index, len(self.slides)
        counts = np.bincount(index, minlength=count) if len(index) and index.min() >= 0 else index
        if len(counts) != count or not np.array_equal(index, np.repeat(np.arange(count), counts)):
            raise DataError(
                "slide_index", "does not list the regions in the order of the slides", remedy
            )
        expected = np.concatenate([np.arange(n) for n in counts] or [index])
        if not np.array_equal(self.region_index, expected):
            raise DataError("region_index", "is not the order within the slide", remedy)
        if self.coords.shape != (len(index), 2):
            raise DataError("coords", f"are {self.coords.shape} for {len(index)} regions", remedy)

    def __len__(self) -> int:
        return len(self.slide_index)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Regions of each slide, int64 (S,)."""
        return np.bincount(self.slide_index, minlength=len(self.slides))

    @property
    def digest(self) -> str:
        """SHA-256 of what was embedded, by what, and in which order; places do not count."""
        about = [
            self.slides, self.counts.tolist(), self.shape, self.mpp, self.region_px, self.sources,
            [self.encoder.get(key) for key in _ENCODER],
        ]  # fmt: skip
        digest = hashlib.sha256(json.dumps(about).encode())
        digest.update(np.ascontiguousarray(self.coords, "<f8").tobytes())
        return digest.hexdigest()

    def read(self, indices: NDArray[np.integer] | Sequence[int]) -> NDArray[np.float32]:
        """Grids of regions by their place in the table, in the order asked. Threads may share it.

        Args:
            indices: int (B,), 0 to R - 1.

        Returns:
            float32 (B, D, g, g).

        Raises:
            IndexError: there is no such region.
            DataError: a file is damaged, or holds NaN or infinity.
        """
        asked = np.asarray(indices, np.int64)
        if asked.ndim != 1:
            raise IndexError(f"indices of shape {asked.shape}, not (B,)")
        if len(asked) and not (asked.min() >= 0 and asked.max() < len(self)):
            raise IndexError(f"no such region among {len(self)}")
        out = np.empty((len(asked), *self.shape), np.float32)
        slides, rows = self.slide_index[asked].tolist(), self.region_index[asked].tolist()
        for grid, slide, row in zip(out, slides, rows, strict=True):
            self._rows[slide].read_into(row, grid)
            with np.errstate(all="ignore"):
                total = grid.sum()  # finite where no number is not, as a rule
            if not np.isfinite(total) and not np.isfinite(grid).all():
                raise DataError(self.paths[slide], "holds NaN or infinity", REMEDY)
        return out

    def only(self, slides: NDArray[np.integer] | Sequence[int]) -> RegionTable:
        """The table of some slides, by their index: for folds that leave patients out."""
        keep = np.unique(np.asarray(slides, np.int64))
        rows = np.isin(self.slide_index, keep)

        def some(values: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(values[i] for i in keep.tolist()) if values else ()

        return replace(
            self, slides=some(self.slides), patients=some(self.patients), labels=some(self.labels),
            splits=some(self.splits), paths=some(self.paths), sources=some(self.sources),
            _rows=some(self._rows), slide_index=np.searchsorted(keep, self.slide_index[rows]),
            region_index=self.region_index[rows], coords=self.coords[rows],
            field_px=self.field_px[keep],
        )  # fmt: skip


def open_regions(paths: Iterable[str | Path]) -> RegionTable:
    """List the regions of grids, or of folders of grids, slide by slide in ascending name.

    A slide without a region is left out with a warning.

    Raises:
        DataError: a path holds no grids; a slide is there twice; grids of two encoders, sizes,
            widths or resolutions; or nothing is left.
    """
    bags: dict[str, Bag] = {}
    for path in find_bags(paths):
        bag = open_bag(path)
        if len(bag.shape) != 4 or path.suffix.lower() in H5_SUFFIXES:
            raise DataError(path, "holds no regions", "make them with wsikd embed --regions")
        name = bag.info.slide
        if name in bags:
            raise DataError(
                path, f"is slide '{name}', and so is {bags[name].path}", "leave one out"
            )
        bags[name] = bag
        _alike(next(iter(bags.values())), bag)
    for name in [n for n, bag in bags.items() if not len(bag)]:
        logger.warning("%s: no region; slide '%s' is left out", bags[name].path, name)
        del bags[name]
    if not bags:
        raise DataError("regions", "are none", "make them with wsikd embed --regions")
    ordered = [bags[name] for name in sorted(bags)]
    first, counts = ordered[0], [len(bag) for bag in ordered]
    _, dim, rows, columns = first.shape
    unknown = (np.nan, np.nan)
    maps = _Maps()
    return RegionTable(
        slides=tuple(bag.info.slide for bag in ordered),
        patients=tuple(bag.info.patient for bag in ordered),
        labels=tuple(bag.info.label for bag in ordered),
        splits=tuple(bag.info.split for bag in ordered),
        paths=tuple(bag.path for bag in ordered),
        slide_index=np.repeat(np.arange(len(ordered), dtype=np.int64), counts),
        region_index=np.concatenate([np.arange(n, dtype=np.int64) for n in counts]),
        coords=np.concatenate([bag.coords() for bag in ordered]),
        field_px=np.array([bag.info.field_px or unknown for bag in ordered], np.float64),
        shape=(dim, rows, columns),
        encoder=first.info.encoder,
        mpp=first.info.mpp,
        region_px=first.info.patch_px,
        sources=tuple(bag.info.source for bag in ordered),
        _rows=tuple(_Rows(bag, maps) for bag in ordered),
    )


def _alike(first: Bag, bag: Bag) -> None:
    """Raise DataError if two bags of regions cannot be combined in one table."""
    facts = []
    for one in (first, bag):
        _, dim, rows, columns = one.shape
        encoder = [one.info.encoder.get(key) for key in _ENCODER]
        facts.append({
            "width": dim, "grid": (rows, columns), "mpp": one.info.mpp,
            "region in px": one.info.patch_px, "encoder": encoder,
        })  # fmt: skip
    differ = [key for key in facts[0] if facts[0][key] != facts[1][key]]
    if not differ:
        return
    key = differ[0]
    shown = [f[key] if key != "encoder" else f[key][0] or "unknown" for f in facts]  # type: ignore[index]
    if key == "encoder" and shown[0] == shown[1]:
        key, shown = "weights or transform of the encoder", [shown[0], "another of that name"]
    raise DataError(
        bag.path, f"has another {key} than {first.path.name} ({shown[1]}, not {shown[0]})",
        "give regions that were made in the same way",
    )  # fmt: skip


class _Maps:
    """Files mapped to memory, the ones used last kept."""

    def __init__(self) -> None:
        self._open: OrderedDict[Path, NDArray[Any]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, file: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """The file as an array; raises OSError, and ValueError where it is too short."""
        with self._lock:
            found = self._open.get(file)
            if found is not None:
                self._open.move_to_end(file)
                return found
        mapped = np.asarray(np.memmap(file, dtype, "r", shape=shape))
        with self._lock:
            self._open[file] = mapped
            while len(self._open) > _OPEN_MAPS:
                self._open.popitem(last=False)
        return mapped

    def __reduce__(self) -> tuple[Any, ...]:
        return _Maps, ()  # another process maps for itself


class _Rows:
    """Rows of one bag's features: mapped if they lie as plain bytes, else through zarr."""

    def __init__(self, bag: Bag, maps: _Maps) -> None:
        self.path, self.shape, self.maps = bag.path, bag.shape, maps
        self.chunk = _plain_chunks(bag)

    def read_into(self, row: int, out: NDArray[np.float32]) -> None:
        """Copy a row; raises DataError."""
        try:
            if self.chunk is None:
                array = member(zarr.open_group(self.path, mode="r"), "features")
                if array.nchunks_initialized < array.nchunks:
                    raise DataError(self.path, "chunks of its features are missing", REMEDY)
                out[...] = array[row]
                return
            dtype, rows = self.chunk
            file = self.path / "features" / "c" / str(row // rows) / "0" / "0" / "0"
            out[...] = self.maps.get(file, dtype, (rows, *self.shape[1:]))[row % rows]
        except FileNotFoundError as error:
            raise DataError(self.path, "chunks of its features are missing", REMEDY) from error
        except DataError:
            raise
        except UNREADABLE as error:
            fault = f"cannot be read ({type(error).__name__}: {error})"
            raise DataError(self.path, fault, REMEDY) from error


def _plain_chunks(bag: Bag) -> tuple[np.dtype[Any], int] | None:
    """Number type, and rows in a chunk, of features that can be mapped; None if they cannot."""
    try:
        about = read_json(bag.path / "features" / "zarr.json")
        codec = about["codecs"][0]
        chunk = about["chunk_grid"]["configuration"]["chunk_shape"]
        plain = (
            len(about["codecs"]) == 1
            and codec["name"] == "bytes"
            and codec["configuration"]["endian"] == "little"
            and about["chunk_grid"]["name"] == "regular"
            and tuple(chunk[1:]) == bag.shape[1:]
            and about["chunk_key_encoding"]["name"] == "default"
            and about["chunk_key_encoding"].get("configuration", {}).get("separator", "/") == "/"
            and not about.get("storage_transformers")
        )
        return (np.dtype(about["data_type"]).newbyteorder("<"), int(chunk[0])) if plain else None
    except (OSError, *MALFORMED):
        return None
