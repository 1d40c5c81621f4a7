"""Slides whose label depends on a few rare cells: for studies of multiple-instance learning.

Every slide holds tissue with ordinary nuclei, small dark *debris* and clear *vacuoles*; a positive
one also holds a few *rare* cells, a large dark nucleus in a clear halo. Debris is as dark as they
and vacuoles are as clear, and both are drawn whatever the label, so neither alone tells the slides
apart; the stains, the amount of tissue and the number of ordinary nuclei do not either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from wsikd.core.errors import ConfigError
from wsikd.core.output.cells import csv_text
from wsikd.core.run import write_text_atomic
from wsikd.synthetic.glands import noise
from wsikd.synthetic.pyramid import write_pyramid

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

MPP = 1.0
LABELS = ("negative", "positive")
KINDS = ("rare", "debris", "vacuole")
FEWEST, MOST = 3, 6
"""Rare cells of a positive slide."""
PER_MM2 = {"debris": 30, "vacuole": 20}
SHAPES = {
    f"disc {disc}, nucleus {nucleus}": (disc, nucleus)
    for disc in (0, 8, 13, 18)
    for nucleus in (0, 3, 7, 11)
    if disc + nucleus and (disc, nucleus) not in ((13, 7), (8, 11))
}
"""Radii in um of a clear disc and of a dark nucleus on it, 0 for none: all but those of a rare cell
(and one that would not fit): shapes to learn seeing from."""
NUCLEUS_UM2 = 320
"""Tissue to each ordinary nucleus."""
SMALLEST_PX = 256
_SPLITS = ("train", "train", "test", "val", "train", "test", "train", "val", "test", "train")
_GLASS = 243


@dataclass(frozen=True)
class CellSlide:
    """A slide of the cohort and its truth.

    Attributes:
        path: the slide.
        label: of ``LABELS``: positive where there is a rare cell.
        split: train, val or test.
        boxes: of the rare cells, int64 (n, 4): left, top, right, bottom in level-0 px, the right
            and bottom edges outside.
    """

    path: Path
    label: str
    split: str
    boxes: NDArray[np.int64]


def draw_cells(
    seed: tuple[int, ...], size_px: int, *, rare: int
) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.int64]]]:
    """Draw one slide at 1 um per pixel.

    Args:
        seed: entropy; everything but the rare cells is the same for every ``rare``.
        size_px: side of the slide.
        rare: how many rare cells.

    Returns:
        uint8 (size_px, size_px, 3), RGB, and the boxes of each of ``KINDS``, see
        :class:`CellSlide`.
    """
    rng = np.random.default_rng(list(seed))
    tissue, density, free = _ground(rng, size_px)
    boxes: dict[str, NDArray[np.int64]] = {}
    own = {kind: np.random.default_rng([*seed, k]) for k, kind in enumerate(KINDS, start=1)}
    for kind in ("vacuole", "debris", "rare"):
        wanted = rare if kind == "rare" else round(PER_MM2[kind] * tissue.sum() / 1e6)
        found = [_object(own[kind], kind, density, free) for _ in range(wanted)]
        boxes[kind] = np.array(found, np.int64).reshape(-1, 4)
    return _seen(rng, tissue, density), {kind: boxes[kind] for kind in KINDS}


def draw_shapes(
    seed: tuple[int, ...], size_px: int, each: int
) -> tuple[NDArray[np.uint8], list[tuple[str, int, int]]]:
    """Draw a slide of the same tissue with every one of ``SHAPES``, and no rare cell.

    Args:
        seed: entropy.
        size_px: side of the slide at 1 um per pixel.
        each: how many of each, fewer where there is no room.

    Returns:
        uint8 (size_px, size_px, 3), RGB, and what lies where: (shape, x, y), level-0 px.
    """
    rng = np.random.default_rng(list(seed))
    tissue, density, free = _ground(rng, size_px)
    placed = []
    for name in list(SHAPES) * each:
        rows, columns = np.nonzero(free)
        if not len(rows):
            break
        place = int(rng.integers(len(rows)))
        x, y = int(columns[place]), int(rows[place])
        disc, nucleus = SHAPES[name]
        if disc:
            side = disc + int(rng.integers(-1, 2))
            _ellipse(density, (x, y), (side, side), 0, rng.uniform(0.02, 0.06))
        if nucleus:
            axes = nucleus + rng.uniform(-1, 1, 2)
            _ellipse(density, (x, y), axes, rng.uniform(0, 180), rng.uniform(1.1, 1.4))
        cv2.circle(free, (x, y), 34, 0, -1)
        placed.append((name, x, y))
    return _seen(rng, tissue, density), placed


def _ground(
    rng: np.random.Generator, size_px: int
) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.uint8]]:
    """Where tissue is, its density with ordinary nuclei, and where there is room for more."""
    shape = (size_px, size_px)
    tissue = _tissue(rng, size_px)
    density = 0.22 + 0.05 * noise(rng, shape, 90) + 0.03 * noise(rng, shape, 6)
    count = int(tissue.sum()) // NUCLEUS_UM2
    for x, y in rng.integers(0, size_px, (count, 2)):
        axes = rng.uniform(3.5, 6, 2)
        _ellipse(density, (x, y), axes, rng.uniform(0, 180), rng.uniform(0.5, 0.8))
    eroded = cv2.erode(tissue.astype(np.uint8), np.ones((41, 41), np.uint8))
    free = np.asarray(eroded, np.uint8)
    free[:20], free[-20:], free[:, :20], free[:, -20:] = 0, 0, 0, 0
    return tissue, density, free


def _seen(
    rng: np.random.Generator, tissue: NDArray[np.bool_], density: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """What a scanner sees of it: uint8 RGB."""
    grain = rng.normal(0, 0.015, density.shape)
    density = np.where(tissue, np.maximum(density + grain, 0), 0.004)
    image = _GLASS * 10 ** -(cv2.GaussianBlur(density, (0, 0), 0.7)[..., None] * _stain(rng))
    return np.asarray(np.round(image), np.uint8)


def _stain(rng: np.random.Generator) -> NDArray[np.float64]:
    """Optical density in red, green and blue, per unit of density: never grey, as glass is."""
    return np.asarray(np.array([0.6, 0.95, 0.5]) * rng.uniform(0.88, 1.12, 3))


def _tissue(rng: np.random.Generator, size_px: int) -> NDArray[np.bool_]:
    """One piece of tissue that fills most of the slide."""
    y, x = np.mgrid[:size_px, :size_px] / (size_px / 2) - 1
    radius = (np.abs(x) ** 3 + np.abs(y) ** 3) ** (1 / 3)
    return np.asarray(radius + 0.05 * noise(rng, (size_px, size_px), size_px / 6) < 0.9)


def _object(
    rng: np.random.Generator,
    kind: str,
    density: NDArray[np.float64],
    free: NDArray[np.uint8],
) -> tuple[int, int, int, int]:
    """Draw one where there is room, take the room, and tell its box."""
    rows, columns = np.nonzero(free)
    if not len(rows):
        raise ConfigError("size_px", f"leaves no room for every {kind}", "draw larger slides")
    place = int(rng.integers(len(rows)))
    x, y = int(columns[place]), int(rows[place])
    side = {"rare": 13, "debris": 4, "vacuole": 12}[kind] + int(rng.integers(-1, 2))
    if kind != "debris":
        _ellipse(density, (x, y), (side, side), 0, rng.uniform(0.02, 0.06))
    if kind != "vacuole":
        axes = rng.uniform(6, 8.5, 2) if kind == "rare" else np.full(2, side - 1.0)
        _ellipse(density, (x, y), axes, rng.uniform(0, 180), rng.uniform(1.1, 1.4))
    cv2.circle(free, (x, y), 34, 0, -1)
    return x - side, y - side, x + side + 1, y + side + 1


def _ellipse(
    density: NDArray[np.float64],
    centre: tuple[int, int],
    axes: tuple[float, float] | NDArray[np.float64],
    angle: float,
    value: float,
) -> None:
    whole = (round(float(axes[0])), round(float(axes[1])))
    cv2.ellipse(density, (int(centre[0]), int(centre[1])), whole, angle, 0, 360, value, -1)


def write_cells(folder: Path, *, seed: int, slides: int, size_px: int) -> list[CellSlide]:
    """Write a cohort: ``cells-01.svs`` and so on, and ``labels.csv`` (slide, label, split).

    Every second slide is positive. Half of the slides are for training, a fifth for validation,
    the rest for the test; each part holds as many of either label. A slide depends only on the seed
    and its own number.

    Args:
        folder: where to; made where it is missing.
        seed: of everything drawn.
        slides: how many, an even number.
        size_px: side of a slide at 1 um per pixel.

    Raises:
        ConfigError: the slides are too few, too small, or of an odd number.
        OutputError: the folder cannot be written.
    """
    if slides < 8 or slides % 2:
        raise ConfigError("slides", f"{slides} do not make a cohort", "ask for 8, 10, 12, ...")
    if size_px < SMALLEST_PX:
        raise ConfigError("size_px", f"{size_px} is too small", f"ask for {SMALLEST_PX} or more")
    made = [_write(folder, seed, k, size_px) for k in range(slides)]
    rows = [("slide", "label", "split"), *((s.path.stem, s.label, s.split) for s in made)]
    write_text_atomic(folder / "labels.csv", csv_text(rows[0], rows[1:]))
    return made


def _write(folder: Path, seed: int, index: int, size_px: int) -> CellSlide:
    rng = np.random.default_rng([seed, index, 0])
    rare = int(rng.integers(FEWEST, MOST + 1)) if index % 2 else 0
    image, boxes = draw_cells((seed, index), size_px, rare=rare)
    path = folder / f"cells-{index + 1:02d}.svs"
    if not path.exists():
        write_pyramid(path, image, mpp=MPP, power=10, downsamples=(1, 4), quality=90)
    label = LABELS[int(len(boxes["rare"]) > 0)]
    return CellSlide(path, label, _SPLITS[index // 2 % len(_SPLITS)], boxes["rare"])
