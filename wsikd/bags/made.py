"""Bags of earlier runs, by the slides that they were made from.

See :func:`wsikd.slides.listing.once.settle_names`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsikd.bags.bag import ATTRIBUTE
from wsikd.slides.file_format import zarr_attributes
from wsikd.slides.listing.once import Made

if TYPE_CHECKING:
    from pathlib import Path


def bags_made(folder: Path) -> Made:
    """The bags in a folder."""

    def slide_of(path: Path) -> str | None:
        about = zarr_attributes(path).get(ATTRIBUTE)
        found = about.get("source") if isinstance(about, dict) else None
        return found if isinstance(found, str) else None

    return Made(folder, ".zarr", slide_of)
