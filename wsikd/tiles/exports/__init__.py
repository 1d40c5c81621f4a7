"""Tile stores for the tools that people already use: CLAM, TRIDENT, or anything that reads images.

An entry of ``EXPORTS`` writes one store at a time into a folder that it shares with others, and
sums the folder up at the end. ``write(store, folder, options)`` returns the line to print; it makes
its files aside and renames them, and refuses to replace any unless ``options.overwrite``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wsikd.core.errors import OutputError, StoreError
from wsikd.core.registry import resolve

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wsikd.tiles.store import TileStore

EXPORTS: dict[str, str] = {
    "clam-h5": "wsikd.tiles.exports.h5:CLAM",
    "trident-h5": "wsikd.tiles.exports.h5:TRIDENT",
    "images": "wsikd.tiles.exports.images:IMAGES",
}
"""Name -> :class:`Export`; packages add theirs to the group ``wsikd.store_exporters``."""
IMAGE_FORMATS = ("png", "jpg")


@dataclass(frozen=True)
class Options:
    """Options of an export.

    ``mpp`` is a resolution of the store, in um/px, default its finest; ``image_format`` one of
    ``IMAGE_FORMATS``; ``workers`` threads that encode.
    """

    mpp: float | None = None
    image_format: str = "png"
    workers: int = 1
    overwrite: bool = False


@dataclass(frozen=True)
class Export:
    """How one kind of export is written: a store at a time, then the folder as a whole."""

    write: Callable[[TileStore, Path, Options], str]
    finish: Callable[[Path], None]


def find_export(name: str) -> Export:
    """The export of that name; raises ConfigError where there is none."""
    found: Export = resolve(EXPORTS, name, kind="store_exporters")
    return found


def resolution(store: TileStore, options: Options) -> float:
    """The resolution to export, um/px; raises StoreError where the store does not hold it."""
    mpp = store.mpps[0] if options.mpp is None else options.mpp
    store.array(mpp)
    return mpp


def slide_name(store: TileStore) -> str:
    """The slide's name as part of a file's name; raises StoreError where it is a path."""
    name = store.slide
    if not name or name in (".", "..") or set(name) & {"/", "\\", "\0"}:
        raise StoreError(store.path, f"calls its slide '{name}'", "tile it again with wsikd tile")
    return name


def field_px(store: TileStore) -> tuple[float, float]:
    """(width, height) of a patch's field in level-0 px: fractional as a rule."""
    settings, slide_mpp = store.settings, store.provenance["slide"]["mpp"]
    size_um = float(settings["patch_px"]) * store.mpps[0]
    return size_um / slide_mpp[0], size_um / slide_mpp[1]


def refuse(path: Path) -> OutputError:
    """The error for an output that already exists."""
    return OutputError(path, "exists", "choose another -o, or replace it with --overwrite")
