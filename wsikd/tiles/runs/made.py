"""Stores of earlier runs, by the slides that they were made from.

See :func:`wsikd.slides.listing.once.settle_names`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsikd.slides.listing.once import Made
from wsikd.tiles.store import read_meta

if TYPE_CHECKING:
    from pathlib import Path


def stores_made(folder: Path) -> Made:
    """The tile stores in a folder, unfinished ones too."""

    def slide_of(path: Path) -> str | None:
        identity = (read_meta(path) or {}).get("identity")
        found = identity.get("fingerprint") if isinstance(identity, dict) else None
        return found if isinstance(found, str) else None

    return Made(folder, ".zarr", slide_of, also=(".part",))
