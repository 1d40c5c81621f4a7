"""The making of one tile store in a folder aside: all of it but the running of its blocks."""

from __future__ import annotations

import logging
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from wsikd.core.output.files import check_file
from wsikd.core.output.markers import MARKER, OVERLAY
from wsikd.slides.scaled_view import Canvas
from wsikd.slides.tissue.find import TissueAreas, find_tissue
from wsikd.slides.tissue.overlay import write_overlay
from wsikd.tiles.blocks import PYRAMID, BlockPlan
from wsikd.tiles.cluster import allow_all, clear_leftovers
from wsikd.tiles.grid import TileGrid
from wsikd.tiles.labels import UNLABELLED, label_patches
from wsikd.tiles.layout import add_label, add_table, create_group
from wsikd.tiles.metadata import can_resume
from wsikd.tiles.store import PatchTable, is_group

if TYPE_CHECKING:
    from pathlib import Path

    from wsikd.core.output.place import Place
    from wsikd.core.timing import StageClock
    from wsikd.slides.base import Slide
    from wsikd.slides.tissue.find import TissueMask
    from wsikd.tiles.blocks import Job
    from wsikd.tiles.metadata import SlideNotes
    from wsikd.tiles.store import StoreSettings

log = logging.getLogger(__name__)


class StoreBuild:
    """A store in the making: ``begin``, fill the blocks it names, ``finish``."""

    def __init__(
        self,
        slide: Slide,
        place: Place,
        settings: StoreSettings,
        notes: SlideNotes,
        meta: dict[str, Any],
    ) -> None:
        """Lay the grid; raises MissingMppError, SlideError, ConfigError."""
        self.slide, self.place, self.settings, self.notes = slide, place, settings, notes
        self.part, self.meta = place.part, meta
        sources = settings.mpps if settings.route == PYRAMID else settings.mpps[:1]
        self.levels = [Canvas.plan(slide, mpp).level for mpp in sources]
        self.grid = TileGrid.plan(slide, settings.mpps[0], settings.patch_px, settings.stride_px)
        self.plan = BlockPlan.of(self.part, settings, self.grid)

    def begin(self, workers: int, clock: StageClock) -> list[Job]:
        """Find the tissue and make the arrays; what a killed run finished in them is kept.

        Returns:
            The blocks that are still to be filled.
        """
        if self.notes.overlay is not None:
            check_file(self.notes.overlay, OVERLAY, within=self.place.within)
        self._discard_foreign()
        with clock("tissue"):
            self.tissue = find_tissue(
                self.slide,
                method=self.settings.tissue,
                mask_file=self.notes.mask_file,
                workers=workers,
                areas=TissueAreas(self.settings.min_tissue_um2, self.settings.max_hole_um2),
                picture=self.notes.overlay is not None,
            )
            log.info(
                "%s: tissue on %.1f %% of the scanned area (%s)",
                self.slide.info.name,
                100 * self.tissue.fraction,
                self.tissue.method,
            )
            if self.notes.overlay is not None and self.tissue.thumbnail is not None:
                write_overlay(self.tissue.thumbnail, self.tissue.mask, self.notes.overlay)
        self.table = self._select(self.tissue)
        self.group = self._create()
        return [job for job in self.plan.jobs(self.table) if not self.plan.done(job)]

    def finish(self) -> None:
        """Write the small parts, then the mark of completeness."""
        table, tissue = self.table, self.tissue
        columns = {"coords": table.xy, **dict(list(asdict(table).items())[1:])}
        add_table(self.group, columns, self._table_attributes())
        where = {"origin_xy": tissue.origin_xy, "scale_xy": tissue.scale_xy}
        add_label(
            self.group,
            "tissue",
            tissue.mask,
            mpp=tissue.mpp,
            origin_um=_origin_um(self.slide),
            attributes={"wsikd": where},
        )
        summary: dict[str, Any] = {
            "patches": len(table),
            "labelled": int((table.label != UNLABELLED).sum()),
            "tissue_fraction": round(tissue.fraction, 6),
            "tissue_method": tissue.method,
            "source_levels": self.levels,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        self.group.attrs["wsikd"] = {**self.meta, **summary, "complete": True}

    def _discard_foreign(self) -> None:
        self.place.begin(fresh=False)
        if can_resume(self.part, self.meta):
            clear_leftovers(self.part)
            allow_all(self.part)
            for name in ("patches", "labels"):
                self.place.drop_within(name)
            return
        if any(inner.name != MARKER for inner in self.part.iterdir()):
            why = "unfinished with other settings or another reader; it is started again"
            log.info("%s: %s", self.part.name, why)
            self.place.begin()

    def _create(self) -> zarr.Group:
        plan = self.plan
        if is_group(self.part) and all(is_array(self.part, i) for i in range(len(plan.sizes))):
            return zarr.open_group(self.part, mode="r+")
        if is_group(self.part):  # killed before all of its arrays were there
            self.place.begin()
        group = create_group(
            self.part,
            self.settings,
            shapes=plan.shapes,
            chunk_px=plan.chunk_px,
            shard_px=plan.shard_px,
            attributes={"wsikd": self.meta},
            name=self.slide.info.name,
            origin_um=_origin_um(self.slide),
        )
        self.place.marked()
        return group

    def _select(self, tissue: TissueMask) -> PatchTable:
        cover = self.grid.cover(tissue)
        rows, columns = np.nonzero((cover >= self.settings.min_tissue) & (cover > 0))
        boxes = self.grid.boxes(rows, columns)
        label, share = label_patches(boxes, self.settings, self.notes)
        if not len(boxes):
            why = "no tissue found"
            if tissue.mask.any():
                why = f"no field has {self.settings.min_tissue:.0%} of tissue (--min-tissue)"
                if max(self.grid.field_px) > max(self.slide.info.dimensions):
                    why += "; a field is larger than the slide (--patch-size)"
            log.warning("%s: %s; the store is empty", self.slide.info.name, why)
        return PatchTable(
            boxes[:, :2],
            rows.astype(np.int32),
            columns.astype(np.int32),
            cover[rows, columns],
            label,
            share,
        )

    def _table_attributes(self) -> dict[str, Any]:
        """Attributes with the names of CLAM and TRIDENT, in addition to exact ones."""
        return {
            "patch_size": self.settings.patch_px,
            "patch_size_level0": list(self.grid.field_px),
            "stride_level0": list(self.grid.step_px),
            "target_magnification": 10 / self.settings.mpps[0],
            "mpp": self.settings.mpps[0],
            "level0_mpp": [self.slide.mpp.x, self.slide.mpp.y],
            "bounds_offset": list(self.slide.info.bounds[:2]),
            "classes": list(self.settings.classes),
        }


def is_array(store: Path, index: int) -> bool:
    """Whether array ``index`` of an unfinished store has its metadata."""
    folder = store / str(index)
    old = all((folder / name).is_file() for name in (".zarray", ".zattrs"))  # of OME-Zarr 0.4
    return old or (folder / "zarr.json").is_file()


def _origin_um(slide: Slide) -> tuple[float, float]:
    x, y = slide.info.bounds[:2]
    return (x * slide.mpp.x, y * slide.mpp.y)
