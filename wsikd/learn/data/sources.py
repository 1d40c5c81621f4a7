"""Where patches lie: tile stores, folders named by class, a labels CSV, or SICAPv2.

Each source lists its patches with class, slide, patient and split, and reads one as uint8
(height, width, 3).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from wsikd.core.errors import DataError
from wsikd.learn.data.listing import StoreListing, list_store
from wsikd.learn.data.sicap import is_sicap, read_sicap
from wsikd.learn.data.source_base import read_csv, read_folders

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from wsikd.learn.data.listing import Listed
    from wsikd.learn.data.settings import Data
    from wsikd.learn.data.source_base import FileSource, Source

S = TypeVar("S")


class StoreSource(StoreListing):
    """The labelled patches of one tile store, and others if they are asked for."""

    def __init__(
        self, path: Path, mpp: float, min_tissue: float = 0.0, *, unlabelled: bool = False
    ) -> None:
        """Open a store of ``wsikd tile``; raises StoreError, or DataError if it lacks ``mpp``."""
        from wsikd.tiles.store import TileStore

        self._store = TileStore.open(path)
        table = self._store.patches
        super().__init__(
            self._store, table.label, table.tissue, mpp, min_tissue, unlabelled=unlabelled
        )

    def read(self, row: int) -> NDArray[np.uint8]:
        """Pixels of a patch: uint8 (side, side, 3)."""
        return self._store.read_patch(row, self._mpp)

    def check_low(self, mpp: float) -> float:
        """Its own name for ``mpp``; raises DataError unless the slide's own level was stored."""
        found = next((m for m in self._store.mpps if abs(m - mpp) <= 1e-3 * mpp), None)
        if found is None or self._store.settings.get("route", "area") != "pyramid":
            raise DataError(
                self.path,
                f"does not hold the slide's own pixels at {mpp:g} um/px",
                "tile with --route pyramid, or set data.low_source=area",
            )
        return found

    def read_low(self, row: int, mpp: float) -> NDArray[np.uint8]:
        """The same field from the slide's own level; raises DataError as :meth:`check_low`."""
        return self._store.read_patch(row, self.check_low(mpp))

    def image_hash(self, row: int) -> str | None:
        """None: whole slides are compared instead."""
        return None


def open_sources(data: Data) -> list[Source]:
    """Open everything that ``data.paths`` names.

    Raises:
        DataError: nothing is named, a path does not exist or is of no known kind.
        StoreError: a tile store cannot be used.
    """
    return [*_all_sources(data, StoreSource)]


def list_sources(data: Data) -> list[Listed]:
    """As :func:`open_sources`, where no pixels are read; of tile stores only labels are."""
    return [*_all_sources(data, list_store)]


def _all_sources(data: Data, open_store: Callable[..., S]) -> Iterator[S | FileSource]:
    if not data.paths:
        raise DataError("data.paths", "lists no data", "give --data, or set it")
    for path in map(Path, data.paths):
        if not path.exists():
            raise DataError(path, "does not exist", "correct data.paths, or give --data")
        yield from _open(path, data, open_store)


def _open(path: Path, data: Data, open_store: Callable[..., S]) -> Sequence[S | FileSource]:
    from wsikd.tiles.store import is_group

    kind = kind_of(path, data)
    if kind == "csv":
        file = path / "labels.csv" if path.is_dir() else path
        return [read_csv(file, data.classes, unlabelled=data.unlabelled)]
    if kind == "folders":
        return [read_folders(path, data.slide_pattern, unlabelled=data.unlabelled)]
    if kind == "sicapv2":
        return [read_sicap(path, data.fold)]
    folders = [path] if is_group(path) else sorted(path.glob("*.zarr"))
    if not folders:
        raise DataError(path, "holds no tile stores", "make them with wsikd tile")
    more = {"unlabelled": data.unlabelled}
    return [open_store(folder, data.mpp, data.min_tissue, **more) for folder in folders]


def kind_of(path: Path, data: Data) -> str:
    """The kind of a place of data: "stores", "folders", "csv" or "sicapv2"."""
    if data.source != "auto":
        return data.source
    from wsikd.tiles.store import is_group

    if path.is_file():
        return "csv"
    if is_group(path) or any(path.glob("*.zarr")):
        return "stores"
    if is_sicap(path):
        return "sicapv2"
    return "csv" if (path / "labels.csv").is_file() else "folders"
