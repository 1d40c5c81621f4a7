"""Where on the slide there is tissue."""

from __future__ import annotations

import logging
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from wsikd.core.errors import AnnotationError, SlideError
from wsikd.core.registry import resolve
from wsikd.slides.checks.brightfield import check_pixels, glimpse
from wsikd.slides.resample.area import means_over, running_sums
from wsikd.slides.scaled_view import Canvas
from wsikd.slides.tissue.maskers import MASKERS
from wsikd.slides.tissue.otsu import without_small

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from wsikd.slides.base import Slide
    from wsikd.slides.readers.zarr_chunks import AbsentChunks

log = logging.getLogger(__name__)

MASK_MPP = 8.0
_MOST_PX = 1 << 27
_LITTLE = 0.005
_FEW_STRIPS = 2


class TissueAreas(NamedTuple):
    """Smallest areas that count, in um2.

    Attributes:
        min_tissue_um2: pieces of tissue below this are dropped.
        max_hole_um2: holes in tissue below this are filled.
    """

    min_tissue_um2: float = 20_000.0
    max_hole_um2: float = 20_000.0


def default_areas(method: str) -> TissueAreas:
    """Area filters where none are given: those of Otsu; none for what filters by itself."""
    return TissueAreas() if method == "otsu" else TissueAreas(0.0, 0.0)


@dataclass(frozen=True)
class TissueMask:
    """Tissue of a slide on a coarse grid.

    Attributes:
        mask: bool (height, width).
        mpp: um per mask pixel.
        origin_xy: level-0 corner.
        scale_xy: level-0 pixels per mask pixel.
        method: the masker, or the file it came from.
        thumbnail: uint8 (height, width, 3), the slide on the mask's grid, where it was read.
    """

    mask: NDArray[np.bool_]
    mpp: float
    origin_xy: tuple[float, float]
    scale_xy: tuple[float, float]
    method: str
    thumbnail: NDArray[np.uint8] | None = field(default=None, repr=False, compare=False)

    @property
    def fraction(self) -> float:
        """Share of the scanned box that is tissue."""
        return np.count_nonzero(self.mask) / max(1, self.mask.size)

    @cached_property
    def _sums(self) -> NDArray[np.int32]:
        return running_sums(self.mask)

    def within(
        self, origin_xy: tuple[float, float], cell_px: tuple[float, float], size: tuple[int, int]
    ) -> NDArray[np.bool_]:
        """Whether the centre of each cell of a grid is tissue: bool (rows, columns).

        Arguments as of :meth:`cover`.
        """
        inside = []
        for axis in (0, 1):
            centre = origin_xy[axis] + (np.arange(size[axis]) + 0.5) * cell_px[axis]
            index = np.floor((centre - self.origin_xy[axis]) / self.scale_xy[axis])
            inside.append(index.astype(np.int64))
        padded = np.pad(self.mask, 1)
        column, row = (
            np.clip(index + 1, 0, padded.shape[1 - axis] - 1) for axis, index in enumerate(inside)
        )
        return np.asarray(padded[np.ix_(row, column)])

    def cover(
        self,
        origin_xy: tuple[float, float],
        cell_px: tuple[float, float],
        size: tuple[int, int],
        step_px: tuple[float, float] | None = None,
    ) -> NDArray[np.float32]:
        """Tissue share of each cell of a grid, exact areas: float32 (rows, columns).

        Args:
            origin_xy: level-0 corner of the grid.
            cell_px: level-0 (width, height) of a cell.
            size: (columns, rows).
            step_px: level-0 (x, y) from cell to cell; default ``cell_px``.
        """
        scale = self.scale_xy
        start = (
            (origin_xy[0] - self.origin_xy[0]) / scale[0],
            (origin_xy[1] - self.origin_xy[1]) / scale[1],
        )
        factor = (cell_px[0] / scale[0], cell_px[1] / scale[1])
        step = (step_px[0] / scale[0], step_px[1] / scale[1]) if step_px else None
        return np.minimum(means_over(self._sums, start, factor, size, step), 1)


def find_tissue(
    slide: Slide,
    *,
    method: str = "otsu",
    mask_file: Path | None = None,
    workers: int = 2,
    areas: TissueAreas | None = None,
    picture: bool = False,
) -> TissueMask:
    """Find the tissue of a slide at about 8 um/px.

    Where the slide lacks pixels (absent chunks of an OME-Zarr) there is none, by any method.

    Args:
        slide: an open slide.
        method: an entry of ``MASKERS``.
        mask_file: the user's own mask instead: an image of the whole slide plane or of its bounds
            (any size, not zero = tissue) or GeoJSON whose polygons are tissue, of whatever class or
            none. It is taken as it is.
        workers: threads that read.
        areas: what is too small to count; by default ``default_areas(method)``. Not asked for
            ``all`` and for the user's own mask.
        picture: read the thumbnail even where the mask needs none.

    Raises:
        MissingMppError, RegionReadError: from the slide.
        NotBrightfieldError: the slide is grey, or bright on dark.
        SlideError: it claims a size that no slide has.
        AnnotationError: the mask file cannot be used, or covers no part of the slide.
    """
    mpp = max(MASK_MPP, slide.mpp.x, slide.mpp.y)
    canvas = Canvas.plan(slide, mpp, rough=True)
    if math.prod(canvas.size) > _MOST_PX:
        width, height = canvas.size
        fault = f"claims {width} x {height} px at {mpp:g} um/px, more than any slide has"
        raise SlideError(slide.info.name, fault, "check its size and mpp with wsikd info")
    thumbnail = None
    if picture or (mask_file is None and method != "all"):
        thumbnail = _overview(canvas, workers)
    check_pixels(slide.info, glimpse(slide) if thumbnail is None else thumbnail)
    unscanned = _unscanned(slide, canvas)
    if thumbnail is not None and unscanned is not None:
        thumbnail[unscanned] = slide.info.background
    if mask_file is not None:
        mask = _from_file(mask_file, slide, canvas)
        if not mask.any():
            raise AnnotationError(mask_file, "covers no part of the slide", "correct the mask")
        method = mask_file.name
    elif method == "all":
        mask = np.ones(canvas.size[::-1], np.bool_)
    else:
        found = resolve(MASKERS, method, kind="maskers")(thumbnail, mpp)
        mask = filter_areas(found, mpp, areas or default_areas(method))
    if unscanned is not None:
        mask = mask & ~unscanned
    tissue = TissueMask(mask, mpp, canvas.origin_xy, canvas.scale_xy, method, thumbnail)
    _warn_of_little(slide.info.name, tissue)
    return tissue


