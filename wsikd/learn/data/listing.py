"""Labels and groups of patches, without pixels. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from wsikd.core.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from wsikd.tiles.store import StoreRecord

SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val"}
UNLABELLED = ""
"""In place of a class name."""
UNLABELLED_FOLDERS = ("unlabelled", "unlabeled")
SPLITS |= {"validation": "val", "dev": "val", "test": "test", "testing": "test"}


@dataclass
class Listing:
    """Labels and groups of a source's patches; lists of one length N.

    ``label`` is ``UNLABELLED`` for a patch without one, where such patches are asked for;
    ``number`` is the label where the source gives one, else -1; ``row`` the reader's own index;
    ``split`` is "train", "val", "test" or None; ``tissue`` the share of each patch that is tissue,
    empty where the source does not say.
    """

    label: list[str] = field(default_factory=list)
    number: list[int] = field(default_factory=list)
    row: list[int] = field(default_factory=list)
    slide: list[str] = field(default_factory=list)
    patient: list[str | None] = field(default_factory=list)
    split: list[str | None] = field(default_factory=list)
    tissue: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.label)


class Listed(Protocol):
    """Patches of one origin.

    Attributes:
        path: where they lie, for messages.
        listing: what they are.
        classes: names in order, None if the source only knows names.
        settings: what must agree between the sources of a run.
    """

    path: Path
    listing: Listing
    classes: tuple[str, ...] | None
    settings: dict[str, Any]


class StoreListing:
    """The labelled patches of one tile store."""

    def __init__(
        self,
        store: StoreRecord,
        label: NDArray[np.int16],
        tissue: NDArray[np.float32],
        mpp: float,
        min_tissue: float = 0.0,
        *,
        unlabelled: bool = False,
    ) -> None:
        """List the patches that have a label, (N,), if asked also others, and so much tissue, (N,).

        Raises DataError where the store lacks ``mpp``.
        """
        path = self.path = store.path
        matching = [m for m in store.mpps if abs(m - mpp) <= 1e-3 * mpp]
        if not matching:
            known = ", ".join(f"{m:g}" for m in store.mpps)
            raise DataError(
                path, f"holds {known} um/px, not {mpp:g}", "set data.mpp, or tile again with --mpp"
            )
        self._mpp = matching[0]
        self.classes = store.classes or None
        made = store.settings
        alike = ["mpps", "patch_px", "stride_px", "classes"]
        if unlabelled and not store.classes:  # of a slide without annotations
            alike.remove("classes")
        self.settings = {k: made[k] for k in alike}
        side_um = made["patch_px"] * store.mpps[0]
        self.field_mm2 = (side_um / 1000) ** 2 if made["stride_px"] >= made["patch_px"] else None
        self.digest = store.digest
        self.fingerprint = store.provenance.get("identity", {}).get("fingerprint")
        self.listing = _list_store(store, label, tissue, min_tissue, unlabelled=unlabelled)


def list_store(
    path: Path, mpp: float, min_tissue: float = 0.0, *, unlabelled: bool = False
) -> StoreListing:
    """List the patches of a store; only labels and tissue are read. See :class:`StoreListing`.

    Raises:
        StoreError: it cannot be used.
        DataError: it lacks ``mpp``.
    """
    from wsikd.tiles.store import read_labels

    return StoreListing(*read_labels(path), mpp, min_tissue, unlabelled=unlabelled)


def split_name(text: str, subject: object) -> str:
    """Bring a split's name to train, val or test. Raises DataError for another word."""
    try:
        return SPLITS[text.strip().lower()]
    except KeyError:
        raise DataError(subject, f"split '{text}' is not known", "use train, val or test") from None


def _list_store(
    store: StoreRecord,
    label: NDArray[np.int16],
    tissue: NDArray[np.float32],
    min_tissue: float,
    *,
    unlabelled: bool,
) -> Listing:
    listing = Listing()
    kept = np.flatnonzero(((label >= 0) | unlabelled) & (tissue >= min_tissue))
    split = None if store.split is None else split_name(store.split, store.slide)
    for row in kept.tolist():
        number = int(label[row])
        listing.label.append(UNLABELLED if number < 0 else store.classes[number])
        listing.number.append(number)
        listing.row.append(row)
        listing.slide.append(store.slide)
        listing.patient.append(store.patient)
        listing.split.append(split)
        listing.tissue.append(float(tissue[row]))
    return listing
