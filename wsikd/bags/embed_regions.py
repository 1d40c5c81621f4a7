"""Regions of slides become grids of tile embeddings, the input of a region encoder.

A region is a square of ``region_px`` at ``mpp``, cut into g x g tiles that a frozen encoder embeds.
Regions lie side by side from the corner of the scanned box on. One that reaches beyond it is filled
up with the slide's background, and taken only if enough of it lies inside. The tiles of all regions
are read strip by strip, so that each tile of the file is decoded once.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from wsikd.bags.embed import Embedded, Embedder, EmbedSettings, settings_for, there
from wsikd.core.errors import ConfigError, DataError
from wsikd.core.output.lock import locked
from wsikd.core.timing import StageClock
from wsikd.slides.file_format import files_of
from wsikd.slides.listing.manifest import open_entry
from wsikd.slides.scaled_view import Canvas
from wsikd.slides.tissue.find import find_tissue
from wsikd.tiles.grid import TileGrid
from wsikd.tiles.stream import stream_patches

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from wsikd.bags.embed import Batches, Finish, Progress
    from wsikd.models.encoders.base import Encoder
    from wsikd.slides.base import Slide
    from wsikd.slides.listing.manifest import SlideEntry
    from wsikd.slides.tissue.find import TissueMask

logger = logging.getLogger(__name__)
TILE_PX = 256
"""Side of a tile if the encoder does not state it."""


@dataclass(frozen=True)
class RegionSettings(EmbedSettings):
    """Settings that decide a slide's region grids, in addition to slide and encoder.

    ``patch_px`` is the side of a tile, ``min_tissue`` counts the whole region.

    Attributes:
        region_px: side of a region at ``mpp``, a multiple of ``patch_px``.
        min_inside: smallest share of a region's area within the scanned box.
        coarser: a slide whose own um/px is above ``mpp`` by at most this share is read at its own.
        half: store float16.
    """

    region_px: int = 4096
    min_inside: float = 0.75
    coarser: float = 0.05
    half: bool = False

    @property
    def side(self) -> int:
        """Tiles on a side of a region, g."""
        return self.region_px // self.patch_px


def region_settings(
    encoder: Encoder, mpp: float | None, tile_px: int | None, region_px: int, **more: object
) -> RegionSettings:
    """Resolution, tile and region: as asked, else the encoder's own; tiles of 256 px otherwise.

    Raises:
        ConfigError: neither says the resolution, or a region is not a whole number of tiles.
    """
    tile_px = tile_px or encoder.spec.patch_px or TILE_PX
    own = settings_for(encoder, mpp, tile_px)
    if region_px < tile_px or region_px % tile_px:
        near = max(1, round(region_px / tile_px)) * tile_px
        raise ConfigError(
            f"--regions {region_px}", f"is not a whole number of tiles of {tile_px} px",
            f"give --regions {near}, or another --patch-size",
        )  # fmt: skip
    return RegionSettings(own.mpp, tile_px, region_px=region_px, **more)  # type: ignore[arg-type]


class RegionEmbedder(Embedder):
    """Runs one encoder over the regions of slides; see :class:`Embedder`."""

    settings: RegionSettings

    def start_slide(
        self,
        entry: SlideEntry,
        path: Path,
        *,
        overwrite: bool = False,
        on_progress: Progress = None,
    ) -> Finish:
        """Embed the regions of a slide, features (R, D, g, g); see :meth:`Embedder.start_slide`.

        Raises:
            SlideError: the slide cannot be used.
            DataError: the bag there was made with other settings, or an embedding is not a finite
                number.
            OutputError: it cannot be written.
        """
        clock, settings = StageClock(), self.settings
        with clock("open"):
            slide = open_entry(entry)
        with slide, ExitStack() as held:
            held.enter_context(locked(path))
            mpp = _own_if_near(slide, settings)
            grid = TileGrid.plan(slide, mpp, settings.region_px)
            more = {} if mpp == settings.mpp else {"read_mpp": mpp}
            info = self._describe(slide, entry, path, settings.region_px, grid.field_px, **more)
            read = files_of(entry.path, entry.mask)
            found = there(path, info, overwrite=overwrite, regions=True, inputs=read)
            if found is not None:
                return partial(Embedded, found, made=False, seconds={})
            with clock("tissue"):
                tissue = find_tissue(
                    slide, method=settings.tissue, mask_file=entry.mask, workers=self.threads
                )
            rows, columns = choose_regions(grid, tissue, slide.info.bounds, settings)
            if not len(rows):
                logger.warning(
                    "%s: no region of %g um has a share of %g on the slide and %g of tissue; give "
                    "a smaller --regions, or a lower --min-inside or --min-tissue",
                    slide.info.file, settings.region_px * mpp,
                    settings.min_inside, settings.min_tissue,
                )  # fmt: skip
            where, tile_rows, tile_columns = tiles_of(rows, columns, settings.side)
            batches = stream_patches(
                Canvas.plan(slide, mpp), TileGrid.plan(slide, mpp, settings.patch_px),
                tile_rows, tile_columns,
                batch_size=self.batch_size, workers=self.threads, clock=clock,
            )  # fmt: skip
            features = self._grids(len(rows), where, batches, clock, on_progress)
            if not np.isfinite(features).all():
                remedy = "leave --float16 out" if settings.half else "take another encoder"
                raise DataError(slide.info.file, "has an embedding that is not finite", remedy)
            xy = grid.boxes(rows, columns)[:, :2]
            return self._finish(held.pop_all(), path, info, features, xy, clock, read)

    def _grids(
        self,
        count: int,
        where: NDArray[np.int64],
        batches: Batches,
        clock: StageClock,
        on_progress: Progress,
    ) -> NDArray[np.floating]:
        """Embeddings, each at its region, row and column: (count, D, g, g)."""
        side, dim = self.settings.side, self.spec.dim
        dtype = np.float16 if self.settings.half else np.float32
        grids: NDArray[np.floating] = np.empty((count, dim, side, side), dtype)
        done = 0
        for index, found in self._computed(batches, clock):
            region, row, column = where[index].T
            with np.errstate(over="ignore"):  # reported by the caller
                grids[region, :, row, column] = found
            done += len(index)
            if on_progress:
                on_progress(done, len(where))
        return grids


def choose_regions(
    grid: TileGrid,
    tissue: TissueMask,
    bounds: tuple[int, int, int, int],
    settings: RegionSettings,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row and column of the regions with enough tissue and enough of the slide, row by row.

    Args:
        grid: grid of regions.
        tissue: tissue of the slide.
        bounds: the scanned box, level-0 (x, y, width, height).
        settings: says how much is enough.
    """
    inside = [
        np.clip(length - np.arange(count) * step, 0, size) / size
        for length, count, step, size in (
            (bounds[3], grid.rows, grid.step_px[1], grid.field_px[1]),
            (bounds[2], grid.columns, grid.step_px[0], grid.field_px[0]),
        )
    ]
    cover = grid.cover(tissue)
    enough = np.outer(*inside) >= settings.min_inside - 1e-9
    rows, columns = np.nonzero(enough & (cover >= settings.min_tissue) & (cover > 0))
    return rows.astype(np.int64), columns.astype(np.int64)


def tiles_of(
    rows: NDArray[np.int64], columns: NDArray[np.int64], side: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Tiles of regions in the order in which they lie on the slide, row by row.

    Args:
        rows: rows of regions, int64 (R,).
        columns: the same.
        side: tiles on a side of a region, g.

    Returns:
        For each tile its region, row and column within it, int64 (R g g, 3); its row on the
        slide's grid of tiles, int64 (R g g,); its column there.
    """
    count = len(rows)
    region, row, column = np.indices((count, side, side)).reshape(3, -1)
    tile_rows, tile_columns = rows[region] * side + row, columns[region] * side + column
    order = np.lexsort((tile_columns, tile_rows))
    where = np.stack([region, row, column], 1)
    return where[order], tile_rows[order], tile_columns[order]


def _own_if_near(slide: Slide, settings: RegionSettings) -> float:
    """The resolution to read at: the slide's own, where that is a little coarser than asked."""
    own = max(slide.mpp.x, slide.mpp.y)
    near = settings.mpp < own <= settings.mpp * (1 + settings.coarser)
    return own if near else settings.mpp
