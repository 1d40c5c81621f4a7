"""A 10x network against the same network at 2.5x, end to end; see benchmarks/README.md.

The networks are untrained: only their cost is of interest. Both read the same fields of 512 um, a
block of tissue in the middle of the slide, in full precision, with the engine that ``wsikd infer``
takes on a CPU. Opening the slide and finding its tissue is timed once for the whole slide, and each
field carries its share of it. Peers come first, on memory as the C library deals with it for them
and for us; the rest is measured with freed memory kept, as the command computes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache, partial
from statistics import median
from typing import TYPE_CHECKING

from harness import (
    CPU,
    Report,
    Sample,
    Timed,
    measure,
    options,
    rate_ratios,
    summary,
    workplace,
)

# isort: split
import cv2
import numpy as np
import torch
from infer_peers import LoaderPeer, PatchPredictorPeer, told_apart
from synthetic import MPP, synthetic_slide, window_mask

from wsikd.core.workers.memory import keep_freed
from wsikd.grade.engines import Place
from wsikd.grade.engines.choose import default_precision
from wsikd.grade.engines.with_openvino import OpenVinoEngine
from wsikd.grade.predict import PredictSettings, SlidePredictor
from wsikd.models.files.bundle import InputSpec, save_bundle
from wsikd.models.graders.pooled import build_grader
from wsikd.slides.base import open_slide
from wsikd.slides.listing.manifest import SlideEntry
from wsikd.slides.tissue.find import find_tissue
from wsikd.tiles.grid import TileGrid

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray
    from synthetic import BenchSlide

    from wsikd.grade.grademap import GradeMap

TOOLBOX = "TIAToolbox's PatchPredictor"
PEER_ARCH = "mobilenet_v3_large"
CORES = len(os.sched_getaffinity(0))
CLASSES = ("NC", "G3", "G4", "G5")
ROUTES = {"10x": (1.0, 512), "2.5x": (4.0, 128)}
# end-to-end bars with a level near 2.5x, with level 0 only, and of the forward pass alone
BARS: dict[str, tuple[float, float, float | None]] = {
    "vgg16": (15, 13, 15),
    "resnet18": (14, 8, 15),
    "mobilenet_v3_large": (13, 4, None),
}
SLIDES = {"levels 1/4/16": (1, 4, 16), "level 0 only": (1,)}
PAGES = {"levels 1/4/16": 0, "level 0 only": 1}


@dataclass(frozen=True)
class Sizes:
    """How much is read; ``fields`` is the block's side in fields by network."""

    side_px: int
    share: float
    big_px: int
    fields: dict[str, int]
    peer_fields: int


DEFAULT = Sizes(16_384, 0.477, 40_960, {"vgg16": 2, "resnet18": 5, "mobilenet_v3_large": 8}, 33)
SMALLEST = Sizes(1536, 1.0, 1536, {"mobilenet_v3_large": 1}, 1)


def main() -> None:
    """Measure and report."""
    cv2.setNumThreads(1)  # as the command does
    given = options("infer")
    sizes = SMALLEST if given.smallest else DEFAULT
    report = Report(given)
    report.raw["torch threads"] = torch.get_num_threads()
    with workplace(given) as (folder, scratch):
        slides = {
            name: synthetic_slide(folder, sizes.side_px, downsamples=levels, share=sizes.share)
            for name, levels in SLIDES.items()
        }
        measure_peers(report, folder, sizes, scratch)
        cv2.setNumThreads(1)
        report.raw["freed memory kept after the peers"] = keep_freed()  # as the command does
        measure_forward(report, sizes)
        measure_end_to_end(report, slides, sizes, scratch)
        big = synthetic_slide(folder, sizes.big_px, share=sizes.share)
        measure_whole_slide(report, big)
    report.finish()


def network(arch: str) -> torch.nn.Module:
    """An untrained grader in eval mode; the same weights at each call."""
    torch.manual_seed(0)
    return build_grader(arch, len(CLASSES)).eval()


def predictor(arch: str, route: str, net: torch.nn.Module | None = None) -> SlidePredictor:
    """A predictor at 10x or 2.5x, with the engine that ``wsikd infer`` takes on a CPU."""
    mpp, patch_px = ROUTES[route]
    spec = InputSpec(mpp, patch_px, (0.0,) * 3, (1.0,) * 3, CLASSES)
    settings = PredictSettings(min_tissue=0.5, workers=CORES, engine="openvino", exact=False)
    return SlidePredictor(net or network(arch), spec, device="cpu", settings=settings)


