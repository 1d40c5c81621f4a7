"""The slide that the benchmarks read: drawn once, kept outside the repository."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from wsikd.synthetic.cohort import write_pyramid
from wsikd.synthetic.glands import GRADES
from wsikd.synthetic.tissue import PLAN_PX, plan_tissue, render_strips

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    Places = tuple[NDArray[np.int64], NDArray[np.int64]]

MPP = 0.5
SLIDE_VERSION = 1


@dataclass(frozen=True)
class BenchSlide:
    """A synthetic slide: one round piece of tissue in the middle of clean glass.

    ``square_px`` is the side of a centred square that lies wholly in the tissue.
    """

    path: Path
    side_px: int
    square_px: int

    def window(self, field_px: float, columns: int, rows: int) -> Places:
        """Grid places of a block of fields in the tissue: (rows, columns), int64 (N,) each.

        Args:
            field_px: level-0 side of a field, the grid's step too.
            columns: how many at most.
            rows: how many at most.
        """
        first = math.ceil((self.side_px - self.square_px) / 2 / field_px)
        last = math.floor((self.side_px + self.square_px) / 2 / field_px)
        fit = max(1, last - first)
        grid = np.mgrid[first : first + min(rows, fit), first : first + min(columns, fit)]
        return grid[0].ravel(), grid[1].ravel()


def synthetic_slide(
    folder: Path, side_px: int, *, downsamples: tuple[int, ...] = (1, 4, 16), share: float = 0.477
) -> BenchSlide:
    """Make a slide of drawn prostate tissue at 0.5 um/px, or find it made already.

    A piece of the demo's tissue is mirrored over a disc that fills ``share`` of the slide (0.477
    of 40,960 px squared is 200 mm2); from 1 on, the tissue fills it all. Tiles are JPEG 4:2:0 of
    256 px, written strip by strip.
    """
    radius = math.sqrt(share / math.pi) * side_px if share < 1 else 2.0 * side_px
    square = min(side_px, int(0.95 * radius * math.sqrt(2)))
    levels = "-".join(map(str, downsamples))
    path = folder / f"bench-v{SLIDE_VERSION}-{side_px}px-{levels}-{share:g}.svs"
    if not path.exists():
        print(f"making {path.name}", file=sys.stderr, flush=True)
        strips = _strips(side_px, radius, 2048 if side_px > 4096 else 512)
        size = (side_px, side_px)
        write_pyramid(
            path, strips, mpp=MPP, power=20, downsamples=downsamples, quality=85, size_px=size
        )
    return BenchSlide(path, side_px, square)


def window_mask(path: Path, places: Places, field_px: float) -> Path:
    """Write GeoJSON whose one polygon is the block of fields: a tissue mask for wsikd."""
    rows, columns = places
    x0, y0 = columns.min() * field_px, rows.min() * field_px
    x1, y1 = (columns.max() + 1) * field_px, (rows.max() + 1) * field_px
    ring = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]
    feature = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"objectType": "annotation", "classification": {"name": "tissue"}},
    }
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    return path


def _strips(side_px: int, radius: float, texture_px: int) -> Iterator[NDArray[np.uint8]]:
    """A slide's level 0 from top to bottom: uint8 (256, side_px, 3) each."""
    tissue = _texture(texture_px)
    rng = np.random.default_rng(11)
    glass = rng.integers(240, 246, (256, side_px, 1), np.uint8).repeat(3, 2)
    across = np.arange(side_px) % len(tissue)
    for top in range(0, side_px, 256):
        strip = glass[: min(256, side_px - top)].copy()
        rows = tissue[np.arange(top, top + len(strip)) % len(tissue)]
        for i, row in enumerate(rows):
            y = top + i + 0.5 - side_px / 2
            half = math.sqrt(max(0.0, radius**2 - y**2))
            left = max(0, int(side_px / 2 - half))
            right = min(side_px, int(side_px / 2 + half))
            strip[i, left:right] = row[across[left:right]]
        yield strip


def _texture(side_px: int) -> NDArray[np.uint8]:
    """A square of drawn tissue with its mirror images: uint8 (2 * side_px, 2 * side_px, 3)."""
    drawn = 2 * side_px
    plan = plan_tissue((7, 0), (drawn, drawn), MPP, GRADES, [1.0] * len(GRADES))
    inside = np.pad((plan.label >= 0).astype(np.uint8), 1)
    reach = cv2.distanceTransform(inside, cv2.DIST_C, 3)[1:-1, 1:-1]
    y, x = (int(v) for v in np.unravel_index(int(reach.argmax()), reach.shape))
    half = min(side_px // 2, (int(reach.max()) - 1) * PLAN_PX)
    y, x = y * PLAN_PX, x * PLAN_PX
    whole = np.concatenate(list(render_strips(plan)))
    piece = whole[y - half : y + half, x - half : x + half]
    wide = np.concatenate([piece, piece[:, ::-1]], 1)
    return np.ascontiguousarray(np.concatenate([wide, wide[::-1]]))
