"""The start of an epoch of ``method: slpd``: encode regions, cluster and match slides."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from wsikd.core.errors import ConfigError
from wsikd.learn.slpd.data import centre
from wsikd.learn.slpd.kmeans import KMeans, cluster_slides
from wsikd.learn.slpd.method import Bank
from wsikd.learn.slpd.prototypes import PrototypeTable
from wsikd.learn.slpd.slide_similarity import find_neighbours
from wsikd.models.device import upload
from wsikd.models.in_flight import download, in_turn, most_in_flight

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from wsikd.bags.region_table import RegionTable
    from wsikd.learn.engine.distributed import Team
    from wsikd.learn.slpd.data import RegionSet
    from wsikd.learn.slpd.method import Prototypes
    from wsikd.models.slide_level.region_vit import RegionEncoder

logger = logging.getLogger(__name__)
_LEAST, _MOST, _REGIONS_EACH, _FACTOR = 2, 6, 12, 8


def sizes(settings: Prototypes, counts: NDArray[np.int64]) -> tuple[int, int]:
    """K, prototypes of a slide, and the least number of regions that a slide needs for them.

    Where not set, K is a twelfth of the median number of regions, between 2 and 6, and the least
    number is 8 K.

    Raises:
        ConfigError: no slide has enough regions.
    """
    k = settings.clusters
    if k is None:
        median = int(np.median(counts)) if len(counts) else 0
        k = int(np.clip(median // _REGIONS_EACH, _LEAST, _MOST))
    least = settings.least_regions or _FACTOR * k
    if least < k:
        raise ConfigError(
            f"prototypes.least_regions {least}", f"cannot fill {k} clusters",
            f"raise it to {_FACTOR * k}, or set prototypes.clusters",
        )  # fmt: skip
    if not (counts >= least).any():
        raise ConfigError(
            f"prototypes.least_regions {least}",
            f"is more than the {counts.max(initial=0)} regions of the largest slide",
            "lower it or prototypes.clusters, or choose variant dino",
        )
    return k, least


def encode(
    network: RegionEncoder,
    regions: RegionSet,
    indices: NDArray[np.int64],
    team: Team,
    *,
    side: int,
    batch: int,
    threads: int,
) -> NDArray[np.float32]:
    """Unit vectors of regions by their middle, each process its share.

    Args:
        network: in eval mode.
        regions: all of them.
        indices: int64 (M,), those that are wanted.
        team: the processes.
        side: tiles along the side of the middle.
        batch: regions at a time, of one process.
        threads: number of reading threads.

    Returns:
        float32 (M, bottleneck).
    """
    own = indices[team.rank :: team.size]
    parts = [np.empty((0, network.shape.bottleneck), np.float32)]
    with torch.inference_mode(), team.fabric.autocast():
        batches = ((None, grids) for grids, _ in regions.batches(own, batch, threads=threads))

        def start(grids: torch.Tensor) -> Callable[[], NDArray[np.float32]]:
            middle = centre(upload(grids, team.device), side)
            return download(network.bottleneck(middle).float())

        parts += [part for _, part in in_turn(batches, start, most_in_flight(team.device))]
    shares = team.gather(np.concatenate(parts))
    found = np.empty((len(indices), network.shape.bottleneck), np.float32)
    for rank, share in enumerate(shares):
        found[rank :: team.size] = share
    return found


def make_table(
    features: NDArray[np.float32],
    table: RegionTable,
    settings: Prototypes,
    *,
    device: torch.device | str = "cpu",
    **about: Any,
) -> PrototypeTable:
    """Cluster each slide's regions, and find each slide's neighbours.

    Args:
        features: float32 (R, D), of length 1.
        table: the regions.
        settings: see ``wsikd.learn.slpd.method``.
        device: device that clusters.
        about: what else the table is to say of itself.

    Raises:
        ConfigError: no slide has enough regions.
    """
    begun = time.perf_counter()
    k, least = sizes(settings, table.counts)
    valid = table.counts >= least
    how = KMeans(
        clusters=k, iterations=settings.iterations, restarts=settings.restarts,
        points_per_cluster=settings.points_per_cluster, spherical=settings.spherical,
        seed=settings.seed,
    )  # fmt: skip
    found = cluster_slides(features, table.slide_index, valid, how, device=device)
    clustered = time.perf_counter()
    near = find_neighbours(
        found.centroids, valid, table.patients, count=settings.neighbours,
        shortlist=settings.shortlist, correspondence=settings.correspondence,
        same_patient=settings.same_patient,
    )  # fmt: skip
    logger.info(
        "%d prototypes of each of %d slides (%d with fewer than %d regions have none), %.1f s; "
        "neighbours, %.1f s",
        k, valid.sum(), (~valid).sum(), least, clustered - begun, time.perf_counter() - clustered,
    )  # fmt: skip
    return PrototypeTable(
        slides=table.slides, patients=table.patients, valid=valid, prototypes=found.centroids,
        neighbours=near.index, similarity=near.similarity, matched=near.matched,
        slide_index=table.slide_index, region_index=table.region_index,
        assignment=found.assignment, closeness=found.closeness, coords=table.coords,
        field_px=table.field_px,
        about={**about, "least_regions": least, "settings": settings.model_dump(mode="json")},
    )  # fmt: skip


def tensors(table: PrototypeTable, device: torch.device) -> dict[str, torch.Tensor]:
    """The parts of a table that the method needs, on a device."""
    return {name: upload(torch.from_numpy(getattr(table, name)), device) for name in Bank.names}