@cache
def shared(arch: str, route: str) -> SlidePredictor:
    """One predictor for all that is timed of a network: to compile it takes seconds."""
    return predictor(arch, route)


def measure_forward(report: Report, sizes: Sizes) -> None:
    """Forward passes alone, random pixels, the same megapixels a batch."""
    run: dict[str, Callable[[], float]] = {}
    rng = np.random.default_rng(1)
    for arch in sizes.fields:
        for route, (_, patch_px) in ROUTES.items():
            count = 1 if patch_px == 512 else 16
            patches = rng.integers(0, 256, (count, patch_px, patch_px, 3), np.uint8)
            run[f"{arch} {route} forward"] = partial(forward, shared(arch, route), patches)
    timed = measure(run, report.options.rounds)
    report.timings(timed, "fields")
    for arch in sizes.fields:
        bar = BARS[arch][2]
        pair = (f"{arch} 2.5x forward", f"{arch} 10x forward")
        if bar is None:
            values = rate_ratios(timed[pair[0]], timed[pair[1]])
            report.raw.setdefault("forward without a bar", {})[arch] = median(values)
        else:
            report.speed(f"{arch}, forward pass: 2.5x / 10x", pair, bar, timed)


def in_bf16(own: SlidePredictor) -> SlidePredictor:
    """The same in bf16, where the processor has it, without the check against fp32.

    That is how a student runs which passes the check; an untrained network need not.
    """
    if default_precision("openvino", "cpu") == "bf16":
        own.engine = OpenVinoEngine(own.network, Place(threads=CORES, precision="bf16"))
    return own


def forward(own: SlidePredictor, patches: NDArray[np.uint8]) -> float:
    """Probabilities of one batch."""
    return len(own.ready()(patches))


def measure_end_to_end(
    report: Report, slides: dict[str, BenchSlide], sizes: Sizes, scratch: Path
) -> None:
    """Read, decode, resize and forward at both magnifications, on both kinds of slide."""
    run: dict[str, Callable[[], float]] = {}
    for kind, slide in slides.items():
        run[f"tissue, {kind}"] = partial(tissue_fields, slide)
        for arch, side in sizes.fields.items():
            mask = block_mask(slide, side, scratch / f"{arch}-{PAGES[kind]}.geojson")
            entry = SlideEntry(path=slide.path, name=slide.path.stem, mask=mask)
            for route in ROUTES:
                own = shared(arch, route)
                run[f"{arch} {route}, {kind}"] = Block(own, entry)
    timed = measure(run, report.options.rounds)
    report.timings(timed, "fields")
    for kind in slides:
        for arch in sizes.fields:
            bar = BARS[arch][PAGES[kind]]
            report_end_to_end(report, arch, kind, timed, bar)


def report_end_to_end(report: Report, arch: str, kind: str, timed: Timed, bar: float) -> None:
    """CPU seconds a field with its share of the tissue search, 10x over 2.5x."""
    tissue = timed[f"tissue, {kind}"]
    both = {
        f"{arch} {route}, {kind}, tissue included": [
            Sample(s.cpu / s.work + t.cpu / t.work, s.wall / s.work + t.wall / t.work, 1.0)
            for s, t in zip(timed[f"{arch} {route}, {kind}"], tissue, strict=True)
        ]
        for route in ROUTES
    }
    high, low = both
    name = f"{arch}, end to end, {kind}: 10x / 2.5x"
    report.speed(name, (low, high), bar, both)
    alone = rate_ratios(timed[f"{arch} 2.5x, {kind}"], timed[f"{arch} 10x, {kind}"])
    report.raw.setdefault("end to end without the tissue search", {})[name] = median(alone)
    stages = report.raw.setdefault(f"{CPU} a field, tissue included", {})
    stages |= {n: summary(s)[f"{CPU} per unit"] for n, s in both.items()}


def block_mask(slide: BenchSlide, side: int, path: Path) -> Path:
    """A tissue mask of ``side`` x ``side`` fields."""
    return window_mask(path, slide.window(512 / MPP, side, side), 512 / MPP)


class Block:
    """Predicts a block of fields of a slide that was opened afresh beforehand."""

    def __init__(self, own: SlidePredictor, entry: SlideEntry) -> None:
        """Nothing is opened yet."""
        self.own, self.entry = own, entry

    def prepare(self) -> None:
        """Open the slide: each field's share of that is counted with the tissue search."""
        self.slide = open_slide(self.entry.path)

    def __call__(self) -> float:
        """Returns the number of fields."""
        with self.slide:
            found = self.own.predict(self.slide, mask_file=self.entry.mask)
        return int(found.valid_hw.sum())


