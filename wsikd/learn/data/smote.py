"""Invented training patches: SMOTE between neighbours in pixel space.

N. Chawla et al., "SMOTE: synthetic minority over-sampling technique", JAIR 16, 2002, on whole
flattened patches, as the authors of HDKD offer it. The invented ones are mixtures of two patches,
blurred where tissue differs: drawing classes equally often (``optim.balance``) is the better way.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.core.errors import ConfigError, DataError
from wsikd.core.registry import nearest
from wsikd.learn.data.listing import Listing
from wsikd.learn.engine.on_machine import cache_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from wsikd.learn.data.patches import PatchSet
    from wsikd.learn.data.settings import Data

logger = logging.getLogger(__name__)
NEIGHBOURS = 5
BYTES_PER_VALUE = 16
"""Working memory per value: float32 originals, mixtures and copies at the same time."""


class InventedSource:
    """Patches that exist in memory only."""

    field_mm2: float | None = None
    classes: tuple[str, ...] | None = None

    def __init__(self, path: Path, images: NDArray[np.uint8]) -> None:
        """Hold images, uint8 (N, 3, side, side)."""
        self.path, self.images = path, images
        self.listing, self.digest = Listing(), ""
        self.settings: dict[str, Any] = {}

    def read(self, row: int) -> NDArray[np.uint8]:
        """One of them: uint8 (side, side, 3)."""
        return np.asarray(self.images[row].transpose(1, 2, 0))

    def image_hash(self, row: int) -> str | None:
        """None: they are in no file."""
        return None


def with_invented(
    patches: PatchSet, data: Data, *, seed: int, made: Mapping[str, Any] | None
) -> tuple[PatchSet, dict[str, int]]:
    """Add what ``data.smote`` asks for to the training part.

    Args:
        patches: what there is; stays as it is.
        data: settings, ``smote`` among them.
        seed: seed of the mixtures.
        made: provenance of the run that is resumed; None for a new one.

    Returns:
        The larger set, and class -> number of training patches, for the record.

    Raises:
        DataError: as :func:`read_targets` and :func:`oversample`.
        ConfigError: a run is resumed that had other targets.
    """
    file = str(data.smote)
    targets = read_targets(file, patches.classes)
    if made is not None and made.get("smote") != targets:
        raise ConfigError(
            "data.smote", f"{Path(file).name} differs from the file that the run was started with",
            "restore it, or choose another -o",
        )  # fmt: skip
    return oversample(patches, targets, file, seed=seed, limit_gb=cache_of(data.cache_gb)), targets


def read_targets(file: str, classes: tuple[str, ...]) -> dict[str, int]:
    """Class -> number of training patches that are wanted.

    Raises:
        DataError: the file is not such a mapping, or names another class.
    """
    try:
        found = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(file, "cannot be read as JSON", "correct data.smote or the file") from error
    counts = found if isinstance(found, dict) else {}
    if not counts or not all(type(n) is int and n > 0 for n in counts.values()):
        raise DataError(file, "is not a mapping of classes to counts", 'write e.g. {"G4": 500}')
    for name in set(counts) - set(classes):
        raise DataError(file, f"class '{name}' is unknown", nearest(name, classes))
    return dict(sorted(counts.items()))


def oversample(
    patches: PatchSet, targets: dict[str, int], file: str, *, seed: int, limit_gb: float
) -> PatchSet:
    """Add invented patches to the training part, and to no other.

    Args:
        patches: what there is; stays as it is.
        targets: class -> training patches afterwards.
        file: where the targets come from, for messages.
        seed: seed of the mixtures.
        limit_gb: working memory that may be used, GB.

    Raises:
        DataError: a class has more patches already or fewer than two, or memory does not suffice.
    """
    try:
        from imblearn.over_sampling import SMOTE
    except ImportError as error:
        raise DataError(
            "data.smote", "imbalanced-learn is not installed", "pip install 'wsikd[smote]'"
        ) from error
    train = patches.indices("train")
    label = patches.label[train]
    wanted = {patches.classes.index(name): count for name, count in targets.items()}
    for number, count in wanted.items():
        has = int((label == number).sum())
        if count < has or has < 2:
            raise DataError(
                file, f"{count} patches of {patches.classes[number]}, which has {has} in training",
                "give at least the present number, for classes with at least two patches",
            )  # fmt: skip
    grown = len(train) + sum(n - int((label == c).sum()) for c, n in wanted.items())
    needed = grown * 3 * patches.patch_px**2 * BYTES_PER_VALUE / 1e9
    if needed > limit_gb:
        raise DataError(
            "data.smote", f"needs about {needed:.1f} GB of memory", "raise data.cache_gb, or use "
            "optim.balance instead",
        )  # fmt: skip
    flat = patches.images(train).numpy().reshape(len(train), -1)
    flat = flat.astype(np.float32)  # differences of bytes would wrap around
    fewest = min(int((label == number).sum()) for number in wanted)
    maker = SMOTE(
        sampling_strategy=wanted, k_neighbors=min(NEIGHBOURS, fewest - 1), random_state=seed
    )
    pixels, labels = maker.fit_resample(flat, label)
    invented = pixels[len(train) :].round().reshape(-1, 3, patches.patch_px, patches.patch_px)
    source = InventedSource(Path(file), invented.astype(np.uint8))
    new = np.asarray(labels[len(train) :], np.int64)
    slides = [f"invented {patches.classes[c]}" for c in new]
    logger.info("SMOTE: %d training patches became %d", len(train), len(train) + len(new))
    return replace(
        patches,
        label=np.concatenate([patches.label, new]),
        slide=patches.slide + slides,
        split=np.concatenate([patches.split, np.full(len(new), "train", patches.split.dtype)]),
        tissue=np.concatenate([patches.tissue, np.ones(len(new))]),
        group=patches.group + slides,
        content=[*patches.content, *(None for _ in new)] if patches.content else [],
        _readers=[*patches._readers, *((source, row) for row in range(len(new)))],
        _cache={},
        _images=None,
        _low={},
        _averages={},
        memo={},
    )
