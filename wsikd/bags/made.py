"""Stores and bags of earlier runs, by the slides that they were made from.

See :func:`wsikd.slides.listing.once.settle_names`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wsikd.bags.bag import ATTRIBUTE
from wsikd.slides.file_format import zarr_attributes
from wsikd.slides.listing.once import Made
from wsikd.tiles.store import read_meta

if TYPE_CHECKING:
    from pathlib import Path


def stores_made(folder: Path) -> Made:
    """The tile stores in a folder, unfinished ones too."""

    def slide_of(path: Path) -> str | None:
        return _text(_section(read_meta(path), "identity").get("fingerprint"))

    return Made(folder, ".zarr", slide_of, also=(".part",))


def bags_made(folder: Path) -> Made:
    """The bags in a folder."""

    def slide_of(path: Path) -> str | None:
        return _text(_section(zarr_attributes(path), ATTRIBUTE).get("source"))

    return Made(folder, ".zarr", slide_of)


def _section(record: dict[str, Any] | None, name: str) -> dict[str, Any]:
    section = (record or {}).get(name)
    return section if isinstance(section, dict) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
