"""Where on the slide there is tissue."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from wsikd.core.errors import AnnotationError
from wsikd.core.tables import resolve
from wsikd.slides.annotations import read_geojson
from wsikd.slides.canvas import Canvas
from wsikd.slides.resample import area_means

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from wsikd.slides.base import Slide

MASKERS: dict[str, str] = {
    "otsu": "wsikd.slides.tissue:otsu",
    "all": "wsikd.slides.tissue:everything",
    "tiatoolbox-otsu": "wsikd.tia:otsu_masker",
    "tiatoolbox-morphological": "wsikd.tia:morphological_masker",
}
MASK_MPP = 8.0

# Mean optical density over the three channels. Clean glass stays below the lower bound, even the
# palest H&E stroma lies above the upper one; Otsu decides only in between, so that a slide of
# nothing but tissue, or of nothing but glass, is not split in two.
_OD_RANGE = (0.04, 0.10)
_MIN_CHROMA = 8
_MIN_OBJECT_UM2 = 20_000.0
_MAX_HOLE_UM2 = 20_000.0


@dataclass(frozen=True)
class TissueMask:
    """Tissue of a slide on a coarse grid.

    Attributes:
        mask: bool (height, width).
        mpp: um per mask pixel.
        origin_xy: level-0 corner.
        scale_xy: level-0 pixels per mask pixel.
        method: the masker, or the file it came from.
    """

    mask: NDArray[np.bool_]
    mpp: float
    origin_xy: tuple[float, float]
    scale_xy: tuple[float, float]
    method: str

    @property
    def fraction(self) -> float:
        """Share of the scanned box that is tissue."""
        return float(self.mask.mean()) if self.mask.size else 0.0

    def cover(
        self,
        origin_xy: tuple[float, float],
        cell_px: tuple[float, float],
        size: tuple[int, int],
    ) -> NDArray[np.float32]:
        """Tissue share of each cell of a grid, exact areas: float32 (rows, columns).

        Args:
            origin_xy: level-0 corner of the grid.
            cell_px: level-0 (width, height) of a cell.
            size: (columns, rows).
        """
        start = (
            (origin_xy[0] - self.origin_xy[0]) / self.scale_xy[0],
            (origin_xy[1] - self.origin_xy[1]) / self.scale_xy[1],
        )
        factor = (cell_px[0] / self.scale_xy[0], cell_px[1] / self.scale_xy[1])
        return np.minimum(area_means(self.mask, start, factor, size), 1)


def find_tissue(
    slide: Slide, *, method: str = "otsu", mask_file: Path | None = None, workers: int = 2
) -> TissueMask:
    """Find the tissue of a slide at about 8 um/px.

    Args:
        slide: an open slide.
        method: an entry of ``MASKERS``.
        mask_file: the user's own mask instead: an image of the whole slide plane (any size, not
            zero = tissue) or GeoJSON whose polygons are tissue, of whatever class or none.
        workers: threads that read.

    Raises:
        MissingMppError, RegionReadError: from the slide.
        AnnotationError: the mask file cannot be used, or covers nothing of the slide.
    """
    mpp = max(MASK_MPP, slide.mpp.x, slide.mpp.y)
    canvas = Canvas.plan(slide, mpp)
    if mask_file is not None:
        mask = _from_file(mask_file, slide, canvas)
        if not mask.any():
            raise AnnotationError(mask_file, "covers nothing of the slide", "mend the mask")
        method = mask_file.name
    elif method == "all":
        mask = np.ones(canvas.size[::-1], np.bool_)
    else:
        mask = resolve(MASKERS, method, kind="maskers")(_overview(canvas, workers), mpp)
    return TissueMask(mask, mpp, canvas.origin_xy, canvas.scale_xy, method)


def otsu(thumbnail: NDArray[np.uint8], mpp: float) -> NDArray[np.bool_]:
    """Stained tissue by Otsu's threshold on optical density, with colour.

    Args:
        thumbnail: uint8 (height, width, 3).
        mpp: um per pixel.

    Returns:
        bool (height, width): optical density above the threshold and not grey, so that black pen,
        shadows and borders stay out; small specks removed, small holes filled.

    Source: Otsu 1979; optical density after Beer and Lambert.
    """
    smooth = np.asarray(cv2.GaussianBlur(thumbnail, (3, 3), 0))
    density = -np.log10((smooth.astype(np.float32) + 1) / 256).mean(2)
    chroma = smooth.max(2).astype(np.int16) - smooth.min(2)
    low, high = _OD_RANGE
    levels = np.clip(density / high * 127.5, 0, 255).astype(np.uint8)
    threshold, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    cut = float(np.clip((threshold + 0.5) / 127.5 * high, low, high))
    return tidy((density > cut) & (chroma >= _MIN_CHROMA), mpp)


def everything(thumbnail: NDArray[np.uint8], mpp: float) -> NDArray[np.bool_]:
    """Take the whole scanned box as tissue."""
    del mpp
    return np.ones(thumbnail.shape[:2], np.bool_)


def tidy(mask: NDArray[np.bool_], mpp: float) -> NDArray[np.bool_]:
    """Close gaps, drop specks below 0.02 mm2, fill holes below 0.02 mm2: bool (height, width)."""
    reach = max(1, round(16 / mpp))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    closed = np.asarray(cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, kernel)) > 0
    kept = _without_small(closed, _MIN_OBJECT_UM2 / mpp**2)
    return ~_without_small(~kept, _MAX_HOLE_UM2 / mpp**2)


def _without_small(mask: NDArray[np.bool_], min_px: float) -> NDArray[np.bool_]:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(
        mask.astype(np.uint8), connectivity=8
    )
    keep = np.zeros(count, np.bool_)
    keep[1:] = stats[1:, cv2.CC_STAT_AREA] >= min_px
    return np.asarray(keep[labels])


def _overview(canvas: Canvas, workers: int) -> NDArray[np.uint8]:
    """The whole canvas, read in strips by threads: uint8 (height, width, 3)."""
    width, height = canvas.size
    out = np.empty((height, width, 3), np.uint8)
    step = 128

    def strip(top: int) -> None:
        rows = min(step, height - top)
        out[top : top + rows] = canvas.read(0, top, width, rows)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(strip, range(0, height, step)))
    return out


def mask_bytes(path: Path) -> bytes:
    """Content of a mask file; raises AnnotationError where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        fault = f"cannot be read ({error.strerror})"
        raise AnnotationError(path, fault, "mend the column mask of the manifest") from error