def _unscanned(slide: Slide, canvas: Canvas) -> NDArray[np.bool_] | None:
    """Where the slide lacks pixels, on the canvas: bool (height, width); None where nowhere."""
    absent: AbsentChunks | None = getattr(slide, "unscanned", None)
    if not absent:
        return None
    log.warning("%s: %s; no field there counts as tissue", slide.info.name, absent)
    return absent.on(canvas.origin_xy, canvas.scale_xy, canvas.size)


def _warn_of_little(name: str, tissue: TissueMask) -> None:
    share = 100 * tissue.fraction
    if tissue.fraction < _LITTLE:
        advice = "try another --tissue, or a smaller --min-tissue-area"
        log.warning("%s: tissue on only %.2f %% of the scanned area; %s", name, share, advice)


def everything(thumbnail: NDArray[np.uint8], mpp: float) -> NDArray[np.bool_]:
    """Take the whole scanned box as tissue."""
    del mpp
    return np.ones(thumbnail.shape[:2], np.bool_)


def filter_areas(
    mask: NDArray[np.bool_], mpp: float, areas: TissueAreas | None = None
) -> NDArray[np.bool_]:
    """Drop small pieces, then fill small holes: bool (height, width).

    Args:
        mask: bool (height, width).
        mpp: um per pixel.
        areas: what is small; 0 leaves a step out; by default those of Otsu.
    """
    areas = areas or TissueAreas()
    kept = without_small(mask, areas.min_tissue_um2 / mpp**2)
    return ~without_small(~kept, areas.max_hole_um2 / mpp**2)


def _overview(canvas: Canvas, workers: int) -> NDArray[np.uint8]:
    """The whole canvas, read in strips by threads: uint8 (height, width, 3)."""
    width, height = canvas.size
    out = np.empty((height, width, 3), np.uint8)
    step = 256  # rows of whole tiles, as most slides have them: each is decoded once, kept nowhere

    def strip(top: int) -> None:
        rows = min(step, height - top)
        canvas.read(0, top, width, rows, out=out[top : top + rows])

    if height <= _FEW_STRIPS * step:  # to start threads takes longer
        for top in range(0, height, step):
            strip(top)
        return out
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(strip, range(0, height, step)))
    return out


def mask_bytes(path: Path) -> bytes:
    """Content of a mask file; raises AnnotationError where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        fault = f"cannot be read ({error.strerror})"
        raise AnnotationError(path, fault, "correct the column mask of the manifest") from error


def _from_file(path: Path, slide: Slide, canvas: Canvas) -> NDArray[np.bool_]:
    from wsikd.slides.annotations.geojson import read_geojson
    from wsikd.slides.annotations.mask import placed
    from wsikd.slides.annotations.mask_image import LabelPlane

    width, height = canvas.size
    if path.suffix.lower() in (".geojson", ".json"):
        mask = np.zeros((height, width), np.uint8)
        x, y = slide.info.bounds[:2]
        for region in read_geojson(path, offset_xy=(x, y), unclassified=True):
            _fill(mask, region.geometry, canvas)
        return mask.astype(np.bool_)
    plane = LabelPlane.open(path)
    origin, scale = placed(plane, slide)
    start = tuple((canvas.origin_xy[i] - origin[i]) * scale[i] for i in (0, 1))
    factor = tuple(canvas.scale_xy[i] * scale[i] for i in (0, 1))
    cover = plane.cover((start[0], start[1]), (factor[0], factor[1]), (width, height))
    return np.asarray(cover >= 0.5 - 1e-6)


def _fill(mask: NDArray[np.uint8], geometry: object, canvas: Canvas) -> None:
    """Add polygons to a mask; the holes of one leave be what another has filled."""
    import shapely

    for polygon in shapely.get_parts(geometry):
        points = [
            np.rint((np.asarray(r.coords) - canvas.origin_xy) / canvas.scale_xy - 0.5).astype(
                np.int32
            )
            for r in (polygon.exterior, *polygon.interiors)
        ]
        corner = np.maximum(points[0].min(0), 0)
        left, top = corner.tolist()
        right, bottom = (points[0].max(0) + 1).tolist()
        window = mask[top : max(top, bottom), left : max(left, right)]
        if window.size:
            plane = np.zeros_like(window)
            cv2.fillPoly(plane, [ring - corner for ring in points], 1)  # even-odd
            window |= plane
