"""A training step of SLPD beside reading its regions, and how an epoch with prototypes begins.

The published region encoder (Z. Yu et al., MICCAI 2023: 384 numbers on 16 x 16 tiles, 2 views of
14 x 14 and 8 of 6 x 6) with a last layer that a CPU bears. Regions lie in files, 8 slides' worth.
Clustering is timed against scikit-learn slide by slide, with the same starts and iterations, and
finding neighbours against all K! permutations of all pairs, in blocks. Memory: a process of its own
clusters and matches 10,000 slides.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness import Report, child_memory, measure, options, own_peak_mb

# isort: split
import numpy as np
import torch

from wsikd.bags.bag import BagInfo, write_bag
from wsikd.bags.region_table import open_regions
from wsikd.core.timing import Waiting
from wsikd.learn.data.augment import Part
from wsikd.learn.methods.base import Progress
from wsikd.learn.slpd.data import RegionSet, RegionViews
from wsikd.learn.slpd.kmeans import KMeans, cluster_slides
from wsikd.learn.slpd.method import SlpdConfig
from wsikd.learn.slpd.slide_similarity import find_neighbours
from wsikd.learn.slpd.train import build

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from wsikd.learn.slpd.method import Slpd


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        slides: whose regions lie in files.
        regions: of a slide.
        batch: regions in a step.
        steps: timed together.
        network: settings of the region encoder.
        clustered: slides that are clustered, of 48 regions.
        matched: slides among which neighbours are found.
        many: slides of which a process of its own makes a table.
    """

    slides: int = 8
    regions: int = 48
    batch: int = 8
    steps: int = 2
    network: tuple[tuple[str, float], ...] = (("outputs", 4096),)
    clustered: int = 100
    matched: int = 1000
    many: int = 10_000


DEFAULT = Size()
TINY = (("width", 12), ("depth", 1), ("heads", 2), ("hidden", 16), ("outputs", 32))
SMALLEST = Size(2, 8, 4, 1, TINY, 4, 12, 40)
SMALL_NET = (("width", 96), ("depth", 2), ("heads", 4), ("hidden", 256), ("outputs", 1024))
DIM, GRID, WIDTH, K, EACH = 384, 16, 256, 4, 48
WAITING_BAR = 0.05


def main() -> None:
    """Measure and report."""
    given = options("slpd_step")
    if given.child:
        make_table(int(given.child[0]))
        return
    report, size = Report(given), SMALLEST if given.smallest else DEFAULT
    report.raw["torch threads"] = torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix="wsikd-benchmark-") as name:
        regions = write_regions(Path(name), size)
        run_steps(report, size, regions)
        for title, network in (("published", size.network), ("small", SMALL_NET)):
            chosen = TINY if given.smallest else network
            share = min(waiting_share(size, regions, chosen) for _ in range(2))
            what = f"share of waiting for regions, {title} network"
            report.ratio(what, share, WAITING_BAR, "lower")
    run_clustering(report, size)
    run_matching(report, size)
    run_memory(report, size)
    report.finish()


def write_regions(folder: Path, size: Size) -> RegionSet:
    """Regions of random numbers, half precision, one file a slide."""
    rng = np.random.default_rng(0)
    for i in range(size.slides):
        features = rng.normal(size=(size.regions, DIM, GRID, GRID)).astype(np.float16)
        write_bag(folder / f"{i}.zarr", BagInfo(f"{i}"), features, np.zeros((size.regions, 2)))
    return RegionSet(open_regions([folder]))


def networks(network: tuple[tuple[str, float], ...]) -> tuple[SlpdConfig, Slpd]:
    """Settings and method, the same at every call."""
    config = SlpdConfig.model_validate(
        {"method": "slpd", "variant": "dino", "network": dict(network)}
    )
    torch.manual_seed(0)
    return config, build(config, DIM).train()


def stepper(
    size: Size, regions: RegionSet, network: tuple[tuple[str, float], ...]
) -> Callable[[torch.Tensor, NDArray[np.int64], int], None]:
    """What trains on a batch: views, both networks, backward, optimiser, moving average."""
    config, method = networks(network)
    views = RegionViews(regions, config.crops, torch.device("cpu"), seed=0)
    optimiser = torch.optim.AdamW(method.student.parameters(), lr=1e-4)

    def step(grids: torch.Tensor, indices: NDArray[np.int64], number: int) -> None:
        at = Progress(0, 1, number, 1000)
        batch = views.batch(grids, indices, at, Part(0, len(indices)))
        method(batch, at)["dino"].backward()
        optimiser.step()
        optimiser.zero_grad()
        method.after_step(at)

    return step


def run_steps(report: Report, size: Size, regions: RegionSet) -> None:
    """CPU time of steps beside that of reading the same batches at random."""
    order = np.random.default_rng(1).permutation(len(regions))[: size.batch * size.steps]
    parts = np.split(order, size.steps)
    held = [regions.read(part) for part in parts]
    step = stepper(size, regions, size.network)

    def train() -> float:
        for number, (grids, part) in enumerate(zip(held, parts, strict=True)):
            step(grids, part, number)
        return len(order)

    def read() -> float:
        for _ in range(20):
            for part in parts:
                regions.read(part)
        return 20 * len(order)

    timed = measure({"training step": train, "reading at random": read}, report.options.rounds)
    report.timings(timed, "regions")
    report.speed("reading regions / training on them", ("reading at random", "training step"), 20,
                 timed)  # fmt: skip


