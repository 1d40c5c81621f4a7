"""A 10x network against the same network at 2.5x, end to end; see benchmarks/README.md.

The networks are untrained: only their cost is of interest. Both read the same fields of 512 um, a
block of tissue in the middle of the slide, in full precision. Finding the tissue is timed once for
the whole slide, and each field carries its share of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
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
import numpy as np
import openslide
import torch
from PIL import Image
from synthetic import MPP, synthetic_slide, window_mask

from wsikd.grade.predict import PredictSettings, SlidePredictor
from wsikd.models.bundle import InputSpec
from wsikd.models.grader import build_grader
from wsikd.slides.base import open_slide
from wsikd.slides.manifest import SlideEntry
from wsikd.slides.tissue import find_tissue
from wsikd.tiles.grid import TileGrid

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray
    from synthetic import BenchSlide

    from wsikd.grade.grademap import GradeMap

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


DEFAULT = Sizes(16_384, 0.477, 40_960, {"vgg16": 3, "resnet18": 5, "mobilenet_v3_large": 5}, 8)
SMALLEST = Sizes(1536, 1.0, 1536, {"mobilenet_v3_large": 1}, 1)


def main() -> None:
    """Measure and report."""
    given = options("infer")
    sizes = SMALLEST if given.smallest else DEFAULT
    report = Report(given)
    report.raw["torch threads"] = torch.get_num_threads()
    with workplace(given) as (folder, scratch):
        slides = {
            name: synthetic_slide(folder, sizes.side_px, downsamples=levels, share=sizes.share)
            for name, levels in SLIDES.items()
        }
        measure_forward(report, sizes)
        measure_end_to_end(report, slides, sizes, scratch)
        measure_loader(report, slides["levels 1/4/16"], sizes, scratch)
        big = synthetic_slide(folder, sizes.big_px, share=sizes.share)
        measure_whole_slide(report, big)
    report.finish()


def network(arch: str) -> torch.nn.Module:
    """An untrained grader in eval mode; the same weights at each call."""
    torch.manual_seed(0)
    return build_grader(arch, len(CLASSES)).eval()


def predictor(arch: str, route: str) -> SlidePredictor:
    """A predictor at 10x or 2.5x."""
    mpp, patch_px = ROUTES[route]
    spec = InputSpec(mpp, patch_px, (0.0,) * 3, (1.0,) * 3, CLASSES)
    settings = PredictSettings(min_tissue=0.5)
    return SlidePredictor(network(arch), spec, device="cpu", settings=settings)


def measure_forward(report: Report, sizes: Sizes) -> None:
    """Forward passes alone, random pixels, the same megapixels a batch."""
    run: dict[str, Callable[[], float]] = {}
    rng = np.random.default_rng(1)
    for arch in sizes.fields:
        for route, (_, patch_px) in ROUTES.items():
            count = 1 if patch_px == 512 else 16
            patches = rng.integers(0, 256, (count, patch_px, patch_px, 3), np.uint8)
            run[f"{arch} {route} forward"] = partial(forward, predictor(arch, route), patches)
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


def forward(own: SlidePredictor, patches: NDArray[np.uint8]) -> float:
    """Probabilities of one batch."""
    return len(own._forward(patches))


def measure_end_to_end(
    report: Report, slides: dict[str, BenchSlide], sizes: Sizes, scratch: Path
) -> None:
    """Open, read, decode, resize and forward at both magnifications, on both kinds of slide."""
    run: dict[str, Callable[[], float]] = {}
    for kind, slide in slides.items():
        run[f"tissue, {kind}"] = partial(tissue_fields, slide)
        for arch, side in sizes.fields.items():
            mask = block_mask(slide, side, scratch / f"{arch}-{PAGES[kind]}.geojson")
            entry = SlideEntry(path=slide.path, name=slide.path.stem, mask=mask)
            for route in ROUTES:
                own = predictor(arch, route)
                run[f"{arch} {route}, {kind}"] = partial(predict_fields, own, entry)
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


def predict_fields(own: SlidePredictor, entry: SlideEntry) -> float:
    """Open the slide and predict; returns the number of fields."""
    return int(own.predict_entry(entry).valid_hw.sum())


def tissue_fields(slide: BenchSlide) -> float:
    """Find the tissue of the slide; returns how many fields of 512 um it has."""
    with open_slide(slide.path) as opened:
        cover = TileGrid.plan(opened, 4.0, 128).cover(find_tissue(opened))
    return float((cover >= 0.5).sum())


def measure_loader(report: Report, slide: BenchSlide, sizes: Sizes, scratch: Path) -> None:
    """A 2.5x student against a torch DataLoader over OpenSlide patches, same weights and fields."""
    arch = next(iter(sizes.fields)) if report.options.smallest else "resnet18"
    mask = block_mask(slide, sizes.peer_fields, scratch / "peer.geojson")
    entry = SlideEntry(path=slide.path, name=slide.path.stem, mask=mask)
    own = predictor(arch, "2.5x")
    rows, columns = slide.window(512 / MPP, sizes.peer_fields, sizes.peer_fields)
    peer = LoaderPeer(slide.path, rows, columns, network(arch))
    ours = own.predict_entry(entry)
    difference = float(np.abs(values(ours) - peer.predict()).max())
    bar = 1e-3
    name = f"{arch}, predictions at 2.5x: largest difference from DataLoader over OpenSlide"
    report.ratio(name, difference, bar, "lower")
    run = {
        f"{arch} 2.5x, wsikd": partial(predict_fields, own, entry),
        f"{arch} 2.5x, DataLoader": lambda: float(len(peer.predict())),
    }
    timed = measure(run, report.options.rounds)
    report.timings(timed, "fields")
    ours_name, peer_name = run
    report.speed(f"{arch} at 2.5x: wsikd / DataLoader over OpenSlide", (ours_name, peer_name),
                 2, timed)  # fmt: skip


def values(grade_map: GradeMap) -> NDArray[np.float32]:
    """Probabilities of the fields that were read, row by row: float32 (N, classes)."""
    return np.asarray(grade_map.probability_khw[:, grade_map.valid_hw].T)


class SlidePatches(torch.utils.data.Dataset[torch.Tensor]):
    """Patches of 128 px at 4 um/px, read as a plain script does: level 1 and a PIL resize."""

    def __init__(self, path: Path, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> None:
        """Open the slide."""
        self.slide = openslide.OpenSlide(path)
        self.corners = [(x * 1024, y * 1024) for y, x in zip(rows, columns, strict=True)]

    def __len__(self) -> int:
        return len(self.corners)

    def __getitem__(self, index: int) -> torch.Tensor:
        x, y = (int(v) for v in self.corners[index])
        region = self.slide.read_region((x, y), 1, (256, 256)).convert("RGB")
        patch = region.resize((128, 128), Image.Resampling.BOX)
        return torch.from_numpy(np.array(patch)).permute(2, 0, 1)


class LoaderPeer:
    """The plain way: a DataLoader in the main process, the cheapest in CPU time."""

    def __init__(
        self,
        path: Path,
        rows: NDArray[np.int64],
        columns: NDArray[np.int64],
        net: torch.nn.Module,
    ) -> None:
        """Keep what is needed; the slide is opened at each run."""
        self.place, self.net = (path, rows, columns), net

    @torch.inference_mode()
    def predict(self) -> NDArray[np.float32]:
        """Probabilities of all fields: float32 (N, classes)."""
        patches = SlidePatches(*self.place)
        loader = torch.utils.data.DataLoader(patches, batch_size=32)
        found = [torch.softmax(self.net(batch), 1).numpy() for batch in loader]
        patches.slide.close()
        return np.concatenate(found)


def measure_whole_slide(report: Report, slide: BenchSlide) -> None:
    """Wall time of a whole slide with a MobileNetV3-L student at 2.5x, tissue search included."""
    own = predictor("mobilenet_v3_large", "2.5x")
    entry = SlideEntry(path=slide.path, name=slide.path.stem)
    timed = measure({"whole slide": partial(predict_fields, own, entry)}, report.options.rounds)
    report.timings(timed, "fields")
    fields = timed["whole slide"][0].work
    report.raw["whole slide"] = {"fields": fields, "mm2": fields * 0.512**2}
    seconds = median(s.wall for s in timed["whole slide"])
    name = "whole slide (200 mm2 by default), mobilenet_v3_large at 2.5x: wall seconds"
    report.ratio(name, seconds, 1.0, "lower")


if __name__ == "__main__":
    main()