def predict_fields(own: SlidePredictor, entry: SlideEntry) -> float:
    """Open the slide and predict; returns the number of fields."""
    return int(own.predict_entry(entry).valid_hw.sum())


def tissue_fields(slide: BenchSlide) -> float:
    """Open the slide and find its tissue; returns how many fields of 512 um it has."""
    with open_slide(slide.path) as opened:
        cover = TileGrid.plan(opened, 4.0, 128).cover(find_tissue(opened))
    return float((cover >= 0.5).sum())


def measure_peers(report: Report, folder: Path, sizes: Sizes, scratch: Path) -> None:
    """A 2.5x student against other pipelines: a slide with a level at 4 um/px, all of it tissue."""
    side = sizes.peer_fields
    slide = synthetic_slide(folder, side * 1024, downsamples=(1, 8), share=1.0)
    entry = SlideEntry(
        slide.path, slide.path.stem, mask=block_mask(slide, side, scratch / "p.json")
    )
    net = told_apart(network(PEER_ARCH), slide.path, side)
    run: dict[str, Callable[[], float]] = {}
    own, fast = predictor(PEER_ARCH, "2.5x", net), predictor(PEER_ARCH, "2.5x", net)
    ours, quick = values(own.predict_entry(entry)), values(in_bf16(fast).predict_entry(entry))
    run["wsikd, equal precision"] = partial(predict_fields, own, entry)
    run["wsikd, default engine"] = partial(predict_fields, fast, entry)
    peers: dict[str, Callable[[], NDArray[np.float32]]] = {
        "DataLoader over OpenSlide": LoaderPeer(slide.path, side, net).predict
    }
    if report.options.smallest:
        for name, bar in (("equal precision", 2), ("default engine", 4)):
            reason = "not at the smallest size: its import takes half a minute"
            report.missing(f"{PEER_ARCH} at 2.5x: wsikd, {name} / {TOOLBOX}", reason, bar)
    else:
        bundle = save_bundle(scratch / "student", net, own.spec, arch=PEER_ARCH)
        peers[TOOLBOX] = PatchPredictorPeer(slide.path, bundle, scratch).predict
    for name, predict in peers.items():
        difference = float(np.abs(ours - predict()).max())
        report.ratio(f"{PEER_ARCH} at 2.5x: largest difference from {name}", difference, 1e-3,
                     "lower")  # fmt: skip
        run[name] = lambda predict=predict: float(len(predict()))
    timed = measure(run, report.options.rounds)
    report.timings(timed, "fields")
    report.raw["peers"] = {
        "fields": len(ours),
        "spread of the probabilities": [float(v) for v in ours.std(0)],
        "default engine": f"{fast.ready().name} {fast.ready().precision}",
        "same class in both precisions, untrained network": float(
            (ours.argmax(1) == quick.argmax(1)).mean()
        ),
        "threads": "PyTorch, OpenVINO and reading: as many as cores; DataLoaders in the process",
    }
    for peer in peers:
        for name, bar in (("equal precision", 2), ("default engine", 4)):
            ours_name = f"wsikd, {name}"
            report.speed(f"{PEER_ARCH} at 2.5x: {ours_name} / {peer}", (ours_name, peer), bar,
                         timed)  # fmt: skip


def values(grade_map: GradeMap) -> NDArray[np.float32]:
    """Probabilities of the fields that were read, row by row: float32 (N, classes)."""
    return np.asarray(grade_map.probability_khw[:, grade_map.valid_hw].T)


def measure_whole_slide(report: Report, slide: BenchSlide) -> None:
    """Wall time of a whole slide with a MobileNetV3-L student at 2.5x, tissue search included."""
    own = in_bf16(predictor("mobilenet_v3_large", "2.5x"))
    entry = SlideEntry(path=slide.path, name=slide.path.stem)
    timed = measure({"whole slide": partial(predict_fields, own, entry)}, report.options.rounds)
    report.timings(timed, "fields")
    fields = timed["whole slide"][0].work
    report.raw["whole slide"] = {
        "fields": fields,
        "mm2": fields * 0.512**2,
        "precision": own.ready().precision,
        "CPU seconds": median(s.cpu for s in timed["whole slide"]),
    }
    seconds = median(s.wall for s in timed["whole slide"])
    name = "whole slide (200 mm2 by default), mobilenet_v3_large at 2.5x: wall seconds"
    report.ratio(name, seconds, 1.0, "lower")


if __name__ == "__main__":
    main()