def waiting_share(size: Size, regions: RegionSet, network: tuple[tuple[str, float], ...]) -> float:
    """Share of the time of some steps that goes into waiting for the next batch."""
    step, clock = stepper(size, regions, network), Waiting()
    order = np.random.default_rng(2).permutation(len(regions))[: 2 * size.batch * size.steps]
    step(regions.read(order[: size.batch]), order[: size.batch], 0)
    for number, (grids, part) in enumerate(clock.watch(regions.batches(order, size.batch))):
        step(grids, part, number)
    return clock.share


def slides_of(count: int, each: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Unit vectors of regions of K kinds out of ten, slide by slide: (R, WIDTH), (R,)."""
    rng = np.random.default_rng(3)
    kinds = rng.normal(size=(10, WIDTH)).astype(np.float32)
    found = np.empty((count * each, WIDTH), np.float32)
    for slide in range(count):
        own = kinds[rng.permutation(10)[:K]][rng.integers(0, K, each)]
        x = own + rng.normal(0, 0.7, (each, WIDTH)).astype(np.float32)
        found[slide * each : (slide + 1) * each] = x / np.linalg.norm(x, axis=1, keepdims=True)
    return found, np.repeat(np.arange(count), each)


def run_clustering(report: Report, size: Size) -> None:
    """All slides at once against one after the other."""
    from sklearn.cluster import KMeans as Peer  # not in the process whose memory is measured

    x, slide = slides_of(size.clustered, EACH)
    every = np.ones(size.clustered, bool)

    def batched() -> float:
        cluster_slides(x, slide, every, KMeans(K))
        return len(x)

    def one_by_one() -> float:
        for own in np.split(x, size.clustered):
            Peer(K, init="random", n_init=5, max_iter=10, tol=0, random_state=0).fit(own)
        return len(x)

    timed = measure({"k-means, all slides at once": batched,
                     "k-means, slide by slide (scikit-learn)": one_by_one},
                    report.options.rounds)  # fmt: skip
    report.timings(timed, "regions")
    report.speed("k-means: all slides at once / slide by slide", tuple(timed), 2.0, timed)


def run_matching(report: Report, size: Size) -> None:
    """Neighbours by a shortlist and the Hungarian method against all permutations of all pairs."""
    x, slide = slides_of(size.matched, 16)
    every = np.ones(size.matched, bool)
    prototypes = cluster_slides(x, slide, every, KMeans(K)).centroids
    permutations = np.array(list(itertools.permutations(range(K))))
    found: dict[str, NDArray[np.int64]] = {}

    def shortlist() -> float:
        near = find_neighbours(prototypes, every, [None] * size.matched)
        found["shortlist"] = near.index[:, 0]
        return size.matched

    def enumerate_all() -> float:
        best = np.empty(size.matched, np.int64)
        for n, own in enumerate(prototypes):
            cosine = np.einsum("kd,mld->mkl", own, prototypes, optimize=True)
            sums = cosine[:, np.arange(K), permutations].sum(2).max(1)
            sums[n] = -np.inf
            best[n] = sums.argmax()
        found["all"] = best
        return size.matched

    timed = measure({"neighbours, shortlist": shortlist, "neighbours, enumeration": enumerate_all},
                    report.options.rounds)  # fmt: skip
    report.timings(timed, "slides")
    report.speed("neighbours: shortlist / enumeration", tuple(timed), 2.0, timed)
    same = float((found["shortlist"] == found["all"]).mean())
    report.ratio("neighbours: share that enumeration finds too", same, 0.99)


def run_memory(report: Report, size: Size) -> None:
    """Memory that a table of many slides takes beside the vectors that it is made of."""
    found = child_memory(str(size.many))
    vectors = size.many * 16 * WIDTH * 4 / 1e6
    report.raw["table of many slides"] = {"slides": size.many, "vectors MB": vectors, **found}
    more = found["peak"] - found["before"]
    print(f"{size.many} slides, 16 regions each: {vectors:.0f} MB of vectors, {more:.0f} MB more")
    report.ratio(
        f"memory of prototypes and neighbours of {size.many} slides, GB", more / 1000, 1.0, "lower"
    )


def make_table(count: int) -> None:
    """In a process of its own: cluster and match, and print the peak of memory."""
    torch.set_num_threads(1)
    x, slide = slides_of(count, 16)
    warm = cluster_slides(x[:64], slide[:64], np.ones(4, bool), KMeans(K))
    assert len(warm.centroids) == 4
    before, every = own_peak_mb(), np.ones(count, bool)
    found = cluster_slides(x, slide, every, KMeans(K))
    near = find_neighbours(found.centroids, every, [None] * count)
    assert (near.index >= 0).all()
    json.dump({"before": before, "peak": own_peak_mb()}, sys.stdout)


if __name__ == "__main__":
    main()
