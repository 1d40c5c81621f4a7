"""Slides that are mixtures of known tissue types: for studies of region encoders.

A slide is a set of regions of g x g tiles, each region of one tissue type. A type is a set of kinds
of tile that occur together: four are *pairs*, half of the tiles of one kind and half of its
opposite, and one is *plain*, all of a kind between all others. In the embeddings of tiles opposite
kinds point opposite ways, so the mean over a region's tiles is the same for every type, and what
tells types is which kinds occur together. Every slide has regions of all types. The label says
which types prevail: pairs a and b are the most frequent under one, pairs c and d under the other.

====  =======  ===================
type  name     kinds of tile
====  =======  ===================
0     pair a   0 and 1, half each
1     pair b   2 and 3, half each
2     pair c   4 and 5, half each
3     pair d   6 and 7, half each
4     plain    8
====  =======  ===================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from wsikd.core.errors import ConfigError
from wsikd.synthetic.pyramid import write_pyramid

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

LABELS = ("a and b", "c and d")
TYPES = ("pair a", "pair b", "pair c", "pair d", "plain")
KINDS = 9
PLAIN = 4
"""The type of one kind."""
LENGTH = 8.0
"""Of what a kind adds to an embedding."""
MAIN, PLAIN_SHARE = (0.60, 0.80), (0.15, 0.30)
"""Share of the label's types among pairs, and of plain regions in a slide: lowest and highest."""
BALANCE = (0.35, 0.65)
"""Share of the first type in its label's."""
_GLASS = 243
_KIND_SEED = 7


@dataclass(frozen=True)
class Mixture:
    """A planned slide.

    Attributes:
        name: of the slide.
        patient: some have two slides, of one label.
        label: of ``LABELS``.
        types: int64 (n,), of each region, index into ``TYPES``.
        kinds: int64 (n, g, g), kind of each tile, 0 to 8.
        seed: entropy of what is drawn from the plan; ``patient_seed`` that of the patient's stain.
    """

    name: str
    patient: str
    label: str
    types: NDArray[np.int64]
    kinds: NDArray[np.int64]
    seed: tuple[int, ...]
    patient_seed: tuple[int, ...]


def plan_mixtures(*, seed: int, slides: int, regions: tuple[int, int], grid: int) -> list[Mixture]:
    """Plan a cohort; every third patient has two slides.

    Args:
        seed: of everything.
        slides: how many; labels take turns by patient.
        regions: least and most of a slide.
        grid: g, tiles along a region's side.

    Raises:
        ConfigError: the numbers make no cohort.
    """
    if not 8 <= regions[0] <= regions[1]:
        raise ConfigError("regions", f"{list(regions)} will not do", "give [8 or more, no fewer]")
    if grid < 4 or grid % 2:
        raise ConfigError("grid", f"{grid} is odd or too small", "give 4, 6, 8, ...")
    planned: list[Mixture] = []
    patient = 0
    while len(planned) < slides:
        for _ in range(2 if patient % 3 == 2 else 1):
            if len(planned) < slides:
                planned.append(_plan(seed, len(planned), patient, regions, grid))
        patient += 1
    return planned


def _plan(seed: int, index: int, patient: int, regions: tuple[int, int], grid: int) -> Mixture:
    rng = np.random.default_rng([seed, index])
    label = patient % 2
    count = int(rng.integers(regions[0], regions[1] + 1))
    plain = max(1, round(count * rng.uniform(*PLAIN_SHARE)))
    own = round((count - plain) * rng.uniform(*MAIN))
    types = [np.full(plain, PLAIN)]
    for side, size in ((label, own), (1 - label, count - plain - own)):
        first = round(size * rng.uniform(*BALANCE))
        types.append(np.where(np.arange(size) < first, 2 * side, 2 * side + 1))
    drawn = rng.permutation(np.concatenate(types)).astype(np.int64)
    kinds = np.stack([lay_out(rng, int(t), grid) for t in drawn])
    return Mixture(
        f"m{index:03d}", f"p{patient:03d}", LABELS[label], drawn, kinds, (seed, index, 1),
        (seed, patient, 2),
    )  # fmt: skip


def lay_out(rng: np.random.Generator, kind: int, grid: int) -> NDArray[np.int64]:
    """Kinds of tile of a region of a type: int64 (grid, grid); of two, exactly half of either."""
    if kind == PLAIN:
        return np.full((grid, grid), 2 * PLAIN, np.int64)
    second = rng.permutation(grid * grid) % 2
    return np.asarray(2 * kind + second.reshape(grid, grid), np.int64)


def draw_vectors(
    planned: Mixture, *, dim: int, noise: float, patient_shift: float
) -> NDArray[np.float32]:
    """Embeddings of a slide's tiles as a frozen encoder might give them.

    Each pair of kinds has an axis, the same in every slide, and its kinds lie at either end; the
    plain kind lies in the middle. Noise is added to each tile, and a shift to all of a patient.

    Args:
        planned: the slide.
        dim: numbers in an embedding, 4 or more.
        noise: deviation in each number, kinds being at ``LENGTH`` from the origin.
        patient_shift: length of the shift.

    Returns:
        float32 (n, dim, g, g).
    """
    drawn = np.random.default_rng(_KIND_SEED).standard_normal((dim, PLAIN))
    axes = LENGTH * np.linalg.qr(drawn)[0].T
    ends = np.stack([axes, -axes], 1).reshape(2 * PLAIN, dim)
    directions = np.concatenate([ends, np.zeros((1, dim))])
    shift = np.random.default_rng(planned.patient_seed).standard_normal(dim)
    shift *= patient_shift / np.linalg.norm(shift)
    rng = np.random.default_rng(planned.seed)
    tiles = directions[planned.kinds] + shift
    tiles = tiles + noise * rng.standard_normal(tiles.shape)
    return np.ascontiguousarray(np.moveaxis(tiles, -1, 1), np.float32)


