"""Slides that are mixtures of known tissue types: for studies of region encoders.

A slide is a set of regions of g x g tiles, each region of one tissue type. Types of one family hold
the same kinds of tile in the same numbers, half of either; only their arrangement differs, clumped
or dispersed. So the mean over a region's tiles is the same for both, and what tells them apart lies
in the grid. Every slide has a main type of either family, a few regions of the other types, and
stroma. The label is decided by the two main types together: "matched" where both are arranged
alike, "unmatched" where not. Each type, family and arrangement is as frequent under either label.

====  ==================  ======================================
type  kinds of tile       arrangement
====  ==================  ======================================
0     0 and 1 (family a)  clumped
1     0 and 1 (family a)  dispersed
2     2 and 3 (family b)  clumped
3     2 and 3 (family b)  dispersed
4     4 (stroma)          none
====  ==================  ======================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from wsikd.core.errors import ConfigError
from wsikd.slides.synthetic_pyramid import write_pyramid

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

LABELS = ("matched", "unmatched")
TYPES = ("clumped a", "dispersed a", "clumped b", "dispersed b", "stroma")
KINDS = 5
STROMA = 4
MAIN, STROMA_SHARE = (0.70, 0.90), (0.15, 0.30)
"""Share of the main type in its family, and of stroma in a slide: lowest and highest."""
BALANCE = (0.40, 0.60)
"""Share of family a among what is not stroma."""
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
        kinds: int64 (n, g, g), kind of each tile, 0 to 4.
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
        slides: how many; the four pairs of main types take turns by patient.
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
    main = (patient % 2, patient // 2 % 2)
    count = int(rng.integers(regions[0], regions[1] + 1))
    stroma = max(1, round(count * rng.uniform(*STROMA_SHARE)))
    first = round((count - stroma) * rng.uniform(*BALANCE))
    types = [np.full(stroma, STROMA)]
    for family, size in enumerate((first, count - stroma - first)):
        own = round(size * rng.uniform(*MAIN))
        arranged = np.where(np.arange(size) < own, main[family], 1 - main[family])
        types.append(2 * family + arranged)
    drawn = rng.permutation(np.concatenate(types)).astype(np.int64)
    kinds = np.stack([lay_out(rng, int(t), grid) for t in drawn])
    label = LABELS[int(main[0] != main[1])]
    return Mixture(
        f"m{index:03d}", f"p{patient:03d}", label, drawn, kinds, (seed, index, 1),
        (seed, patient, 2),
    )  # fmt: skip


def lay_out(rng: np.random.Generator, kind: int, grid: int) -> NDArray[np.int64]:
    """Kinds of tile of a region of a type: int64 (grid, grid), exactly half of either kind."""
    if kind == STROMA:
        return np.full((grid, grid), STROMA, np.int64)
    field = rng.standard_normal((grid, grid))
    if kind % 2 == 0:
        field = np.asarray(cv2.GaussianBlur(field, (0, 0), 1.2, borderType=cv2.BORDER_REFLECT))
    else:
        for _ in range(2):
            field = np.asarray(cv2.Laplacian(field, cv2.CV_64F, borderType=cv2.BORDER_REFLECT))
    second = np.zeros(grid * grid, np.int64)
    second[np.argsort(field, axis=None)[grid * grid // 2 :]] = 1
    return 2 * (kind // 2) + second.reshape(grid, grid)


def draw_vectors(
    planned: Mixture, *, dim: int, noise: float, patient_shift: float
) -> NDArray[np.float32]:
    """Embeddings of a slide's tiles as a frozen encoder might give them.

    Each kind has a direction, the same in every slide; noise is added to each tile, and a shift to
    all tiles of a patient.

    Args:
        planned: the slide.
        dim: numbers in an embedding, 5 or more.
        noise: deviation in each number, directions having length 1.
        patient_shift: length of the shift.

    Returns:
        float32 (n, dim, g, g).
    """
    directions = np.linalg.qr(np.random.default_rng(_KIND_SEED).standard_normal((dim, KINDS)))[0].T
    shift = np.random.default_rng(planned.patient_seed).standard_normal(dim)
    shift *= patient_shift / np.linalg.norm(shift)
    rng = np.random.default_rng(planned.seed)
    tiles = directions[planned.kinds] + shift
    tiles = tiles + noise * rng.standard_normal(tiles.shape)
    return np.ascontiguousarray(np.moveaxis(tiles, -1, 1), np.float32)


def draw_tile(rng: np.random.Generator, kind: int, side: int) -> NDArray[np.float64]:
    """Density of stain of one tile, float64 (side, side).

    Kinds: 0 many small nuclei, 1 few large ones, 2 a clear lumen within nuclei, 3 dark strands,
    4 pale fibres.
    """
    image = np.full((side, side), 0.25)
    if kind == 4:
        for _ in range(4):
            x, y = rng.uniform(0, side, 2)
            slope = rng.uniform(-0.3, 0.3) * side
            _line(image, (x - side, y - slope), (x + side, y + slope), 0.34)
        return image
    if kind == 3:
        for _ in range(3):
            x, y = rng.uniform(0, side, 2)
            slope = rng.uniform(-0.3, 0.3) * side
            _line(image, (x - slope, y - side), (x + slope, y + side), 0.9)
        return image
    if kind == 2:
        cv2.circle(image, _whole(side / 2 + rng.uniform(-2, 2, 2)), side // 3, 0.02, -1)
    count, radius = {0: (9, side // 14), 1: (2, side // 5), 2: (5, side // 14)}[kind]
    for _ in range(count):
        spot = rng.uniform(0.1 * side, 0.9 * side, 2)
        if kind == 2:
            turn = rng.uniform(0, 2 * np.pi)
            spot = side / 2 + 0.42 * side * np.array([np.cos(turn), np.sin(turn)])
        cv2.circle(image, _whole(spot), max(1, radius), float(rng.uniform(0.8, 1.1)), -1)
    return image


def _line(
    image: NDArray[np.float64], a: tuple[float, float], b: tuple[float, float], value: float
) -> None:
    cv2.line(image, _whole(a), _whole(b), value, 2)


def _whole(point: NDArray[np.float64] | tuple[float, float]) -> tuple[int, int]:
    return round(float(point[0])), round(float(point[1]))


def draw_slide(planned: Mixture, tile_px: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Draw a slide: its regions in rows, stained as its patient is, with glass around.

    Args:
        planned: the slide.
        tile_px: side of a tile in level-0 px.

    Returns:
        uint8 (height, width, 3), RGB; and int64 (n, 2), level-0 (x, y) of each region's corner.
    """
    rng = np.random.default_rng(planned.seed)
    count, grid = planned.kinds.shape[:2]
    side = grid * tile_px
    columns = int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    density = np.full(((rows + 2) * side, (columns + 2) * side), 0.004)
    corners = np.empty((count, 2), np.int64)
    for n, kinds in enumerate(planned.kinds):
        corners[n] = (n % columns + 1) * side, (n // columns + 1) * side
        x, y = corners[n]
        for (row, column), kind in np.ndenumerate(kinds):
            top, left = y + row * tile_px, x + column * tile_px
            tile = draw_tile(rng, int(kind), tile_px)
            density[top : top + tile_px, left : left + tile_px] = tile
    stain = np.random.default_rng(planned.patient_seed)
    colour = np.array([0.6, 0.95, 0.5]) * stain.uniform(0.85, 1.15, 3)
    image = np.empty((*density.shape, 3), np.uint8)
    for k in range(3):
        light = _GLASS * 10 ** (-density * colour[k]) + rng.normal(0, 3, density.shape)
        image[..., k] = np.clip(np.round(light), 0, 255)
    return image, corners


def write_mixture(folder: Path, planned: Mixture, *, tile_px: int, mpp: float) -> Path:
    """Write a slide as ``<name>.svs`` unless it is there; returns its path. Raises OutputError."""
    path = folder / f"{planned.name}.svs"
    if not path.exists():
        image, _ = draw_slide(planned, tile_px)
        write_pyramid(path, image, mpp=mpp, power=10 / mpp, downsamples=(1, 4), quality=90)
    return path
