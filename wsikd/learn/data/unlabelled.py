"""Fields without a label: which of them may be trained on, and how they are drawn.

They belong to the training part where nothing of their slide or patient is in another part. Imports
no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wsikd.learn.data.splits import EXTRA, assign, deal, groups_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsikd.learn.data.joined import Joined
    from wsikd.learn.data.settings import Split


def divide(found: Joined, split: Split) -> NDArray[np.str_]:
    """Split of every patch: labelled ones as ``splits.assign`` divides them.

    Args:
        found: patches of all sources; unlabelled ones have the label -1.
        split: how they are divided.

    Returns:
        str (N,): of an unlabelled patch ``EXTRA``, or "" where it must not be trained on: its slide
        or patient is in the validation or test part, or its data say so.

    Raises:
        DataError: see ``splits.assign``.
    """
    known = np.flatnonzero(found.label >= 0)
    own = assign(
        found.label[known], [found.slide[i] for i in known], [found.patient[i] for i in known],
        [found.given[i] for i in known], split,
    )  # fmt: skip
    names = np.full(len(found.label), "", dtype="U5")
    names[known] = own
    if len(known) == len(names):
        return names
    groups = groups_of(found.slide, found.patient, split.by)
    apart: set[str] = set()
    for index in known[own != "train"].tolist():
        apart.add(f"slide {found.slide[index]}")
        if names[index] != "val" or split.val_by == "group":
            apart.add(groups[index])
    for index in np.flatnonzero(found.label < 0).tolist():
        seen = {f"slide {found.slide[index]}", groups[index]}
        if not seen & apart and found.given[index] in (None, "train"):
            names[index] = EXTRA
    return names


def spread_order(
    classes: NDArray[np.int64],
    slides: NDArray[np.int64],
    count: int,
    *,
    seed: int,
    epoch: int,
    balance: bool = True,
) -> NDArray[np.int64]:
    """Which unlabelled patches an epoch draws, in order.

    Classes are drawn equally often; within a class, its slides are; within a slide, no patch comes
    again before all of that slide and class have come. Stacks continue from epoch to epoch.

    Args:
        classes: int64 (N,), the teacher's class of each patch.
        slides: int64 (N,), number of each patch's slide.
        count: patches to draw.
        seed: of the run.
        epoch: counts from 0; the same pair gives the same order.
        balance: false draws patches equally often.

    Returns:
        int64 (count,), indices into ``classes``.
    """
    pools = [np.flatnonzero(classes == c) for c in np.unique(classes)] if balance else []
    pools = pools or [np.arange(len(classes))]
    drawn = []
    for i, pool in enumerate(pools):  # these shares add up to count in every epoch
        start, stop = ((e * count + i) // len(pools) for e in (epoch, epoch + 1))
        by_slide = [pool[slides[pool] == s] for s in np.unique(slides[pool])] if balance else [pool]
        drawn.append(_round_robin(by_slide, start, stop, (seed, 2**20 + i)))
    return np.random.default_rng((seed, epoch, 1)).permutation(np.concatenate(drawn))


def _round_robin(
    pools: list[NDArray[np.int64]], start: int, stop: int, entropy: tuple[int, int]
) -> NDArray[np.int64]:
    """Cards ``start`` to ``stop`` of endless rounds, in each one card of every pool."""
    first, last = start // len(pools), -(-stop // len(pools))
    cards = np.stack([deal(p, first, last, (*entropy, k)) for k, p in enumerate(pools)], 1)
    rounds = [
        row[np.random.default_rng((*entropy, 2**20, n)).permutation(len(pools))]
        for n, row in enumerate(cards, start=first)
    ]
    row = np.concatenate([cards[:0].ravel(), *rounds])
    return row[start - first * len(pools) : stop - first * len(pools)]


def mixed(
    known: NDArray[np.int64], extra: NDArray[np.int64], pattern: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """One order of both, unlabelled where ``pattern`` (M,) says so."""
    order = np.empty(len(pattern), np.int64)
    order[pattern], order[~pattern] = extra, known
    return order


def pattern_of(steps: int, batch_size: int, share: float) -> NDArray[np.bool_]:
    """Which places of an epoch are unlabelled: evenly within every batch, alike in all of them.

    >>> pattern_of(1, 6, 0.5).astype(int).tolist()
    [0, 1, 0, 1, 0, 1]
    """
    place = np.arange(batch_size + 1)
    filled = np.floor(place * share + 1e-9)
    return np.tile(filled[1:] > filled[:-1], steps)
