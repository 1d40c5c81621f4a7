"""Who is trained on and who is not: splits by patient or slide, and leaks between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from wsikd.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from wsikd.learn.data.settings import Split

NAMES = ("train", "val", "test")
LEFT_OUT = "none"
EXTRA = "extra"
"""The part of patches that are trained on without a label."""
_NAMED = 5


def groups_of(slides: Sequence[str], patients: Sequence[str | None], by: str) -> list[str]:
    """The groups that must stay together: the patient where known (``by`` "auto"), else the slide.

    Raises:
        DataError: ``by`` is "patient" and one is unknown.
    """
    if by == "slide":
        return list(slides)
    groups = []
    for slide, patient in zip(slides, patients, strict=True):
        if patient is None and by == "patient":
            raise DataError(slide, "its patient is not known", "set split.by to slide or auto")
        groups.append(f"slide {slide}" if patient is None else f"patient {patient}")
    return groups


def assign(
    labels: NDArray[np.int64],
    slides: Sequence[str],
    patients: Sequence[str | None],
    given: Sequence[str | None],
    split: Split,
) -> NDArray[np.str_]:
    """Split of every patch.

    A split that all patches bring is kept (and checked), except that a missing validation part is
    drawn from the training part. Otherwise one is drawn by group, stratified by class. With
    ``split.folds`` every group is in the test part of exactly one fold, whatever split it brings.

    Args:
        labels: int64 (N,).
        slides: name of each patch's slide.
        patients: patient of each patch, None if unknown.
        given: "train", "val", "test" or None.
        split: shares, seed and what stays together.

    Returns:
        str (N,) of "train", "val", "test".

    Raises:
        DataError: a slide or patient lies in two splits, some patches bring a split and others
            none, or there are too few slides.
    """
    groups = groups_of(slides, patients, split.by)
    if split.folds is not None:
        if split.fold >= split.folds:
            raise ConfigError(
                "split.fold",
                f"{split.fold} is none of {split.folds} folds",
                "use whole numbers from 0",
            )
        names = np.full(len(labels), "train", dtype="U5")
        names[deal_folds(labels, groups, split.folds, split.seed) == split.fold] = "test"
    elif split.given and any(g is not None for g in given):
        if (bare := next((i for i, g in enumerate(given) if g is None), None)) is not None:
            raise DataError(
                slides[bare], "has no split, while others have one", "or set split.given to false"
            )
        names = np.array([str(g) for g in given], dtype="U5")
    else:
        names = np.full(len(labels), "train", dtype="U5")
        _draw(names, "test", labels, groups, split.test, split.seed + 1)
    whole = names.copy()
    if not (names == "val").any():
        by_slide = split.val_by == "slide"
        _draw(names, "val", labels, slides if by_slide else groups, split.val, split.seed)
        whole = whole if by_slide else names
    check_leaks(whole, groups, slides)
    check_leaks(names, [f"slide {s}" for s in slides], slides)
    for name in ("train", "val"):
        if not (names == name).any():
            raise DataError(
                "split", f"leaves no patches for {name}", "add slides or change split.val"
            )
    return names


def _draw(
    names: NDArray[np.str_],
    target: str,
    labels: NDArray[np.int64],
    groups: Sequence[str],
    share: float,
    seed: int,
) -> None:
    """Move whole groups from "train" to ``target`` in place, close to ``share`` of every class."""
    if share == 0:
        return
    rng = np.random.default_rng(seed)
    pool = np.flatnonzero(names == "train")
    known, group = np.unique(np.asarray(groups)[pool], return_inverse=True)
    if len(known) < 2:
        raise DataError(
            "split", f"{len(known)} slide or patient cannot be divided", "add slides to the data"
        )
    counts = np.zeros((len(known), labels.max() + 1))
    np.add.at(counts, (group, labels[pool]), 1)
    total = np.maximum(counts.sum(0), 1)
    filled = np.zeros((2, counts.shape[1]))
    wanted = np.array([1 - share, share])[:, None]
    order = rng.permutation(len(known))
    order = order[np.argsort(-counts[order].sum(1), kind="stable")]
    chosen = np.zeros(len(known), bool)
    for g in order:
        deficit = ((wanted - filled / total) * (counts[g] / total)).sum(1)
        part = int(deficit[1] > deficit[0])
        filled[part] += counts[g]
        chosen[g] = part == 1
    if not chosen.any():
        chosen[order[-1]] = True
    names[pool[chosen[group]]] = target


def deal_folds(
    labels: NDArray[np.int64],
    groups: Sequence[str],
    folds: int,
    seed: int,
    *,
    key: str = "split.folds",
) -> NDArray[np.int64]:
    """Deal whole groups into folds, the large ones first, each where its classes lack most.

    Args:
        labels: int64 (N,).
        groups: what stays together.
        folds: how many.
        seed: seed of the order among groups of one size.
        key: setting that the message names.

    Returns:
        int64 (N,), fold of each patch.

    Raises:
        DataError: there are fewer groups than folds.
    """
    known, group = np.unique(np.asarray(groups), return_inverse=True)
    if len(known) < folds:
        raise DataError(
            key, f"{len(known)} slides or patients do not make {folds} folds",
            "lower the number of folds",
        )  # fmt: skip
    counts = np.zeros((len(known), labels.max() + 1))
    np.add.at(counts, (group, labels), 1)
    total = np.maximum(counts.sum(0), 1)
    filled, members = np.zeros((folds, counts.shape[1])), np.zeros(folds)
    order = np.random.default_rng(seed).permutation(len(known))
    order = order[np.argsort(-counts[order].sum(1), kind="stable")]
    dealt = np.zeros(len(known), np.int64)
    for place, g in enumerate(order):
        lack = ((1 / folds - filled / total) * (counts[g] / total)).sum(1)
        if len(order) - place <= int((members == 0).sum()):
            lack[members > 0] = -np.inf  # the last groups go to folds that have none
        dealt[g] = int(lack.argmax())
        filled[dealt[g]] += counts[g]
        members[dealt[g]] += 1
    return dealt[group]


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
        share: share of the groups of each class, above 0 to 1.
        seed: seed of the draw.

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


def check_leaks(
    names: NDArray[np.str_], keys: Sequence[str | None], slides: Sequence[str], what: str = ""
) -> None:
    """Refuse a key (slide, patient, scan) that occurs in two splits.

    Args:
        names: str (N,), split of each patch.
        keys: what must not recur; None is not compared.
        slides: the slide of each patch.
        what: shown instead of the key, for keys that mean nothing to a reader.

    Raises:
        DataError: one does; the message names it, its slides, and how many others there are.
    """
    seen: dict[str, str] = {}
    leaks: dict[str, str] = {}
    for name, key in zip(names.tolist(), keys, strict=True):
        if key is not None and seen.setdefault(key, name) != name:
            leaks.setdefault(key, name)
    if not leaks:
        return
    first = next(iter(leaks))
    own = dict.fromkeys(s for s, key in zip(slides, keys, strict=True) if key == first)
    alone = first.removeprefix("slide ") == next(iter(own))
    shown = "" if alone else f" ({listed('slide', list(own))})"
    others = [what or key for key in leaks][1:]
    more = f", as are {len(others)} more" if others else ""
    if others and not what:
        more += f" ({', '.join(others[:4])}{' ...' if len(others) > 4 else ''})"
    fault = f"is in both {seen[first]} and {leaks[first]}{shown}{more}"
    raise DataError(what or first, fault, "keep it in one of them")


def listed(what: str, names: Sequence[str]) -> str:
    """Things as a message names them: the first few and how many more there are.

    >>> listed("slide", ["a"]), listed("slide", [*"abcdefg"])
    ('slide a', '7 slides: a, b, c, d, e and 2 more')
    """
    if len(names) == 1:
        return f"{what} {names[0]}"
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{len(names)} {what}s: {', '.join(names[:_NAMED])}{more}"


def epoch_order(
    labels: NDArray[np.int64],
    count: int,
    *,
    seed: int,
    epoch: int,
    balance: bool | Literal["frozen_pool"] = True,
) -> NDArray[np.int64]:
    """Which patches an epoch draws, in order.

    Patches (balanced: of each class) are dealt from one shuffled stack after another, which
    continues from epoch to epoch: none comes again before all have come.

    Args:
        labels: int64 (N,).
        count: patches to draw.
        seed: seed of the run.
        epoch: counts from 0; the same pair gives the same order.
        balance: draw classes equally often instead of patches; "frozen_pool" draws from
            :func:`frozen_pool` again in every epoch, as the released code of AT+ does.

    Returns:
        int64 (count,), indices into ``labels``.
    """
    rng = np.random.default_rng((seed, epoch))
    if balance == "frozen_pool":
        pool = frozen_pool(labels, seed)
        rows = [rng.permutation(pool) for _ in range(-(-count // len(pool)))]
        return np.concatenate(rows)[:count]
    pools = [np.flatnonzero(labels == c) for c in np.unique(labels)] if balance else []
    pools = pools or [np.arange(len(labels))]
    drawn = []
    for i, pool in enumerate(pools):  # these shares add up to count in every epoch
        start, stop = ((e * count + i) // len(pools) for e in (epoch, epoch + 1))
        drawn.append(deal(pool, start, stop, (seed, i)))
    return rng.permutation(np.concatenate(drawn))


def frozen_pool(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """The pool that the released code of AT+ draws once for a whole run.

    Of a class with n patches, u = round(max n / n) is 1: all of them once; else n u draws with
    replacement, which never reach about exp(-u) of them (13.5 % at u = 2).

    Args:
        labels: int64 (N,).
        seed: seed of the run.

    Returns:
        int64 (sum of n u,), indices into ``labels``.
    """
    rng = np.random.default_rng((seed, 2**31))
    classes, counts = np.unique(labels, return_counts=True)
    pool = []
    for c, n in zip(classes, counts, strict=True):
        own, times = np.flatnonzero(labels == c), round(counts.max() / n)
        pool.append(own if times == 1 else rng.choice(own, n * times))
    return np.concatenate(pool)


def share_of(
    order: NDArray[np.int64], batch: int, *, size: int = 1, rank: int = 0
) -> NDArray[np.int64]:
    """The samples of one of several processes in an epoch: its part of each whole batch.

    Args:
        order: int64 (M,), of all processes together.
        batch: patches in a step of all processes, a multiple of ``size``.
        size: how many processes.
        rank: number of this one, from 0.

    Returns:
        int64 (M // batch * batch / size,); what does not fill a batch is left out.
    """
    steps = len(order) // batch
    return order[: steps * batch].reshape(steps, size, batch // size)[:, rank].ravel()


def deal(
    pool: NDArray[np.int64], start: int, stop: int, entropy: tuple[int, ...]
) -> NDArray[np.int64]:
    """Cards ``start`` to ``stop`` of an endless row of shuffled stacks."""
    size = len(pool)
    first, last = start // size, -(-stop // size)
    stacks = [np.random.default_rng((*entropy, n)).permutation(pool) for n in range(first, last)]
    row = np.concatenate([pool[:0], *stacks])
    return row[start - first * size : stop - first * size]
