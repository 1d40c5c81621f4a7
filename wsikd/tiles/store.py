"""A tile store: one slide's tissue at several resolutions, as OME-Zarr 0.5 or 0.4.

Layout of ``<slide>.zarr``::

    0, 1, ...        uint8 (c, y, x), one array a resolution, finest first, one common origin
    labels/tissue/0  uint8 (y, x), the tissue mask
    patches/         coords (N, 2), row, column, tissue, label, cover: one row a patch

What was never written is white (the fill value) and takes no space. The attribute ``wsikd`` carries
the settings and the mark of completeness, which is written last. ``wsikd.tiles.layout`` describes
how the two versions differ on disk.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import zarr

import wsikd.tiles.codecs  # noqa: F401 - makes zarr know wsikd.jpeg, installed or not
from wsikd.core.errors import (
    UNREADABLE,
    IncompleteStoreError,
    StoreError,
    StoreNotFoundError,
)
from wsikd.core.reading import read_json
from wsikd.tiles.arrays import StoreMeta, check_places, check_rgb, member, read_column, reading
from wsikd.tiles.completeness import REMEDY, WHOLE, check_pixels, check_table, lacks_chunk
from wsikd.tiles.patch_table import Field as Field
from wsikd.tiles.patch_table import PatchTable as PatchTable
from wsikd.tiles.shards import RawShards

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import dask.array as da
    from numpy.typing import NDArray

TILER_VERSION = 2
FILL = 255
_COLUMNS: dict[str, type] = {
    "coords": np.float64,
    "row": np.int32,
    "column": np.int32,
    "tissue": np.float32,
    "label": np.int16,
    "cover": np.float32,
}


@dataclass(frozen=True)
class StoreSettings:
    """All that decides the content of a store; two stores with equal settings are comparable."""

    mpps: tuple[float, ...]
    patch_px: int
    stride_px: int
    tissue: str
    min_tissue: float
    classes: tuple[str, ...]
    min_cover: float
    min_purity: float = 0.0
    label_map: tuple[tuple[str, str], ...] = ()
    min_tissue_um2: float = 20_000.0
    max_hole_um2: float = 20_000.0
    route: str = "area"
    codec: str = "none"
    ome_version: str = "0.5"
    tiler: int = TILER_VERSION


class StoreRecord:
    """The record of a tile store: slide, classes, resolutions, settings."""

    def __init__(self, path: Path, meta: dict[str, Any]) -> None:
        """Take the attributes ``wsikd`` of the store at ``path``."""
        known = StoreMeta.of(meta)
        self.path, self._meta = path, meta
        self.mpps: tuple[float, ...] = tuple(known.settings.mpps)
        self.classes: tuple[str, ...] = tuple(known.settings.classes)
        self.slide, self.patient = known.slide.name, known.patient
        self.split, self.digest = known.split, known.digest

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the store."""
        return dict(self._meta["settings"])

    @property
    def provenance(self) -> dict[str, Any]:
        """All that is recorded of the store's making."""
        return dict(self._meta)


