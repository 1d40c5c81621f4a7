"""A bundle's guard: ``guard.safetensors`` beside the weights; the card has its digest."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.core.errors import BundleError
from wsikd.models.feature_guard import FeatureGuard
from wsikd.models.files.card import CARD, REMEDY
from wsikd.models.guard import Guard

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from wsikd.models.files.card import GuardEntry
    from wsikd.models.graders.pooled import Grader

    Arrays = dict[str, NDArray[np.float32]]

GUARD = "guard.safetensors"
VERSION, FEATURES = 2, 1
"""Versions of guards: ``VERSION`` is written, ``FEATURES`` is still read."""
_NAMES = {
    FEATURES: ("mean", "scale", "axes", "rest"),
    VERSION: ("mean", "axes", "noise", "centre", "spread", "colour"),
}


def write_guard(folder: Path, guard: Guard) -> dict[str, Any]:
    """Write a guard's file into the folder of a bundle; returns its entry of the card."""
    from safetensors.numpy import save

    numbers = {"noise": [guard.noise], "centre": guard.centre, "spread": guard.spread,
               "colour": [guard.colour]}  # fmt: skip
    arrays = {name: np.array(value, np.float32) for name, value in numbers.items()}
    data = save({"mean": guard.mean, "axes": np.ascontiguousarray(guard.axes), **arrays})
    (folder / GUARD).write_bytes(data)
    return {
        "version": VERSION,
        "sha256": hashlib.sha256(data).hexdigest(),
        "threshold": guard.threshold,
        "train_slides": guard.train_slides,
        "val_slides": guard.val_slides,
        "weak": guard.weak,
    }


def read_guard(
    folder: Path, entry: GuardEntry | None, network: Callable[[], Grader]
) -> Guard | FeatureGuard | None:
    """Read the guard of a bundle; None if its card has none.

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
        arrays = {k: load(data)[k].astype(np.float32) for k in _NAMES[entry.version]}
    except (SafetensorError, KeyError, ValueError) as error:
        raise BundleError(file, "holds no guard", REMEDY) from error
    finite = all(np.isfinite(one).all() for one in arrays.values())
    made: Guard | FeatureGuard | None = None
    if finite and entry.version == FEATURES:
        made = _features(arrays, entry, network)
    elif finite:
        made = _texture(arrays, entry)
    if made is None:
        raise BundleError(file, "holds no guard", REMEDY)
    return made


def _texture(arrays: Arrays, entry: GuardEntry) -> Guard | None:
    mean, axes, noise, centre, spread, colour = arrays.values()
    fits = mean.ndim == 1 and len(mean) and axes.shape == (len(mean),) * 2
    if not fits or noise.shape != (1,) or colour.shape != (1,) or centre.shape != (2,):
        return None
    if spread.shape != (2,) or not spread.min() > 0 or not entry.threshold > 0:
        return None
    one, two = centre.astype(float).tolist()
    by_one, by_two = spread.astype(float).tolist()
    return Guard(
        mean, axes, float(noise[0]), (one, two), (by_one, by_two), float(entry.threshold),
        entry.train_slides, entry.val_slides, bool(colour[0]),
    )  # fmt: skip


def _features(
    arrays: Arrays, entry: GuardEntry, network: Callable[[], Grader]
) -> FeatureGuard | None:
    mean, scale, axes, rest = arrays.values()
    fits = axes.ndim == 2 and mean.shape == scale.shape == axes.shape[:1] and rest.shape == (1,)
    if not fits or not scale.min(initial=1) > 0 or not rest[0] > 0:
        return None
    return FeatureGuard(
        mean, scale, axes, float(rest[0]), float(entry.threshold),
        entry.train_slides, entry.val_slides, network,
    )  # fmt: skip
