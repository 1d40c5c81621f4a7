"""Drawn prostate tissue: layout, glands, nuclei and stain of one synthetic slide.

Everything is planned on a raster four times coarser than level 0 (the *plan*; 2 um at 0.5 um/px)
and rendered in bands, so that a slide is never in memory as a whole. The grade shows in two
ways: in the architecture of the glands, which survives at 4 um/px, and in the nuclei, which do
not. In part of each grade's area the architecture imitates another grade, and only the nuclei
differ. Colour does not depend on the grade: see ``_gain`` for its local mean and
:mod:`wsikd.synthetic.colour` for its histograms.

Lengths in the tables and arguments named ``_um`` are micrometres; arrays are row-major.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from wsikd.synthetic.colour import FINE_UM, colour_shift, resized
from wsikd.synthetic.glands import GRADES, NUCLEI_SCALE, draw_glands, draw_nuclei, noise

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    Float = NDArray[np.float32]
    Bool = NDArray[np.bool_]

PLAN_PX = 4
BAND_PX = 512
KEPT_PX = 40_000_000  # larger slides are drawn twice instead of kept in memory
LN10 = math.log(10)

# How much of a grade's area borrows the architecture of another one.
MIMICS: dict[str, tuple[tuple[str, float], ...]] = {
    "NC": (("G3", 0.26),),
    "G3": (("NC", 0.14),),
    "G4": (("G3", 0.12), ("G5", 0.14)),
    "G5": (("G4", 0.24),),
}


@dataclass(frozen=True)
class Tissue:
    """A planned slide, ready to be rendered.

    Attributes:
        size_px: level-0 (width, height).
        um: micrometres per plan pixel.
        label: int8 (plan rows, plan columns), index into ``classes``, -1 on glass.
        masks: float32 plan fields in 0..1: tissue, epithelium, gap (lumina and clefts).
        eosin: float32 plan fields of optical density: stroma, epithelium, what fills the gaps.
        haematoxylin: float32 plan field, optical density of the epithelial cytoplasm.
        gain: float32 plan fields, local gain of (haematoxylin, eosin).
        hue: float32 (3, rows, columns), coarse gain of the optical density in R, G, B.
        nuclei: uint8 (height, width) at level 0, optical density of nuclei times ``NUCLEI_SCALE``.
        stains: float64 (2, 3), optical density of haematoxylin and eosin in R, G, B.
        glass: float32 (3, rows, columns), coarse R, G, B of the empty glass, 0 to 255.
        grain_seed: seeds the fine grain of the bands.
    """

    size_px: tuple[int, int]
    um: float
    label: NDArray[np.int8]
    masks: tuple[Float, Float, Float]
    eosin: tuple[Float, Float, Float]
    haematoxylin: Float
    gain: tuple[Float, Float]
    hue: Float
    nuclei: NDArray[np.uint8]
    stains: NDArray[np.float64]
    glass: Float
    grain_seed: int


def plan_layout(
    rng: np.random.Generator, shape: tuple[int, int], um: float, weights: Sequence[float]
) -> NDArray[np.int8]:
    """Lay out tissue and its grade regions: int8 ``shape``, class index, -1 on glass.

    Args:
        rng: source of randomness.
        shape: (rows, columns) of the plan.
        um: micrometres per plan pixel.
        weights: share of the tissue wished for each class; 0 leaves it out.
    """
    tissue = _pieces(rng, shape)
    present = np.flatnonzero(weights)
    count = max(len(present), round(tissue.sum() * um**2 / 0.5e6))
    rows, columns = np.nonzero(tissue)
    pick = rng.integers(0, len(rows), 600)
    candidates = np.column_stack([columns[pick], rows[pick]]).astype(np.float64)
    chosen = [candidates[0]]
    while len(chosen) < count:
        nearest = np.min([np.hypot(*(candidates - c).T) for c in chosen], axis=0)
        chosen.append(candidates[nearest.argmax()])
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    for axis in (x, y):
        axis += noise(rng, shape, 220 / um) * (55 / um) + noise(rng, shape, 50 / um) * (9 / um)
    squared = [(x - np.float32(cx)) ** 2 + (y - np.float32(cy)) ** 2 for cx, cy in chosen]
    region = np.argmin(squared, axis=0)
    area = np.bincount(region[tissue], minlength=count).astype(np.float64)
    wanted = np.asarray(weights, np.float64) / np.sum(weights) * area.sum()
    owner = np.zeros(count, np.int8)
    for index in np.argsort(-area, kind="stable"):
        owner[index] = present[wanted[present].argmax()]
        wanted[owner[index]] -= area[index]
    return np.where(tissue, owner[region], -1).astype(np.int8)


def _pieces(rng: np.random.Generator, shape: tuple[int, int]) -> Bool:
    """One to three irregular pieces of tissue that cover about half of the slide."""
    side = min(shape)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    count, turn = int(rng.integers(1, 4)), rng.uniform(0, 2 * math.pi)
    field = np.full(shape, -np.inf, np.float32)
    for index in range(count):
        around = turn + 2 * math.pi * index / count
        reach = 0.0 if count == 1 else 0.27
        cx = shape[1] * (0.5 + reach * math.cos(around) + rng.uniform(-0.03, 0.03))
        cy = shape[0] * (0.5 + reach * math.sin(around) + rng.uniform(-0.03, 0.03))
        angle, ratio = rng.uniform(0, math.pi), rng.uniform(0.7, 1.0)
        u = (x - cx) * math.cos(angle) + (y - cy) * math.sin(angle)
        v = (y - cy) * math.cos(angle) - (x - cx) * math.sin(angle)
        radius = np.hypot(u, v / ratio) / (side * (0.46 if count == 1 else 0.30))
        field = np.maximum(field, 1 - radius)
    field += 0.13 * noise(rng, shape, side / 5) + 0.035 * noise(rng, shape, side / 25)
    edge = np.minimum(np.minimum(x, shape[1] - 1 - x), np.minimum(y, shape[0] - 1 - y))
    field -= 1.5 * np.maximum(0, 1 - edge / (0.16 * side)) ** 2
    field -= 4 * (edge < 0.02 * side)
    full = field > np.quantile(field, 1 - rng.uniform(0.50, 0.58))
    _, parts, stats, _ = cv2.connectedComponentsWithStats(full.astype(np.uint8), connectivity=4)
    large = stats[:, cv2.CC_STAT_AREA] > 0.03 * full.size
    large[0] = False
    _, holes, stats, _ = cv2.connectedComponentsWithStats(
        (~large[parts]).astype(np.uint8), connectivity=4
    )
    small = stats[:, cv2.CC_STAT_AREA] < 0.005 * full.size
    small[0] = False
    return np.asarray(large[parts] | small[holes], np.bool_)


def plan_architecture(
    rng: np.random.Generator, label: NDArray[np.int8], um: float, classes: Sequence[str]
) -> NDArray[np.int8]:
    """Which grade's architecture is drawn where: int8, index into ``GRADES``, -1 on glass.

    Mostly the grade of the region itself; ``MIMICS`` says where it imitates another.
    """
    arch = np.full(label.shape, -1, np.int8)
    scale_px = min(400 / um, min(label.shape) / 4)
    for index, name in enumerate(classes):
        here = label == index
        arch[here] = GRADES.index(name)
        if not here.any():
            continue
        field = noise(rng, label.shape, scale_px)
        start = 0.0
        for other, share in MIMICS[name]:
            low, high = np.quantile(field[here], [start, start + share])
            arch[here & (field >= low) & (field < high)] = GRADES.index(other)
            start = 1 - MIMICS[name][-1][1]
    return arch


def plan_tissue(
    seed: Sequence[int],
    size_px: tuple[int, int],
    mpp: float,
    classes: Sequence[str],
    weights: Sequence[float],
) -> Tissue:
    """Plan one slide; everything random follows from ``seed``.

    Args:
        seed: entropy for numpy's ``SeedSequence``.
        size_px: level-0 (width, height).
        mpp: um per level-0 pixel.
        classes: names out of ``GRADES``; ``label`` counts in them.
        weights: share of the tissue wished for each class; 0 leaves it out.
    """
    rng = np.random.default_rng(list(seed))
    shape = (math.ceil(size_px[1] / PLAN_PX), math.ceil(size_px[0] / PLAN_PX))
    um = mpp * PLAN_PX
    label = plan_layout(rng, shape, um, weights)
    arch = plan_architecture(rng, label, um, classes)
    glands = draw_glands(rng, arch, um)
    nuclei = np.zeros((shape[0] * PLAN_PX, shape[1] * PLAN_PX), np.uint8)
    known = np.array([*(GRADES.index(name) for name in classes), -1], np.int8)
    draw_nuclei(rng, nuclei, glands, known[label], arch, um=um, plan_px=PLAN_PX)
    fibres = _fibres(rng, shape, um)
    stroma_room = ~(glands.epithelium | glands.lumen)
    clefts = stroma_room & (fibres + 0.5 * noise(rng, shape, 150 / um) > 2.1)
    masks = (_soft(label >= 0), _soft(glands.epithelium), _soft(glands.lumen | clefts))
    cytoplasm = 0.50 + 0.08 * noise(rng, shape, 300 / um) + 0.03 * noise(rng, shape, 12 / um)
    stroma = 0.52 + 0.08 * noise(rng, shape, 340 / um) + 0.10 * fibres
    secretion = np.float32(0.02) + np.float32(0.05) * noise(rng, shape, 130 / um).clip(0)
    eosin = (np.clip(stroma, 0.12, 1.2), np.clip(cytoplasm, 0.12, 1.2), secretion)
    violet = np.clip(0.17 + 0.05 * noise(rng, shape, 280 / um), 0.04, 0.4).astype(np.float32)
    stains, glass = _stain(rng, shape)
    gain, hue = _gain(rng, masks, eosin, violet, nuclei, stains, um)
    grain_seed = int(rng.integers(2**31))
    return Tissue(
        size_px, um, label, masks, eosin, violet, gain, hue, nuclei, stains, glass, grain_seed
    )


def _soft(mask: Bool) -> Float:
    """A mask with edges that can be interpolated."""
    return np.asarray(cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 0.8), np.float32)


def _fibres(rng: np.random.Generator, shape: tuple[int, int], um: float) -> Float:
    """Bundles of fibres: stretched noise, bent by a smooth displacement."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    straight = noise(rng, shape, (11 / um, 95 / um)) + 0.8 * noise(rng, shape, (5 / um, 60 / um))
    bend = 110 / um
    x += bend * noise(rng, shape, 330 / um)
    y += bend * noise(rng, shape, 330 / um)
    bent = cv2.remap(straight, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return np.asarray(bent / np.float32(1.17), np.float32)


def _stain(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[NDArray[np.float64], Float]:
    """Stain vectors and glass of one slide, drawn without looking at the grades."""
    stains = np.array([[0.62, 0.68, 0.27], [0.17, 0.74, 0.36]])
    stains = stains * np.exp(rng.normal(0, (0.07, 0.07, 0.12), (2, 3)))
    stains *= np.exp(rng.normal(0, 0.13, (2, 1)))
    colour = np.array([243.0, 242.0, 245.0]) + rng.uniform(-5, 4, 3)
    coarse = (max(shape[0] // 32, 4), max(shape[1] // 32, 4))
    uneven = 1 + 0.004 * noise(rng, coarse, max(coarse) / 2)
    return stains, (colour[:, None, None] * uneven).clip(0, 254).astype(np.float32)


def _gain(
    rng: np.random.Generator,
    masks: tuple[Float, Float, Float],
    eosin: tuple[Float, Float, Float],
    violet: Float,
    nuclei: NDArray[np.uint8],
    stains: NDArray[np.float64],
    um: float,
) -> tuple[tuple[Float, Float], Float]:
    """Gains that make the local mean colour blind to the grade: of each stain, of each channel.

    Where a field holds wide lumina its cells are stained darker, and so on, until the mean colour
    of the neighbourhood follows smooth fields drawn at random. Each round scales by wished over
    present optical density of that mean. First the stains, haematoxylin answering for red and
    eosin for green; what they cannot reach is left to the channels, as a shift of hue.
    """
    shape = masks[0].shape
    cells = cv2.resize(nuclei, shape[::-1], interpolation=cv2.INTER_AREA) / np.float32(NUCLEI_SCALE)
    tissue, epithelium, gap, cells = (f[::2, ::2] for f in (*masks, cells))
    stroma, cytoplasm, secretion = (f[::2, ::2] for f in eosin)
    pink = (stroma + (cytoplasm - stroma) * epithelium) * (1 - gap)
    pink *= 1 - 0.4 * np.minimum(cells, 1)
    blue = cells + violet[::2, ::2] * epithelium * (1 - gap)
    sigma = 85 / um / 2
    weight = np.maximum(_blur(tissue, sigma), 0.05)
    wished = _wished(rng, tissue.shape, um * 2)
    blue_gain, pink_gain, *hue = (np.ones(tissue.shape, np.float32) for _ in range(5))

    def step(channel: int) -> Float:
        h, e = stains[:, channel] * -LN10
        density = blue * blue_gain * h + (pink * pink_gain + secretion * gap) * e
        lost = _blur((1 - cv2.exp(density * hue[channel])) * tissue, sigma) / weight
        present = -np.log10(np.clip(1 - lost, 0.05, 0.98))
        smooth = _blur(np.log(wished[channel] / present) * tissue, sigma) / weight
        return np.asarray(cv2.exp(np.float32(1.3) * smooth), np.float32)

    for _ in range(6):
        blue_gain = np.clip(blue_gain * step(0), 0.5, 1.5)
        pink_gain = np.clip(pink_gain * step(1), 0.45, 2.0)
    for channel in (0, 1, 2) * 3:
        hue[channel] = np.clip(hue[channel] * step(channel), 0.84, 1.19)
    coarse = (math.ceil(tissue.shape[1] / 8), math.ceil(tissue.shape[0] / 8))
    shift = [cv2.resize(field, coarse, interpolation=cv2.INTER_AREA) for field in hue]
    blue_gain, pink_gain = (resized(gain, shape) for gain in (blue_gain, pink_gain))
    return (blue_gain, pink_gain), np.asarray(shift, np.float32)


def _wished(rng: np.random.Generator, shape: tuple[int, int], um: float) -> list[Float]:
    """Local mean optical density of R, G, B, drawn without looking at the grade."""
    strength = rng.normal(0, (0.09, 0.09, 0.04))
    level, ratio, tone = (noise(rng, shape, 280 / um) for _ in range(3))
    logs = (
        0.24 * level + 0.09 * ratio + strength[0],
        0.24 * level - 0.09 * ratio + strength[1],
        0.24 * level - 0.05 * ratio + 0.06 * tone + strength[:2].mean() + strength[2],
    )
    usual = (0.112, 0.25, 0.135)
    return [np.asarray(od * np.exp(log), np.float32) for od, log in zip(usual, logs, strict=True)]


def _blur(field: Float, sigma_px: float) -> Float:
    """A wide Gaussian, computed eight times coarser."""
    small = cv2.resize(field, None, fx=0.125, fy=0.125, interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), sigma_px / 8)
    return resized(small, field.shape)


def render_strips(tissue: Tissue) -> Iterator[NDArray[np.uint8]]:
    """Render a planned slide from top to bottom: uint8 (rows, width, 3) strips, R, G, B."""
    width, height = tissue.size_px
    factor = min(PLAN_PX, 2 ** max(0, round(math.log2(FINE_UM * PLAN_PX / tissue.um))))
    kept: list[NDArray[np.uint8]] | None = [] if width * height <= KEPT_PX else None
    small = []
    for band in _bands(tissue):
        small.append(
            cv2.resize(band, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA)
        )
        if kept is not None:
            kept.append(band)
    fine = np.concatenate(small)
    inside = resized(tissue.masks[0], fine.shape[:2])
    rng = np.random.default_rng([tissue.grain_seed, 1])
    shift = colour_shift(np.asarray(fine, np.uint8), inside, rng, tissue.um / PLAN_PX * factor)
    first = 0
    for band in _bands(tissue) if kept is None else kept:
        last = first + band.shape[0] // factor
        more = _enlarge_shift(shift, first, last, factor)
        whole = np.asarray(cv2.add(band, more, dtype=cv2.CV_8U), np.uint8)
        yield whole[: height - first * factor, :width]
        first = last


def _bands(tissue: Tissue) -> Iterator[NDArray[np.uint8]]:
    """The planned slide with colours that still depend on the grade, band by band."""
    rng = np.random.default_rng(tissue.grain_seed)
    for top in range(0, tissue.size_px[1], BAND_PX):
        yield _render_band(tissue, top, rng)


def _render_band(tissue: Tissue, top: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """One band of ``BAND_PX`` rows, or what is left of the plan."""
    first = top // PLAN_PX
    last = min(first + BAND_PX // PLAN_PX, tissue.label.shape[0])

    def up(field: Float) -> Float:
        return _enlarge(field, first, last, PLAN_PX)

    inside, cells, gap = (_steep(up(mask)) for mask in tissue.masks)
    stroma, cytoplasm = up(tissue.eosin[0] * tissue.gain[1]), up(tissue.eosin[1] * tissue.gain[1])
    nuclei = tissue.nuclei[top : top + inside.shape[0]] * np.float32(1 / NUCLEI_SCALE)
    coarse = rng.integers(0, 64, inside.shape, dtype=np.uint8)
    grain = (cv2.GaussianBlur(coarse, (0, 0), 1.1) - np.float32(31.5)) * np.float32(0.03)
    secretion = up(tissue.eosin[2]) * gap * inside
    inside *= 1 - gap
    violet = up(tissue.haematoxylin * tissue.gain[0])
    blue = nuclei * (1 + grain) * up(tissue.gain[0])
    blue += violet * cells * inside
    pink = (stroma + (cytoplasm - stroma) * cells) * (1 + 0.6 * grain) * inside
    pink += secretion
    pink *= 1 - 0.4 * np.minimum(nuclei, 1)
    out = np.empty((*inside.shape, 3), np.uint8)
    for channel in range(3):
        h, e = tissue.stains[:, channel]
        density = blue * np.float32(-h * LN10) + pink * np.float32(-e * LN10)
        density *= _coarse_rows(tissue.hue[channel], tissue.nuclei.shape, top, inside.shape)
        light = _coarse_rows(tissue.glass[channel], tissue.nuclei.shape, top, inside.shape)
        light *= cv2.exp(density)
        out[..., channel] = cv2.convertScaleAbs(light)
    return out


def _enlarge(field: NDArray[Any], first: int, last: int, factor: int) -> Float:
    """Rows of a field that is ``factor`` times coarser than level 0, without a seam."""
    low, high = max(first - 2, 0), min(last + 2, field.shape[0])
    size = (field.shape[1] * factor, (high - low) * factor)
    part = field[low:high].astype(np.float32, copy=False)
    wide = cv2.resize(part, size, interpolation=cv2.INTER_LINEAR)
    start = (first - low) * factor
    return np.asarray(wide[start : start + (last - first) * factor], np.float32)


def _enlarge_shift(shift: NDArray[Any], first: int, last: int, factor: int) -> Float:
    """As :func:`_enlarge`, but blocks of ``factor`` pixels keep their mean exactly."""
    wide = _enlarge(shift, first, last, factor)
    size = (shift.shape[1], last - first)
    lost = shift[first:last] - cv2.resize(wide, size, interpolation=cv2.INTER_AREA)
    wide += cv2.resize(lost, (wide.shape[1], wide.shape[0]), interpolation=cv2.INTER_NEAREST)
    return wide


def _steep(soft: Float) -> Float:
    """Sharpen a soft mask to an edge of about half a plan pixel."""
    return np.asarray(np.clip((soft - 0.5) * 3.0 + 0.5, 0, 1), np.float32)


def _coarse_rows(field: Float, size: tuple[int, int], top: int, shape: tuple[int, ...]) -> Float:
    """Rows of a coarse field at level 0."""
    rows = (np.arange(top, top + shape[0], dtype=np.float32) + 0.5) * (field.shape[0] / size[0])
    y = np.clip(rows - 0.5, 0, field.shape[0] - 1).astype(np.float32)
    x, y = np.meshgrid(np.arange(field.shape[1], dtype=np.float32), y)
    narrow = cv2.remap(field, x, y, cv2.INTER_LINEAR)
    return resized(narrow, shape)
