"""The work on one slide, as a call that another process can run."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from wsikd.core.errors import StoreError
from wsikd.core.timing import StageClock
from wsikd.slides.annotations.read import read_annotation
from wsikd.slides.annotations.survey import Survey, survey_annotation
from wsikd.slides.file_format import files_of
from wsikd.slides.listing.manifest import open_entry
from wsikd.tiles import write as tiling
from wsikd.tiles.blocks import BlockPlan
from wsikd.tiles.compare_levels import compare_routes
from wsikd.tiles.estimate import Estimate, estimate
from wsikd.tiles.labels import LabelCount
from wsikd.tiles.metadata import SlideNotes, describe
from wsikd.tiles.store import TileStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wsikd.slides.annotations.read import LabelMap
    from wsikd.slides.base import Slide
    from wsikd.slides.listing.manifest import SlideEntry
    from wsikd.tiles.compare_levels import RouteDifference
    from wsikd.tiles.store import StoreSettings

    Report = Callable[..., None]


@dataclass(frozen=True)
class TileJob:
    """A slide to tile: ``entry`` into ``out/<name>.zarr`` with the settings.

    ``label_map`` and ``key`` are as in :class:`SlideNotes`; ``scheduler`` is the address of a Dask
    cluster that fills the blocks, default ``threads`` threads.
    """

    entry: SlideEntry
    out: Path
    settings: StoreSettings
    label_map: tuple[tuple[str, str], ...] = ()
    key: bytes | None = None
    threads: int = 1
    overwrite: bool = False
    scheduler: str | None = None

    @property
    def store(self) -> Path:
        """Where the store goes."""
        return self.out / f"{self.entry.name}.zarr"


@dataclass(frozen=True)
class Tiled:
    """What came of a slide; ``made`` is false where its store was there already."""

    patches: int
    labelled: int
    made: bool
    reader: str
    reader_note: str
    labels: LabelCount
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Foreseen:
    """What tiling a slide will take, None where its store is there already, and its labels."""

    estimate: Estimate | None
    labels: LabelCount


@dataclass(frozen=True)
class Pace:
    """Progress of a chunk: patches, and level-0 pixels in millions."""

    patches: float
    level0_mp: float


def tile_job(report: Report, job: TileJob) -> Tiled:
    """Tile one slide.

    Args:
        report: called with (chunks done, chunks in all, what a chunk is worth).
        job: the slide and how.

    Raises:
        WsikdError: as :func:`wsikd.slides.base.open_slide` and
            :func:`wsikd.tiles.write.tile_slide` have it.
    """
    _one_thread_each()
    clock, start = StageClock(), time.perf_counter()
    with clock("open"):
        slide = open_entry(job.entry)
    with slide:
        notes = _notes(job, slide)
        pace = _pace(job.settings, slide)
        store, made = tiling.tile_slide(
            slide,
            job.store,
            job.settings,
            notes,
            workers=job.threads,
            overwrite=job.overwrite,
            on_progress=lambda done, total: report(done, total, pace),
            clock=clock,
            cluster=_cluster(job),
            inputs=files_of(job.entry.path, job.entry.annotation, job.entry.mask),
        )
        labels = LabelCount.of(store.patches.label, store.classes, notes.annotation)
        seconds = {**clock.seconds, "total": time.perf_counter() - start}
        rounded = {stage: round(spent, 3) for stage, spent in seconds.items()}
        info = slide.info
    reader = (info.reader, info.reader_note)
    return Tiled(labels.patches, labels.labelled, made, *reader, labels, rounded)


def estimate_job(report: Report, job: TileJob) -> Foreseen:
    """Estimate what tiling one slide takes; write nothing.

    Raises:
        WsikdError: as :func:`tile_job` would at once; a store of other settings among them.
    """
    _one_thread_each()
    with open_entry(job.entry) as slide:
        notes = _notes(job, slide)
        meta = describe(slide, job.settings, notes, job.out)
        if not job.overwrite and tiling.is_made(job.store, meta, notes.reader):
            store = TileStore.open(job.store)
            there = LabelCount.of(store.patches.label, store.classes, notes.annotation)
            return Foreseen(None, there)
        found = estimate(slide, job.store, job.settings, notes, meta, workers=job.threads)
        return Foreseen(found, LabelCount.of(found.label, job.settings.classes, notes.annotation))


def survey_job(report: Report, file: Path, label_map: LabelMap) -> Survey:
    """The content of an annotation file; see :mod:`wsikd.slides.annotations.survey`."""
    return survey_annotation(file, label_map)


def compare_job(report: Report, job: TileJob) -> list[RouteDifference]:
    """Measure how far the two routes differ on one slide; see ``compare_routes``."""
    _one_thread_each()
    with open_entry(job.entry) as slide:
        return compare_routes(slide, job.settings, mask_file=job.entry.mask, workers=job.threads)


def _notes(job: TileJob, slide: Slide) -> SlideNotes:
    entry = job.entry
    annotation: Any = None
    if entry.annotation:
        annotation = read_annotation(entry.annotation, slide, job.label_map)
    return SlideNotes(
        annotation,
        entry.label,
        entry.patient,
        entry.split,
        entry.mask,
        overlay=job.out / "overlays" / f"{entry.name}.png",
        key=job.key,
        reader=None if entry.reader == "auto" else slide.info.reader,
    )


def _cluster(job: TileJob) -> tiling.Cluster | None:
    if job.scheduler is None:
        return None
    if not job.out.is_absolute() or not job.entry.path.is_absolute():
        raise StoreError(job.store, "a relative path, which other machines do not know", "name it")
    return tiling.Cluster(job.scheduler, partial(open_entry, job.entry))


def _pace(settings: StoreSettings, slide: Slide) -> Pace:
    side = BlockPlan("", settings, 1, 1).chunk_px[0]
    level0 = side**2 * settings.mpps[0] ** 2 / (slide.mpp.x * slide.mpp.y)
    return Pace((side / settings.stride_px) ** 2, level0 / 1e6)


def _one_thread_each() -> None:
    """Keep OpenCV to one thread in each of ours."""
    import cv2

    cv2.setNumThreads(1)
