"""Checks before slides are opened: kind, existence, tissue masks."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import TYPE_CHECKING

from wsikd.core.errors import SlideError
from wsikd.core.faults import similar
from wsikd.slides.listing.sidecar import no_mask, own_masks
from wsikd.slides.what_is import SLIDES, check_role

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsikd.core.output.batch import Batch
    from wsikd.slides.listing.entry import SlideEntry


def check_slides(inputs: Sequence[str | Path], option: str = "-i") -> None:
    """Refuse inputs that hold tile stores, results or a network, but no slide. Raises ConfigError.

    Of a glob the first match is looked at.
    """
    for item in map(str, inputs):
        match = item
        if not Path(item).exists() and glob.has_magic(item):
            match = next(glob.iglob(item, recursive=True), item)  # noqa: PTH207
        check_role(match, option, SLIDES)


def existing(entries: Sequence[SlideEntry], batch: Batch) -> list[SlideEntry]:
    """The slides whose files exist; each of the others is a failure of the batch."""
    found = [entry for entry in entries if entry.path.exists()]
    for entry in entries:
        if not entry.path.exists():
            batch.failed(
                entry,
                SlideError(entry.path, "no such file", f"check the path{similar(entry.path)}"),
            )
    return found


def own_tissue(tissue: str, entries: Sequence[SlideEntry], batch: Batch) -> list[SlideEntry]:
    """The slides with their masks where ``--tissue`` is a place of masks, else as they are.

    A slide that has none there is a failure of the batch. Raises ConfigError.
    """
    _, found, without = own_masks(tissue, entries)
    for entry in without:
        batch.failed(entry, no_mask(entry, tissue))
    return found
