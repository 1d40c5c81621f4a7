"""Does a square on a slide come back where it was?

Slides of odd size and fractional resolution carry one blue square that lies off every grid. They
go through tile, store, network, grade map and GeoJSON, each of which must show it in its place.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import shapely
import torch
from shapely.geometry import shape

from wsikd.grade.exports import write_all
from wsikd.grade.predict import PredictSettings, SlidePredictor
from wsikd.models.files.bundle import InputSpec
from wsikd.slides.base import open_slide
from wsikd.synthetic.cohort import write_geometry_slide
from wsikd.tiles.store import StoreSettings
from wsikd.tiles.write import tile_slide

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from wsikd.tiles.store import TileStore

CASES = (
    # mpp, size, square (x, y, side), all level-0 px
    (0.499, (3001, 2503), (1013, 707, 911)),
    (0.2527, (4409, 3331), (1777, 1201, 1303)),
    (0.5, (2999, 2777), (611, 1333, 877)),
)
_PATCH_PX, _STRIDE_PX = 32, 8


@dataclass(frozen=True)
class Check:
    """One comparison: its object, the error, and the allowed error."""

    name: str
    error_px: float
    allowed_px: float

    @property
    def passed(self) -> bool:
        """Whether it is near enough."""
        return bool(self.error_px <= self.allowed_px)


class BlueDetector(torch.nn.Module):
    """Logits (B, 2) of uint8 (B, 3, H, W): is more than half of the patch blue?"""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Share of pixels that are more blue than red, against one half."""
        x = x.float()
        share = (x[:, 2] - x[:, 0] > 60).float().mean((1, 2))
        return torch.stack([torch.zeros_like(share), (share - 0.5) * 100], 1)


def geometry_checks(folder: Path) -> Iterator[Check]:
    """Run all cases in an empty folder; errors are in level-0 px."""
    for number, (mpp, size, square) in enumerate(CASES):
        path = folder / f"square-{number}.svs"
        write_geometry_slide(path, seed=number, size_px=size, mpp=mpp, square_px=square)
        yield from _check_slide(path, mpp, square)


def _check_slide(path: Path, mpp: float, square: tuple[int, int, int]) -> Iterator[Check]:
    settings = StoreSettings((1.0, 4.0), 128, 128, "all", 0.0, (), 0.5)
    x, y, side = square
    truth = (x, y, x + side, y + side)
    with open_slide(path) as slide:
        store, _ = tile_slide(slide, path.with_suffix(".zarr"), settings)
        for own in store.mpps:
            found = _blue_box(store, own, mpp)
            yield Check(
                f"{mpp:g} um/px: store at {own:g}", _distance(found, truth), 1.5 * own / mpp
            )
        spec = InputSpec(4.0, _PATCH_PX, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), ("glass", "square"))
        reading = PredictSettings(stride_px=_STRIDE_PX, tissue="all", min_tissue=0.0)
        predictor = SlidePredictor(BlueDetector(), spec, device="cpu", settings=reading)
        grade_map = predictor.predict(slide)
        written = write_all(grade_map, path.with_suffix(".results"), ("geojson",), slide=slide)
    content = json.loads(written["geojson"].read_text(encoding="utf-8"))
    squares = [
        shape(f["geometry"])
        for f in content["features"]
        if f["properties"]["classification"]["name"] == "square"
    ]
    box = shapely.union_all(squares).bounds if squares else (np.inf,) * 4
    yield Check(f"{mpp:g} um/px: GeoJSON of the map", _distance(box, truth), grade_map.cell_px[0])


def _blue_box(store: TileStore, own_mpp: float, mpp: float) -> tuple[float, ...]:
    """Level-0 (left, top, right, bottom) of the blue square in the store."""
    pixels: NDArray[np.int16] = np.asarray(store.array(own_mpp)[:], np.int16)
    rows, columns = np.nonzero(pixels[2] - pixels[0] > 60)
    if not len(rows):
        return (np.inf,) * 4
    scale = own_mpp / mpp
    edges = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    return tuple(float(e) * scale for e in edges)


def _distance(found: tuple[float, ...], truth: tuple[float, ...]) -> float:
    return max(abs(a - b) for a, b in zip(found, truth, strict=True))
