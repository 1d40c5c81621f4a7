"""Patches of tile stores, each with the embedding that a teacher gave it."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wsikd.bags.bag import find_bags, open_bag
from wsikd.core.errors import DataError
from wsikd.learn.data.patches import PatchSet
from wsikd.learn.data.sources import StoreSource
from wsikd.learn.data.splits import assign, groups_of
from wsikd.learn.ts2g.select_patches import choose, open_scorer
from wsikd.tiles.store import TileStore, is_group

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from wsikd.bags.bag import Bag
    from wsikd.learn.data.settings import Split
    from wsikd.learn.ts2g.method import Ts2gData

logger = logging.getLogger(__name__)
NEAR_PX = 1.0
"""Corners of a patch in store and bag may differ by so many level-0 px: HDF5 holds whole ones."""


@dataclass
class PairSet(PatchSet):
    """Patches with a teacher's embeddings.

    Attributes:
        targets: float32 (N, D), by index of the patch.
        bags: bags that they come from.
    """

    targets: NDArray[np.float32] = field(kw_only=True, repr=False)
    bags: list[Bag] = field(kw_only=True, repr=False)


def load_pairs(data: Ts2gData, split: Split) -> PairSet:
    """List the patches that have a teacher's embedding, and divide them by patient or slide.

    Patches need no label. A store without a bag, or a bag that cannot be read, is left out with a
    warning.

    Args:
        data: stores, bags, resolution, and which patches of a slide to take.
        split: how they are divided.

    Raises:
        DataError: no patch is left, or bags of two encoders.
        StoreError: a store cannot be used.
    """
    bags = _open_bags(data.targets)
    score = None
    if data.select.mode in ("top", "mixed"):
        if data.select.scorer is None:
            raise DataError(
                "data.select.scorer", f"mode '{data.select.mode}' needs one", "name a run of mil"
            )
        score = open_scorer(Path(data.select.scorer))
    readers: list[tuple[StoreSource, int]] = []
    targets: list[NDArray[np.float32]] = []
    slides: list[str] = []
    patients: list[str | None] = []
    given: list[str | None] = []
    used: list[Bag] = []
    for number, path in enumerate(_stores(data.paths)):
        store = TileStore.open(path)
        bag = bags.get(store.slide)
        if bag is None:
            logger.warning("%s: no bag of slide '%s'; it is left out", path, store.slide)
            continue
        features = bag.features()
        rows, places = match(store, bag)
        chosen = choose(
            features[places], data.select, score=score, entropy=(data.select.seed, number)
        )
        source = StoreSource(path, data.mpp)
        readers += [(source, int(row)) for row in rows[chosen]]
        targets.append(features[places[chosen]])
        slides += [store.slide] * len(chosen)
        patients += [store.patient] * len(chosen)
        given += [store.split] * len(chosen)
        used.append(bag)
    if not readers:
        raise DataError("data.targets", "no patch has an embedding", "embed the stores themselves")
    label = np.zeros(len(readers), np.int64)
    return PairSet(
        label, slides, assign(label, slides, patients, given, split), ("patch",), data.mpp,
        data.patch_px or readers[0][0].read(readers[0][1]).shape[0], None, np.ones(len(readers)),
        sorted({source.digest for source, _ in readers}), list(readers),
        group=groups_of(slides, patients, "auto"), targets=np.concatenate(targets), bags=used,
    )  # fmt: skip


def match(store: TileStore, bag: Bag) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Patches of a store that have an embedding.

    Returns:
        Rows of the store and places in the bag, int64 (M,) each.

    Raises:
        DataError: there is none.
    """
    from scipy.spatial import cKDTree

    own = store.patches.xy
    if bag.info.source == store.digest and len(bag) == len(own):
        return np.arange(len(own)), np.arange(len(own))
    if not len(bag) or not len(own):
        raise DataError(bag.path, "has no patch of its store", "embed the store itself")
    distance, place = cKDTree(bag.coords()).query(own, p=np.inf)
    rows = np.flatnonzero(distance <= NEAR_PX)
    if not len(rows):
        fault = f"has no patch where {store.path.name} has one"
        raise DataError(bag.path, fault, "embed the store itself")
    if len(rows) < len(own):
        logger.warning(
            "%s: %d of %d patches of the store have an embedding", bag.path, len(rows), len(own)
        )
    return rows, place[rows]


def _open_bags(paths: Sequence[str]) -> dict[str, Bag]:
    if not paths:
        raise DataError("data.targets", "lists no bags of a teacher", "make them with wsikd embed")
    found: dict[str, Bag] = {}
    for path in find_bags(paths):
        try:
            bag = open_bag(path)
        except DataError as error:
            logger.warning("%s", error)
            continue
        if len(bag.shape) != 2:
            raise DataError(path, "holds grids of regions", "give bags of patches")
        first = next(iter(found.values()), bag)
        if (bag.dim, bag.info.encoder.get("sha256")) != (
            first.dim, first.info.encoder.get("sha256"),
        ):  # fmt: skip
            raise DataError(
                path, f"is not by the encoder of {first.path.name}", "give bags of one encoder"
            )
        found[bag.info.slide] = bag
    return found


def _stores(paths: Sequence[str]) -> list[Path]:
    found: list[Path] = []
    for path in map(Path, paths):
        inside = [path] if is_group(path) else sorted(path.glob("*.zarr")) if path.is_dir() else []
        if not inside:
            raise DataError(path, "holds no tile stores", "make them with wsikd tile")
        found += inside
    if not found:
        raise DataError("data.paths", "names no tile stores", "give --data, or set it")
    return found
