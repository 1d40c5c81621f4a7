"""Glands and nuclei of synthetic prostate tissue, by architecture and by grade.

Four architectures, named after the grade they belong to: NC large branching glands with wide
lumina; G3 small discrete round glands; G4 cribriform sheets with punched-out lumina; G5 sheets,
cords and single cells without lumina. Nuclei belong to the true grade: benign ones are small,
regular and form two rows; those of cancer are larger, with nucleoli of about 2 um.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float = NDArray[np.float32]
    Bool = NDArray[np.bool_]
    Points = NDArray[np.float64]

GRADES = ("NC", "G3", "G4", "G5")
SUBPIXEL_BITS = 4
NUCLEI_SCALE = 110  # grey levels of the nuclei raster per unit of optical density


@dataclass(frozen=True)
class NucleusStyle:
    """Nuclei of one kind: mean axes in um, their spread, optical density, nucleoli."""

    long_um: float
    short_um: float
    spread: float
    density: float
    density_spread: float
    vesicular: float
    nucleoli: int
    nucleolus_um: float


BASAL = NucleusStyle(6.0, 2.8, 0.08, 0.75, 0.08, 1.0, 0, 0.0)
SPINDLE = NucleusStyle(10.0, 2.4, 0.22, 0.56, 0.12, 1.0, 0, 0.0)
LYMPHOCYTE = NucleusStyle(4.8, 4.5, 0.06, 0.85, 0.08, 1.0, 0, 0.0)
NUCLEI = {
    "NC": NucleusStyle(7.0, 5.8, 0.05, 0.66, 0.05, 0.95, 0, 0.0),
    "G3": NucleusStyle(7.6, 7.0, 0.06, 0.62, 0.08, 0.36, 1, 2.5),
    "G4": NucleusStyle(9.2, 5.8, 0.10, 0.62, 0.10, 0.38, 2, 1.9),
    "G5": NucleusStyle(8.4, 7.2, 0.20, 0.48, 0.25, 0.60, 1, 2.6),
}

# Luminal row of an architecture that has lumina with a wall: depth in the wall, spacing in um.
ROWS = {"NC": (9.0, 7.6), "G3": (8.0, 8.8)}
# Scattered nuclei of the others: spacing in um, jitter as a share of it.
SCATTERS = {"G4": (11.4, 0.18), "G5": (13.0, 0.25)}


def noise(
    rng: np.random.Generator, shape: tuple[int, int], scale_px: float | tuple[float, float]
) -> Float:
    """Smooth Gaussian noise of mean 0 and deviation 1: float32 ``shape``.

    Args:
        rng: source of randomness.
        shape: (rows, columns).
        scale_px: size of a blob in pixels, or (along y, along x).
    """
    sy, sx = scale_px if isinstance(scale_px, tuple) else (scale_px, scale_px)
    sy, sx = max(sy / 2, 1.0), max(sx / 2, 1.0)
    rows, columns = math.ceil(shape[0] / sy) + 6, math.ceil(shape[1] / sx) + 6
    grid = cv2.GaussianBlur(rng.standard_normal((rows, columns), dtype=np.float32), (0, 0), 1.0)
    grid = grid * np.float32(2 * math.sqrt(math.pi))
    wide = (math.ceil(columns * sx), math.ceil(rows * sy))
    field = cv2.resize(grid, wide, interpolation=cv2.INTER_CUBIC)
    top, left = int(3 * sy), int(3 * sx)
    return np.ascontiguousarray(field[top : top + shape[0], left : left + shape[1]])


def scatter(
    rng: np.random.Generator, shape: tuple[int, int], spacing_px: float, jitter: float
) -> NDArray[np.float64]:
    """Points of a hexagonal lattice, each moved at random: float64 (N, 2) of (x, y).

    Args:
        rng: source of randomness.
        shape: (rows, columns) of the raster to cover.
        spacing_px: lattice constant.
        jitter: deviation of the move, as a share of the spacing.
    """
    step = spacing_px * math.sqrt(3) / 2
    y, x = np.mgrid[0 : shape[0] : step, 0 : shape[1] : spacing_px]
    x[1::2] += spacing_px / 2
    points = np.column_stack([x.ravel(), y.ravel()])
    points += rng.normal(0, jitter * spacing_px, points.shape)
    inside = (points >= 0).all(1) & (points < (shape[1], shape[0])).all(1)
    return points[inside]


@dataclass(frozen=True)
class Glands:
    """Gland fields of a plan, all (rows, columns).

    Attributes:
        epithelium: bool, cells of glands, sheets and cords.
        lumen: bool, the spaces that epithelium encloses.
        single_xy: float64 (N, 2), single tumour cells in plan pixels.
    """

    epithelium: Bool
    lumen: Bool
    single_xy: Points


def draw_glands(rng: np.random.Generator, arch: NDArray[np.int8], um: float) -> Glands:
    """Draw the glands of every architecture where it applies.

    Args:
        rng: source of randomness.
        arch: int8 (rows, columns), index into ``GRADES``, -1 on glass.
        um: micrometres per plan pixel.
    """
    shape = arch.shape
    tissue = (arch >= 0).astype(np.uint8)
    deep = cv2.distanceTransform(tissue, cv2.DIST_L2, 5) * um > 25
    dense = 0.3 * noise(rng, shape, 420 / um)
    discrete = _discrete(rng, arch, um, dense)
    solid, single = _solid(rng, arch, um, dense)
    body = np.select(
        [arch == 0, arch == 2, arch == 3],
        [_branching(rng, shape, um) + dense > 0.1, _sheets(rng, shape, um) + dense > -0.1, solid],
        default=False,
    )
    body = (body | discrete) & deep
    body = _without_specks(body, 350 / um**2)
    depth = cv2.distanceTransform(body.astype(np.uint8), cv2.DIST_L2, 5) * um
    wall = 14.5 + 1.5 * noise(rng, shape, 40 / um)
    lumen = (depth > wall) & ((arch == 0) | (arch == 1))
    lumen |= (arch == 2) & _punched(rng, shape, um, depth)
    lumen = _without_specks(lumen, 25 / um**2)
    keep = deep[single[:, 1].astype(int), single[:, 0].astype(int)]
    single = single[keep]
    cells = (body & ~lumen).astype(np.uint8)
    for x, y in np.rint(single * 2**SUBPIXEL_BITS).astype(int).tolist():
        radius = round(7.0 / um * 2**SUBPIXEL_BITS)
        cv2.circle(cells, (x, y), radius, 1, -1, cv2.LINE_8, SUBPIXEL_BITS)
    return Glands(cells.astype(bool), lumen, single)


def _branching(rng: np.random.Generator, shape: tuple[int, int], um: float) -> Float:
    return noise(rng, shape, 46 / um) + 0.20 * noise(rng, shape, 18 / um)


def _sheets(rng: np.random.Generator, shape: tuple[int, int], um: float) -> Float:
    return noise(rng, shape, 75 / um) + 0.25 * noise(rng, shape, 24 / um)


def _discrete(rng: np.random.Generator, arch: NDArray[np.int8], um: float, dense: Float) -> Bool:
    """Round glands that stay apart, 25 to 38 um in radius."""
    canvas = np.zeros(arch.shape, np.uint8)
    turns = np.linspace(0, 2 * math.pi, 24, endpoint=False)
    for x, y in scatter(rng, arch.shape, 84 / um, 0.10):
        radius, phase = rng.uniform(25, 38), rng.uniform(0, 2 * math.pi, 2)
        stretch = 1 + (rng.uniform(size=2) * (0.16, 0.06))[:, None] * np.sin(
            np.array([[2.0], [3.0]]) * turns + phase[:, None]
        )
        keep = rng.uniform() < 0.8 + 0.5 * dense[int(y), int(x)]
        if arch[int(y), int(x)] != 1 or not keep:
            continue
        along = radius / um * stretch.prod(0)
        outline = np.column_stack([x + along * np.cos(turns), y + along * np.sin(turns)])
        points = np.rint(outline * 2**SUBPIXEL_BITS).astype(np.int32)
        cv2.fillPoly(canvas, [points], 1, cv2.LINE_8, SUBPIXEL_BITS)
    return (canvas > 0) & (arch >= 0)


def _punched(rng: np.random.Generator, shape: tuple[int, int], um: float, depth: Float) -> Bool:
    """Small round lumina inside a sheet, 6 to 11 um in radius."""
    canvas = np.zeros(shape, np.uint8)
    for x, y in scatter(rng, shape, 33 / um, 0.13):
        radius = rng.uniform(6, 11)
        if depth[int(y), int(x)] > radius + 5:
            centre = (round(x * 2**SUBPIXEL_BITS), round(y * 2**SUBPIXEL_BITS))
            axes = (radius / um * rng.uniform(0.75, 1.25, 2) * 2**SUBPIXEL_BITS).astype(int)
            turn = rng.uniform(0, 180)
            cv2.ellipse(canvas, centre, axes.tolist(), turn, 0, 360, 1, -1, 8, SUBPIXEL_BITS)
    return canvas > 0


def _solid(
    rng: np.random.Generator, arch: NDArray[np.int8], um: float, dense: Float
) -> tuple[Bool, Points]:
    """Sheets, cords and single cells, none of them with a lumen."""
    shape = arch.shape
    sheets = noise(rng, shape, 70 / um) + 0.3 * noise(rng, shape, 22 / um) + dense > 0.5
    ridge = np.abs(noise(rng, shape, 52 / um))
    cords = (ridge < 0.16) & (noise(rng, shape, 60 / um) > -0.5)
    points = scatter(rng, shape, 29 / um, 0.3)
    points = points[rng.uniform(size=len(points)) < 0.6]
    at = points.astype(int)
    here = (arch == 3)[at[:, 1], at[:, 0]] & ~(sheets | cords)[at[:, 1], at[:, 0]]
    return sheets | cords, points[here]


def _without_specks(mask: Bool, area_px: float) -> Bool:
    """Drop components smaller than an area."""
    _, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    keep = stats[:, cv2.CC_STAT_AREA] >= area_px
    keep[0] = False
    return np.asarray(keep[parts], np.bool_)


def draw_nuclei(
    rng: np.random.Generator,
    canvas: NDArray[np.uint8],
    glands: Glands,
    graded: NDArray[np.int8],
    arch: NDArray[np.int8],
    *,
    um: float,
    plan_px: int,
) -> None:
    """Draw all nuclei of a slide into ``canvas``, in place.

    How they are arranged follows the architecture, how each looks the true grade; only benign
    glands of benign architecture have the thin outer row of basal cells.

    Args:
        rng: source of randomness.
        canvas: uint8 (height, width) at level 0; takes optical density times ``NUCLEI_SCALE``.
        glands: where they lie, on the plan.
        graded: int8 plan (rows, columns), true grade as an index into ``GRADES``, -1 on glass.
        arch: int8 plan (rows, columns), grade whose architecture is drawn.
        um: micrometres per plan pixel.
        plan_px: level-0 pixels per plan pixel.
    """
    pen = _Pen(rng, canvas, plan_px, um)
    _draw_stroma(rng, pen, glands, graded, um)
    gland = (glands.epithelium | glands.lumen).astype(np.uint8)
    inner = cv2.distanceTransform(gland, cv2.DIST_L2, 5) * um
    points, angle = _along(rng, inner > 3.0, 8.5 / um)
    mine = (_at(graded, points) == 0) & (_at(arch, points) == 0)
    pen.ellipses(points[mine], angle[mine], BASAL)
    placed = [(glands.single_xy, np.full(len(glands.single_xy), np.nan))]
    for name, (depth, spacing) in ROWS.items():
        points, angle = _along(rng, inner > depth, spacing / um)
        mine = _at(arch, points) == GRADES.index(name)
        placed.append((points[mine], angle[mine] + 90))
    cells = cv2.distanceTransform(glands.epithelium.astype(np.uint8), cv2.DIST_L2, 5) * um
    for name, (spacing, jitter) in SCATTERS.items():
        points = scatter(rng, graded.shape, spacing / um, jitter)
        mine = (_at(arch, points) == GRADES.index(name)) & (_at(cells, points) > 2.5)
        placed.append((points[mine], np.full(mine.sum(), np.nan)))
    points = np.concatenate([part for part, _ in placed])
    angle = np.concatenate([part for _, part in placed])
    for index, name in enumerate(GRADES):
        mine = _at(graded, points) == index
        pen.ellipses(points[mine], angle[mine], NUCLEI[name])


def _draw_stroma(
    rng: np.random.Generator, pen: _Pen, glands: Glands, graded: NDArray[np.int8], um: float
) -> None:
    """Spindle cells everywhere between the glands, lymphocytes in patches."""
    stroma = (graded >= 0) & ~glands.epithelium & ~glands.lumen
    room = cv2.distanceTransform(stroma.astype(np.uint8), cv2.DIST_L2, 5) * um
    sparse = noise(rng, graded.shape, 260 / um)
    points = scatter(rng, graded.shape, 17 / um, 0.3)
    chance = 0.55 + 0.25 * _at(sparse, points)
    keep = (_at(room, points) > 3) & (rng.uniform(size=len(points)) < chance)
    turn = 90 * noise(rng, graded.shape, 160 / um)
    pen.ellipses(points[keep], _at(turn, points[keep]), SPINDLE)
    patches = noise(rng, graded.shape, 110 / um)
    points = scatter(rng, graded.shape, 8.5 / um, 0.2)
    keep = (_at(room, points) > 3) & (_at(patches, points) > 1.75)
    pen.ellipses(points[keep], np.full(keep.sum(), np.nan), LYMPHOCYTE)


class _Pen:
    """Draws nuclei at level 0 from places on the plan."""

    def __init__(
        self, rng: np.random.Generator, canvas: NDArray[np.uint8], plan_px: int, um: float
    ) -> None:
        self.rng, self.canvas, self.plan_px = rng, canvas, plan_px
        self.px = plan_px / um  # level-0 pixels per micrometre

    def ellipses(self, points: Points, degrees: Points, style: NucleusStyle) -> None:
        """Draw nuclei at plan (x, y); an angle that is NaN is drawn at random."""
        rng, n, one = self.rng, len(points), 2**SUBPIXEL_BITS
        size = np.exp(rng.normal(0, style.spread, (n, 1)))
        ratio = np.exp(rng.normal(0, style.spread / 2, (n, 2)))
        axes = np.array([style.long_um, style.short_um]) / 2 * size * ratio * self.px
        turn = np.where(np.isnan(degrees), rng.uniform(0, 180, n), degrees + rng.normal(0, 9, n))
        shade = style.density * np.exp(rng.normal(0, style.density_spread, n)) * NUCLEI_SCALE
        rim = np.clip(shade, 30, 235)
        centre = (points + 0.5) * self.plan_px - 0.5
        spot = centre[:, None] + rng.uniform(-0.18, 0.18, (n, 2, 2)) * axes[:, None] * 1.6
        rows = np.column_stack([centre, axes, spot.reshape(n, 4)]) * one
        radius = round(style.nucleolus_um / 2 * self.px * one)
        draw = (self.canvas,)
        for k, (x, y, a, b, *spots) in enumerate(np.rint(rows).astype(int).tolist()):
            at, angle, dark = (x, y), float(turn[k]), float(rim[k])
            cv2.ellipse(*draw, at, (a, b), angle, 0, 360, dark, -1, cv2.LINE_AA, SUBPIXEL_BITS)
            if style.nucleoli == 0:
                continue
            pale, inside = dark * style.vesicular, (int(a * 0.82), int(b * 0.82))
            cv2.ellipse(*draw, at, inside, angle, 0, 360, pale, -1, cv2.LINE_AA, SUBPIXEL_BITS)
            for j in range(style.nucleoli):
                dot = (spots[2 * j], spots[2 * j + 1])
                cv2.circle(*draw, dot, radius, 245.0, -1, cv2.LINE_AA, SUBPIXEL_BITS)


def _at(field: NDArray[Any], points: Points) -> NDArray[Any]:
    """Values of a raster at points (x, y)."""
    if not len(points):
        return field.reshape(-1)[:0]
    x = np.clip(points[:, 0].astype(int), 0, field.shape[1] - 1)
    y = np.clip(points[:, 1].astype(int), 0, field.shape[0] - 1)
    return np.asarray(field[y, x])


def _along(rng: np.random.Generator, mask: Bool, spacing_px: float) -> tuple[Points, Points]:
    """Evenly spaced points on the outlines of a mask, with the outline's angle in degrees."""
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    places, angles = [np.empty((0, 2))], [np.empty(0)]
    for outline in outlines:
        if len(outline) < 8:
            continue
        line = outline[:, 0].astype(np.float64)
        line = np.mean([np.roll(line, k, axis=0) for k in (-2, -1, 0, 1, 2)], axis=0)
        step = np.hypot(*np.diff(line, axis=0, append=line[:1]).T)
        length = step.sum()
        count = int(length / spacing_px)
        if count < 3:
            continue
        along = (np.arange(count) + rng.normal(0, 0.10, count) + rng.uniform()) * length / count
        position = np.searchsorted(np.cumsum(step), along % length).clip(0, len(line) - 1)
        ahead = line[(position + 2) % len(line)] - line[position - 2]
        places.append(line[position])
        angles.append(np.degrees(np.arctan2(ahead[:, 1], ahead[:, 0])))
    return np.concatenate(places), np.concatenate(angles)
