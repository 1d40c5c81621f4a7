"""A bundle's guard: ``guard.safetensors`` beside the weights, whose digest stands in the card."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.core.errors import BundleError
from wsikd.core.guard import Guard
from wsikd.models.files.card import CARD, REMEDY

if TYPE_CHECKING:
    from pathlib import Path

    from wsikd.models.files.card import GuardEntry

GUARD = "guard.safetensors"
VERSION = 1


def write_guard(folder: Path, guard: Guard) -> dict[str, Any]:
    """Write a guard's file into the folder of a bundle; returns its entry of the card."""
    from safetensors.numpy import save

    arrays = {"mean": guard.mean, "axes": np.ascontiguousarray(guard.axes)}
    data = save(arrays)
    (folder / GUARD).write_bytes(data)
    return {
        "version": VERSION,
        "sha256": hashlib.sha256(data).hexdigest(),
        "threshold": guard.threshold,
        "train_slides": guard.train_slides,
        "val_slides": guard.val_slides,
        "weak": guard.weak,
    }


def read_guard(folder: Path, entry: GuardEntry | None) -> Guard | None:
    """The guard of a bundle; None where its card has none.

    Raises:
        BundleError: the file is missing, damaged, or not the one that the card describes.
    """
    if entry is None:
        return None
    from safetensors import SafetensorError
    from safetensors.numpy import load

    file = folder / GUARD
    try:
        data = file.read_bytes()
    except OSError as error:
        raise BundleError(folder, f"has no {GUARD}", "copy the whole bundle folder") from error
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise BundleError(file, f"is not the file that {CARD} describes", REMEDY)
    try:
        arrays = load(data)
        mean, axes = arrays["mean"], arrays["axes"]
    except (SafetensorError, KeyError, ValueError) as error:
        raise BundleError(file, "holds no guard", REMEDY) from error
    fits = mean.ndim == 1 and axes.ndim == 2 and len(axes) == len(mean) and axes.shape[1] > 0
    if not fits or not np.isfinite(mean).all() or not np.isfinite(axes).all():
        raise BundleError(file, "holds no guard", REMEDY)
    return Guard(
        mean.astype(np.float32), axes.astype(np.float32), float(entry.threshold),
        entry.train_slides, entry.val_slides,
    )  # fmt: skip
