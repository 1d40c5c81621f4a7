"""Looks at the test part of labelled patches or bags, for the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wsikd.core.output.looks import Part, note, tally
from wsikd.core.output.markers import BAG, STORE

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from wsikd.learn.data.patches import PatchSet
    from wsikd.learn.mil.data import BagSet

RUN_DIGITS = 12


def part_of_patches(patches: PatchSet, indices: NDArray[np.int64]) -> Part:
    """The part that these patches are, by the content of their images or scans.

    If a source has no such digest, its slides are identified by their names within these data.
    """
    data = "|".join(patches.digests)
    known = patches.content or [None] * len(patches)
    return Part.of(known[i] or f"{patches.slide[i]}|{data}" for i in indices)


def part_of_bags(bags: BagSet, indices: NDArray[np.int64]) -> Part:
    """The part that these bags are, by the slides or stores that they were made from."""
    data = "|".join(bags.digests)
    found = [bags.bags[i].info for i in indices]
    return Part.of(info.source or f"{info.slide}|{data}" for info in found)


def look_at_patches(
    patches: PatchSet, indices: NDArray[np.int64], *, command: str, sha256: str
) -> dict[str, Any]:
    """Note that a network is scored on these patches; returns the entry ``looks`` of its record.

    Beside the data a ledger is kept only in the folder of tile stores.
    """
    folders = [place.parent for place in patches.places(indices) if STORE.own(place)]
    return _noted(part_of_patches(patches, indices), folders, command, sha256)


def look_at_bags(
    bags: BagSet, indices: NDArray[np.int64], *, command: str, sha256: str
) -> dict[str, Any]:
    """Record a look at bags; a ledger is also kept in the folder of bags that wsikd made."""
    folders = [p.parent for i in indices if BAG.own(p := bags.bags[i].path)]
    return _noted(part_of_bags(bags, indices), folders, command, sha256)


def _noted(part: Part, folders: list[Path], command: str, sha256: str) -> dict[str, Any]:
    looks = note(part, command=command, network=sha256[:RUN_DIGITS], folders=folders)
    return {"part": part.key, **tally(looks, [part.key]).record()}