def _from_file(path: Path, slide: Slide, canvas: Canvas) -> NDArray[np.bool_]:
    width, height = canvas.size
    if path.suffix.lower() in (".geojson", ".json"):
        mask = np.zeros((height, width), np.uint8)
        x, y = slide.info.bounds[:2]
        for region in read_geojson(path, offset_xy=(x, y), unclassified=True):
            _fill(mask, region.geometry, canvas)
        return mask.astype(np.bool_)
    coded = np.frombuffer(mask_bytes(path), np.uint8)
    image = cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE) if coded.size else None
    if image is None:
        raise AnnotationError(path, "cannot be read as a mask", "give a PNG, TIFF or GeoJSON mask")
    full_width, full_height = slide.info.dimensions
    start = (
        canvas.origin_xy[0] * image.shape[1] / full_width,
        canvas.origin_xy[1] * image.shape[0] / full_height,
    )
    factor = (
        canvas.scale_xy[0] * image.shape[1] / full_width,
        canvas.scale_xy[1] * image.shape[0] / full_height,
    )
    return area_means(image > 0, start, factor, (width, height)) >= 0.5


def _fill(mask: NDArray[np.uint8], geometry: object, canvas: Canvas) -> None:
    import shapely

    for polygon in shapely.get_parts(geometry):
        rings = [polygon.exterior, *polygon.interiors]
        points = [
            np.rint((np.asarray(r.coords) - canvas.origin_xy) / canvas.scale_xy - 0.5).astype(
                np.int32
            )
            for r in rings
        ]
        cv2.fillPoly(mask, points[:1], 1)
        if points[1:]:
            cv2.fillPoly(mask, points[1:], 0)