def draw_tile(rng: np.random.Generator, kind: int, side: int) -> NDArray[np.float64]:
    """Density of stain of one tile, float64 (side, side).

    Kinds: 0 many small nuclei, 1 few large ones, 2 a clear lumen within nuclei, 3 dark strands,
    4 some small nuclei and one large one, 5 a lumen between strands, 6 a dense field, 7 a dense
    field with a lumen, 8 pale fibres.
    """
    image = np.full((side, side), 0.55 if kind in (6, 7) else 0.25)
    if kind in (3, 5, 8):
        value, count = {3: (0.9, 3), 8: (0.34, 4), 5: (0.9, 2)}[kind]
        for _ in range(count):
            x, y = rng.uniform(0, side, 2)
            run, slope = side, rng.uniform(-0.3, 0.3) * side
            dx, dy = (run, slope) if kind == 8 else (slope, run)
            cv2.line(image, _whole((x - dx, y - dy)), _whole((x + dx, y + dy)), value, 2)
    if kind in (2, 5, 7):
        reach = side // 3 if kind == 2 else side // 4
        cv2.circle(image, _whole(side / 2 + rng.uniform(-2, 2, 2)), reach, 0.02, -1)
    nuclei = {0: (9, 0), 1: (0, 2), 2: (5, 0), 4: (5, 1), 5: (2, 0)}.get(kind, (0, 0))
    for count, radius in zip(nuclei, (side // 14, side // 5), strict=True):
        for _ in range(count):
            spot = rng.uniform(0.1 * side, 0.9 * side, 2)
            if kind in (2, 5):
                turn = rng.uniform(0, 2 * np.pi)
                spot = side / 2 + 0.42 * side * np.array([np.cos(turn), np.sin(turn)])
            cv2.circle(image, _whole(spot), max(1, radius), float(rng.uniform(0.8, 1.1)), -1)
    return image


def _whole(point: NDArray[np.float64] | tuple[float, float]) -> tuple[int, int]:
    return round(float(point[0])), round(float(point[1]))


def region_corners(count: int, side: int) -> NDArray[np.int64]:
    """Level-0 (x, y) of the corners of a slide's regions, in rows within a rim of glass.

    Args:
        count: of regions.
        side: of a region in level-0 px, also the width of the rim.

    Returns:
        int64 (count, 2).
    """
    columns = int(np.ceil(np.sqrt(count)))
    place = np.arange(count)
    return (np.stack([place % columns, place // columns], 1) + 1) * side


def stain_tiles(
    rng: np.random.Generator, density: NDArray[np.float64], patient_seed: tuple[int, ...]
) -> NDArray[np.uint8]:
    """Densities (..., height, width) in a patient's stain, with grain: uint8 (..., 3), RGB."""
    stain = np.random.default_rng(patient_seed)
    colour = np.array([0.6, 0.95, 0.5]) * stain.uniform(0.85, 1.15, 3)
    image = np.empty((*density.shape, 3), np.uint8)
    for k in range(3):
        light = _GLASS * 10 ** (-density * colour[k]) + rng.normal(0, 3, density.shape)
        image[..., k] = np.clip(np.round(light), 0, 255)
    return image


def draw_slide(planned: Mixture, tile_px: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Draw a slide: its regions in rows, stained as its patient is, with glass around.

    Args:
        planned: the slide.
        tile_px: side of a tile in level-0 px.

    Returns:
        uint8 (height, width, 3), RGB; and :func:`region_corners`.
    """
    rng = np.random.default_rng(planned.seed)
    side = planned.kinds.shape[1] * tile_px
    corners = region_corners(len(planned.kinds), side)
    width, height = corners.max(0) + 2 * side
    density = np.full((height, width), 0.004)
    for (x, y), kinds in zip(corners.tolist(), planned.kinds, strict=True):
        for (row, column), kind in np.ndenumerate(kinds):
            top, left = y + row * tile_px, x + column * tile_px
            tile = draw_tile(rng, int(kind), tile_px)
            density[top : top + tile_px, left : left + tile_px] = tile
    return stain_tiles(rng, density, planned.patient_seed), corners


def write_mixture(folder: Path, planned: Mixture, *, tile_px: int, mpp: float) -> Path:
    """Write a slide as ``<name>.svs`` unless it is there; returns its path. Raises OutputError."""
    path = folder / f"{planned.name}.svs"
    if not path.exists():
        image, _ = draw_slide(planned, tile_px)
        write_pyramid(path, image, mpp=mpp, power=10 / mpp, downsamples=(1, 4), quality=90)
    return path
