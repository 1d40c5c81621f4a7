"""Fewer training slides: how a grader depends on their number."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from wsikd.learn.data.patches import PatchSet
    from wsikd.learn.patch.settings import Split

LEFT_OUT = "none"


def with_share(patches: PatchSet, split: Split) -> PatchSet:
    """The same patches, but for the training slides that ``split.share`` leaves out.

    What was decoded is shared. Raises DataError as ``splits.groups_of``.
    """
    if split.share >= 1:
        return patches
    groups = patches.group if split.by == "auto" else list(patches.slide)
    return replace(
        patches,
        split=keep_share(patches.split, patches.label, groups, split.share, split.share_seed),
        _averages=dict(patches._averages),
    )


def keep_share(
    names: NDArray[np.str_],
    labels: NDArray[np.int64],
    groups: Sequence[str],
    share: float,
    seed: int,
) -> NDArray[np.str_]:
    """Leave out training slides or patients, stratified by class; other parts stay as they are.

    Of the groups that mostly show a class, that share is kept, rounded, one at least; a class that
    is then without a patch gets one group more. With the same seed a smaller share is a part of
    every larger one.

    Args:
        names: str (N,), "train", "val" or "test".
        labels: int64 (N,).
        groups: slide or patient of each patch.
        share: of the groups of each class, above 0 to 1.
        seed: of the draw.

    Returns:
        str (N,), ``LEFT_OUT`` where a training patch is left out.
    """
    if share >= 1:
        return names
    train = np.flatnonzero(names == "train")
    known, group = np.unique(np.asarray(groups)[train], return_inverse=True)
    counts = np.zeros((len(known), int(labels.max()) + 1), np.int64)
    np.add.at(counts, (group, labels[train]), 1)
    order = np.random.default_rng(seed).permutation(len(known))
    mostly = counts[order].argmax(1)
    kept = np.zeros(len(known), bool)
    for label in np.unique(mostly):
        own = order[mostly == label]
        kept[own[: max(1, round(share * len(own)))]] = True
    for label in np.flatnonzero(counts.any(0)):
        if not counts[kept, label].any():
            kept[order[counts[order, label] > 0][0]] = True
    found = names.copy()
    found[train[~kept[group]]] = LEFT_OUT
    return found
