"""A bundle's guard: ``guard.safetensors`` beside the weights, whose digest is in the card."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.core.errors import BundleError
from wsikd.models.files.card import CARD, REMEDY
from wsikd.models.guard import Guard

if TYPE_CHECKING:
    from pathlib import Path

    from wsikd.models.files.card import GuardEntry

GUARD = "guard.safetensors"
VERSION = 1


def write_guard(folder: Path, guard: Guard) -> dict[str, Any]:
    """Write a guard's file into the folder of a bundle; returns its entry of the card."""
    from safetensors.numpy import save

    arrays = {
        "mean": guard.mean,
        "scale": guard.scale,
        "axes": np.ascontiguousarray(guard.axes),
        "rest": np.array([guard.rest], np.float32),
    }
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
        arrays = {k: load(data)[k].astype(np.float32) for k in ("mean", "scale", "axes", "rest")}
    except (SafetensorError, KeyError, ValueError) as error:
        raise BundleError(file, "holds no guard", REMEDY) from error
    mean, scale, axes, rest = arrays.values()
    fits = axes.ndim == 2 and mean.shape == scale.shape == axes.shape[:1] and rest.shape == (1,)
    sound = fits and all(np.isfinite(one).all() for one in arrays.values())
    if not sound or not scale.min(initial=1) > 0 or not rest[0] > 0:
        raise BundleError(file, "holds no guard", REMEDY)
    return Guard(
        mean, scale, axes, float(rest[0]), float(entry.threshold),
        entry.train_slides, entry.val_slides,
    )  # fmt: skip