class TileStore(StoreRecord):
    """A complete tile store, open for reading: the fields of one slide at several resolutions.

    ``len(store)`` is the number of fields; ``store[0]`` reads one.

    Attributes:
        path: the folder ``<slide>.zarr``.
        mpps: um per pixel of each resolution, finest first.
        classes: names of the labels.
        slide: name of the slide.
        patches: the table of its fields, see :class:`PatchTable`.

    Examples:
        >>> import wsikd
        >>> store = wsikd.TileStore.open("stores/a.zarr")
        >>> len(store), store.mpps
        (12, (1.0, 4.0))
        >>> store[0][4.0].shape
        (64, 64, 3)
        >>> store.dask(4.0).shape
        (3, 192, 256)
    """

    def __init__(self, path: Path, group: zarr.Group, meta: dict[str, Any]) -> None:
        """Use :meth:`open`."""
        super().__init__(path, meta)
        self._group = group
        self._shards: dict[str, RawShards] = {}
        self._arrays = [member(group, str(i)) for i in range(len(self.mpps))]
        for array in self._arrays:
            check_rgb(array)
        table = group["patches"]
        if not isinstance(table, zarr.Group):
            raise KeyError("patches")
        columns = {name: member(table, name) for name in _COLUMNS}
        self.patches = _read_table(columns)
        zeros_written = bool(dict(table.attrs).get(WHOLE))
        check_table(path, columns, self.patches, meta, zeros_written=zeros_written)
        sizes = [(self.patch_px(mpp), self._stride_px(mpp)) for mpp in self.mpps]
        check_places(self.patches, len(self.classes), self._arrays, sizes)
        check_pixels(path, self._arrays, self.mpps, sizes, self.patches)

    @classmethod
    def open(cls, path: str | Path) -> TileStore:
        """Open a store that ``wsikd tile`` finished.

        Raises:
            StoreNotFoundError: there is none at ``path``.
            IncompleteStoreError: it was left unfinished.
            StoreError: it is a Zarr group of another kind, or damaged, or lacks pixels of its
                patches.
        """
        path = Path(path)
        with reading(path):
            return cls(path, *_open_group(path))

    def __len__(self) -> int:
        return len(self.patches)

    def __fspath__(self) -> str:
        return str(self.path)

    def __getitem__(self, index: int) -> Field:
        """Read a field with its patch at each resolution.

        Raises:
            IndexError: there are not so many fields.
            StoreError: the pixels are damaged.
        """
        count = len(self.patches)
        if not -count <= index < count:
            raise IndexError(f"{self.path}: field {index} of {count}")
        number, table = index % count, self.patches
        label = int(table.label[number])
        return Field(
            number,
            (float(table.xy[number, 0]), float(table.xy[number, 1])),
            float(table.tissue[number]),
            self.classes[label] if label >= 0 else None,
            {mpp: self.read_patch(number, mpp) for mpp in self.mpps},
        )

    def __iter__(self) -> Iterator[Field]:
        return (self[index] for index in range(len(self)))

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        sizes = ", ".join(f"{self.patch_px(mpp)} px at {mpp:g} um/px" for mpp in self.mpps)
        return f"TileStore('{self.path.name}', {len(self)} fields, {sizes})"

    def _repr_html_(self) -> str:
        from wsikd.slides.html import card

        counts = np.bincount(self.patches.label[self.patches.label >= 0], minlength=0)
        rows: dict[str, object] = {
            "fields": len(self),
            **{f"at {m:g} um/px": f"{self.patch_px(m)} px" for m in self.mpps},
            **{name: int(n) for name, n in zip(self.classes, counts, strict=False)},
            "split": self.split or "none",
            "folder": self.path.name,
        }
        return card(self.slide, rows, self.picture(360))

    def picture(self, max_px: int) -> NDArray[np.uint8]:
        """The stored tissue at the lowest resolution, thinned out: uint8 (height, width, 3).

        Args:
            max_px: longest side at most; every n-th pixel is taken.
        """
        with reading(self.path):
            array = self._arrays[-1]
            step = max(1, -(-max(array.shape[1:]) // max_px))
            rows = [
                np.asarray(array[:, top : top + step], np.uint8)[:, :1, ::step]
                for top in range(0, array.shape[1], step)
            ]
            return np.ascontiguousarray(np.concatenate(rows, 1).transpose(1, 2, 0))

    def patch_px(self, mpp: float) -> int:
        """Side of a patch at a resolution of the store."""
        return round(float(self._meta["settings"]["patch_px"]) * self.mpps[0] / mpp)

    def _stride_px(self, mpp: float) -> int:
        return round(float(self._meta["settings"]["stride_px"]) * self.mpps[0] / mpp)

    def array(self, mpp: float) -> zarr.Array[Any]:
        """The Zarr array at a resolution, uint8 (c, y, x); raises StoreError if there is none."""
        for own, array in zip(self.mpps, self._arrays, strict=True):
            if abs(own - mpp) <= 1e-6 * mpp:
                return array
        known = ", ".join(f"{m:g}" for m in self.mpps)
        raise StoreError(
            self.path, f"holds {known} um/px, not {mpp:g}", f"tile again with --mpp {mpp:g}"
        )

    def dask(self, mpp: float) -> da.Array:
        """The array at a resolution as a Dask array, uint8 (c, y, x), one block a shard."""
        import dask.array

        array = self.array(mpp)
        blocks = array.shards or array.chunks
        return dask.array.from_zarr(array, chunks=blocks)  # type: ignore[no-untyped-call,no-any-return]

    def read_patch(self, index: int, mpp: float) -> NDArray[np.uint8]:
        """Pixels of patch ``index``: uint8 (patch_px, patch_px, 3).

        Raises:
            StoreError: there is no such resolution, or the pixels are damaged.
        """
        with reading(self.path):
            return self._read_patch(index, mpp)

    def _read_patch(self, index: int, mpp: float) -> NDArray[np.uint8]:
        side, stride = self.patch_px(mpp), self._stride_px(mpp)
        top = int(self.patches.row[index]) * stride
        left = int(self.patches.column[index]) * stride
        array = self.array(mpp)
        if (raw := self._raw(array)) is not None:
            out = np.empty((side, side, 3), np.uint8)
            raw.read_into(left, top, out)
            return out
        try:
            block = np.asarray(array[:, top : top + side, left : left + side], np.uint8)
        except UNREADABLE as error:  # each codec has its own
            fault = f"the pixels of patch {index} cannot be decoded ({error})"
            raise StoreError(self.path, fault, REMEDY) from error
        if block.shape[1:] != (side, side):
            raise ValueError("a patch reaches beyond the image")
        return np.ascontiguousarray(block.transpose(1, 2, 0))

    def _raw(self, array: zarr.Array[Any]) -> RawShards | None:
        """The quick reader of an array, where its pixels lie raw in shards."""
        settings = self._meta["settings"]
        if settings.get("codec") != "none" or array.shards is None:
            return None
        if array.name not in self._shards:
            chunk = array.chunks[1]
            folder = self.path / array.basename / "c" / "0"
            reader = RawShards(folder, chunk, array.shards[1] // chunk, None)
            self._shards.setdefault(array.name, reader)
        return self._shards[array.name]


def read_labels(path: Path) -> tuple[StoreRecord, NDArray[np.int16], NDArray[np.float32]]:
    """Record, labels (N,) and tissue (N,) of a store's patches, read without the rest of it.

    Raises as :meth:`TileStore.open`, but finds no lost pixels.
    """
    with reading(path):
        group, meta = _open_group(path)
        columns = [member(group, f"patches/{name}") for name in ("label", "tissue")]
        if any(lacks_chunk(path / column.path, column) for column in columns):
            store = TileStore(path, group, meta)  # which knows whether that is allowed
            return store, store.patches.label, store.patches.tissue
        record = StoreRecord(path, meta)
        label, tissue = (read_column(column, _COLUMNS[column.basename]) for column in columns)
        if len(label) != len(tissue) or (len(label) and label.max() >= len(record.classes)):
            raise ValueError("a label is of no class")
        return record, label, tissue


def settings_digest(settings: StoreSettings, slide: dict[str, Any]) -> str:
    """Identity of a store's content: settings and slide, 16 hexadecimal digits."""
    text = json.dumps([asdict(settings), slide], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def is_group(path: Path) -> bool:
    """Whether a Zarr group, and so perhaps a tile store, lies at ``path``: no glance inside."""
    return _zarr_format(path) is not None


def read_meta(path: Path) -> dict[str, Any] | None:
    """Attributes ``wsikd`` of a store, finished or not; None where there are none to read."""
    try:
        if _zarr_format(path) == 2:
            attributes = read_json(path / ".zattrs")
        else:
            attributes = read_json(path / "zarr.json")["attributes"]
        meta = attributes["wsikd"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return meta if isinstance(meta, dict) else None


def differences(old: dict[str, Any], new: dict[str, Any]) -> str:
    """The entries in which two flat records differ, for a message."""
    keys = [k for k in sorted({*old, *new}) if _plain(old.get(k)) != _plain(new.get(k))]
    return ", ".join(f"{k} {_plain(old.get(k))} there, {_plain(new.get(k))} asked" for k in keys)


def _open_group(path: Path) -> tuple[zarr.Group, dict[str, Any]]:
    """The group of a finished store and its attributes ``wsikd``; raises as TileStore.open."""
    zarr_format = _zarr_format(path)
    if zarr_format is None:
        raise StoreNotFoundError(path, "no tile store here", "make one with wsikd tile")
    group = zarr.open_group(path, mode="r", zarr_format=zarr_format)
    meta = dict(group.attrs).get("wsikd")
    if not isinstance(meta, dict) or "settings" not in meta:
        raise StoreError(path, "a Zarr group, but no tile store", "make one with wsikd tile")
    if not meta.get("complete"):
        raise IncompleteStoreError(path, "left unfinished", "run wsikd tile again")
    return group, meta


def _zarr_format(path: Path) -> Literal[2, 3] | None:
    """The Zarr format of the group or array in a folder: 3 in OME-Zarr 0.5, 2 in 0.4."""
    if (path / "zarr.json").is_file():
        return 3
    return 2 if (path / ".zgroup").is_file() else None


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _read_table(columns: Mapping[str, zarr.Array[Any]]) -> PatchTable:
    read: dict[str, Any] = {
        name: read_column(columns[name], dtype, width=2 if name == "coords" else None)
        for name, dtype in _COLUMNS.items()
    }
    if len({len(column) for column in read.values()}) > 1:
        raise ValueError("the columns of 'patches' have different lengths")
    return PatchTable(read.pop("coords"), **read)
