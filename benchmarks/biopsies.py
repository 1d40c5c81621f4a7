"""The biopsies that the cohort benchmark grades, and the two networks: drawn once, seeded.

A slide of the demo takes 15 CPU seconds to draw. So one slide in eight is drawn, and the others are
its turned and mirrored images, each a file of its own with tiles of its own.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from wsikd.models.files.bundle import InputSpec, save_bundle
from wsikd.models.graders.pooled import build_grader
from wsikd.models.guard import Sample, fit_guard
from wsikd.slides.appearance import Appearance, field_statistics
from wsikd.slides.base import open_slide
from wsikd.slides.scaled_view import Canvas
from wsikd.slides.texture import texture, tissue_share
from wsikd.slides.tissue.find import find_tissue
from wsikd.synthetic.cohort import class_weights, write_pyramid
from wsikd.synthetic.glands import GRADES
from wsikd.synthetic.tissue import plan_tissue, render_strips
from wsikd.tiles.grid import TileGrid
from wsikd.tiles.stream import stream_patches

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Fields = tuple[NDArray[np.uint8], list[str]]

ARCH, SEED, MPP, MIN_TISSUE = "vgg_small", 100, 0.5, 0.1
SIDES = 8
"""Images of a drawn slide: four turns, each as it is and mirrored."""
NETWORKS = {"student": (4.0, 64), "teacher": (1.0, 256)}
"""um/px and px of a field of 256 um, as in the demo."""
SHARES = {
    "format": 1, "slides": 24, "level": 0.95, "prior": [0.25] * 4, "mix": [0.3, 0.3, 0.4],
    "scale": [0.001, 0.02], "quantile": 2.2,
}  # fmt: skip
"""Errors of shares on imagined validation slides: with them a slide gets intervals."""


@dataclass(frozen=True)
class Cohort:
    """Slides, and the bundles that grade them by name."""

    slides: list[Path]
    networks: dict[str, Path]


def draw_biopsies(folder: Path, count: int, side_px: int) -> list[Path]:
    """Draw biopsies, or find them drawn: at 0.5 um/px, levels 1/4/16, JPEG tiles of 256 px.

    Args:
        folder: where they go, in a folder of their own.
        count: how many.
        side_px: of level 0; 6,144 px hold about 95 fields of 256 um with tissue.
    """
    own = folder / f"biopsies-{SEED}-{side_px}px"
    own.mkdir(parents=True, exist_ok=True)
    paths = [own / f"b{number:03d}.svs" for number in range(count)]

    def draw(index: int) -> None:
        some = paths[index * SIDES : (index + 1) * SIDES]
        if all(path.exists() for path in some):
            return
        print(f"drawing {some[0].name} to {some[-1].name}", file=sys.stderr, flush=True)
        weights = class_weights(index, len(GRADES))
        plan = plan_tissue((SEED, index), (side_px, side_px), MPP, GRADES, weights)
        rgb = np.concatenate(list(render_strips(plan)))
        for number, path in enumerate(some):
            turned = np.rot90(rgb if number < SIDES // 2 else rgb[:, ::-1], number % 4)
            if not path.exists():
                write_pyramid(path, np.ascontiguousarray(turned), mpp=MPP, power=20)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(draw, range(-(-count // SIDES))))
    return paths


def save_networks(folder: Path, slides: Sequence[Path]) -> dict[str, Path]:
    """Bundles of untrained networks with all that a trained one has: see :func:`_save_network`."""
    return {name: _save_network(folder / name, slides, *NETWORKS[name]) for name in NETWORKS}


def _save_network(folder: Path, slides: Sequence[Path], mpp: float, patch_px: int) -> Path:
    """A network with seeded weights, a temperature, intervals, an appearance and a guard.

    Its head is scaled so that fields of some slides spread over all classes, as after a training.
    """
    torch.manual_seed(SEED)
    network = build_grader(ARCH, len(GRADES), input_norm="imagenet").eval()
    found = [(_some_fields(path, mpp, patch_px, 32), path.stem) for path in slides]
    patches = np.concatenate([patches for patches, _ in found])
    names = [name for patches, name in found for _ in range(len(patches))]
    with torch.inference_mode():
        pooled = _seen(network, patches)
        logits = pooled @ network.head.weight.T
        scale = 3 / logits.std(0).clamp(min=1e-9)
        network.head.weight.data = network.head.weight.data * scale[:, None]
        network.head.bias.data = -(logits * scale).mean(0)
    looks = Appearance.of(np.array([field_statistics(patch) for patch in patches]), names)
    spec = InputSpec(mpp, patch_px, *_norm(network), GRADES)
    card: dict[str, Any] = {
        "temperature": 1.1, "min_area_mm2": 0.2, "benign": GRADES[:1], "shares": SHARES,
        "appearance": looks.as_card(),
    }  # fmt: skip
    card["benign"] = list(card["benign"])
    fields = Sample(texture(patches), names).with_tissue(tissue_share(patches))
    guard = fit_guard(fields, fields)
    return save_bundle(folder, network, spec, arch=ARCH, guard=guard, **card)


def _norm(network: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    mean, std = (tuple(v.flatten().tolist()) for v in (network.mean, network.std))
    return mean, std


def _seen(network: Any, patches: NDArray[np.uint8]) -> torch.Tensor:
    """What the head reads of patches: (N, channels)."""
    parts = np.array_split(patches, max(1, len(patches) // 32))
    return torch.cat([network.embed(torch.from_numpy(p).permute(0, 3, 1, 2)) for p in parts])


def _some_fields(path: Path, mpp: float, patch_px: int, most: int) -> NDArray[np.uint8]:
    """An even sample of a slide's fields: uint8 (N, patch_px, patch_px, 3)."""
    with open_slide(path) as slide:
        grid = TileGrid.plan(slide, mpp, patch_px)
        rows, columns = np.nonzero(grid.cover(find_tissue(slide)) >= MIN_TISSUE)
        chosen = np.unique(np.linspace(0, len(rows) - 1, most).round().astype(int))
        canvas = Canvas.plan(slide, mpp, close=True)
        batches = stream_patches(canvas, grid, rows[chosen], columns[chosen])
        return np.concatenate([patches.copy() for _, patches in batches])
