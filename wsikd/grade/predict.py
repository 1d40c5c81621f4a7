"""A slide and a student become a grade map, with the time of each stage.

Threads read fields ahead, one lane computes. Memory is bounded by the batches ahead and a strip of
the slide, whatever its height.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from wsikd.core.errors import ConfigError, SlideError
from wsikd.core.softmax import softmax
from wsikd.core.timing import StageClock
from wsikd.grade.engines import AUTO, Engine, Network, started
from wsikd.grade.engines.check import Checked
from wsikd.grade.engines.choose import check_names, device_name, open_engine
from wsikd.grade.grademap import DETAIL, GradeMap
from wsikd.grade.picture import Picture
from wsikd.slides.listing.manifest import open_entry
from wsikd.slides.scaled_view import Canvas
from wsikd.slides.tissue.find import find_tissue
from wsikd.tiles.grid import TileGrid
from wsikd.tiles.stream import stream_patches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    import torch
    from numpy.typing import NDArray

    from wsikd.models.feature_guard import FeatureGuard
    from wsikd.models.files.bundle import InputSpec
    from wsikd.models.guard import Guard
    from wsikd.slides.base import Slide
    from wsikd.slides.listing.manifest import SlideEntry
    from wsikd.slides.tissue.find import TissueMask

    Batch = tuple[NDArray[np.int64], NDArray[np.uint8]]
    Watch = Callable[[NDArray[np.int64], int, NDArray[np.uint8]], None]
    _Pending = tuple[NDArray[np.int64], Callable[[], NDArray[np.float32]]]


MOST_BYTES = 32 << 20
"""Patches of a slide that are kept from before its turn; those of a biopsy take 1 to 20 MB."""


@dataclass(frozen=True)
class Prepared:
    """What was done of a slide ahead of its turn.

    ``batches`` are its fields, as ``stream_patches`` yields them; None if they are too many to be
    kept.
    """

    tissue: TissueMask
    batches: Sequence[Batch] | None = None


@dataclass(frozen=True)
class PredictSettings:
    """How a slide is read, in addition to the student's card.

    ``stride_px`` is at the student's resolution (default: its patch); ``max_fields`` reads an even
    sample of the fields instead of all; ``engine`` and ``precision`` are those of
    ``engines.choose.open_engine``. Without ``exact``, a slide that has no level near the student's
    resolution is reduced inside its JPEG decoder by what it can, within 1.5 grey levels (RMSE).
    """

    stride_px: int | None = None
    tissue: str = "otsu"
    min_tissue: float = 0.1
    batch_size: int = 32
    workers: int = 2
    max_fields: int | None = None
    engine: str = AUTO
    precision: str = "fp32"
    exact: bool = True


class SlidePredictor:
    """Runs one network over slides.

    Args:
        network: maps uint8 (B, 3, patch_px, patch_px) to logits (B, classes), or what makes one.
        spec: resolution, patch size and classes of the network's input.
        device: auto, cpu, cuda:0.
        settings: see :class:`PredictSettings`.
        guard: guard of the network.
    """

    def __init__(
        self,
        network: torch.nn.Module | Network,
        spec: InputSpec,
        *,
        device: str = "auto",
        settings: PredictSettings | None = None,
        guard: Guard | FeatureGuard | None = None,
    ) -> None:
        """Prepare; the engine is opened at the first field."""
        self.spec, self.settings, self.guard = spec, settings or PredictSettings(), guard
        self.network = (
            network if isinstance(network, Network) else Network(lambda: network, spec.patch_px)
        )
        self.place = device_name(device)
        self.engine: Engine | None = None
        self._settled = False
        check_names(self.settings.engine, self.settings.precision)
        stride = self.settings.stride_px
        if stride is not None and not 0 < stride <= spec.patch_px:
            raise ConfigError(
                "--stride",
                f"{stride} px is larger than the patch or below 1",
                f"give 1 to {spec.patch_px}",
            )

    @property
    def device(self) -> torch.device:
        """The device."""
        from wsikd.models.device import pick_device

        return pick_device(self.place)

    def predict_entry(
        self, entry: SlideEntry, *, on_progress: Callable[[int, int], None] | None = None
    ) -> GradeMap:
        """Open a slide, predict it, close it; opening counts in the times."""
        clock = StageClock()
        with clock("open"):
            slide = open_entry(entry)
        with slide:
            return self.predict(slide, mask_file=entry.mask, clock=clock, on_progress=on_progress)

    def predict(
        self,
        slide: Slide,
        *,
        mask_file: Path | None = None,
        prepared: Prepared | None = None,
        clock: StageClock | None = None,
        on_progress: Callable[[int, int], None] | None = None,
        watch: Watch | None = None,
        picture: bool = False,
    ) -> GradeMap:
        """Grade the tissue of an open slide.

        Args:
            slide: an open slide.
            mask_file: the user's own tissue mask.
            prepared: what :meth:`prepare` has found and read already.
            clock: takes the time of the stages; a new one by default.
            on_progress: called with (fields done, fields in all).
            watch: shown every batch: indices of its fields, fields in all, and its patches, uint8
                (B, height, width, 3), which are overwritten afterwards.
            picture: keep a picture of the slide with the map, of the pixels that are read.

        Raises:
            MissingMppError, RegionReadError, SlideError: from the slide.
        """
        clock = clock or StageClock()
        spec = self.spec
        grid = self.grid(slide)
        if prepared is None:
            with clock("tissue"):
                prepared = Prepared(self.tissue(slide, mask_file))
        tissue = prepared.tissue
        valid = self._valid(grid, tissue)
        rows, columns = np.nonzero(valid)
        probability = np.full((len(spec.classes), *valid.shape), np.nan, np.float32)
        seen = Picture(tissue, grid, rows, columns) if picture else None
        probability[:, valid] = self.read(
            slide, rows, columns, clock=clock, on_progress=on_progress,
            watch=_both(watch, seen), batches=prepared.batches,
        ).T  # fmt: skip
        found = _grade_map(slide, grid, spec, probability, valid, tissue, clock)
        return replace(found, picture=seen.view) if seen else found

    def prepare(self, slide: Slide, mask_file: Path | None, clock: StageClock) -> Prepared:
        """Find the tissue of a slide ahead of its turn, and read its fields if they are few.

        Args:
            slide: an open slide.
            mask_file: the user's own tissue mask.
            clock: takes the time of the stages.

        Raises:
            MissingMppError, RegionReadError, SlideError: from the slide.
        """
        with clock("tissue"):
            tissue = self.tissue(slide, mask_file)
        grid, size = self.grid(slide), self.settings.batch_size
        rows, columns = np.nonzero(self._valid(grid, tissue))
        if len(rows) * 3 * grid.patch_px**2 > MOST_BYTES:
            return Prepared(tissue)
        read = stream_patches(
            self.canvas(slide), grid, rows, columns, batch_size=size, workers=0, clock=clock
        )
        return Prepared(tissue, [(index, patches.copy()) for index, patches in read])

    def _valid(self, grid: TileGrid, tissue: TissueMask) -> NDArray[np.bool_]:
        """Fields of a grid that are graded: bool (rows, columns)."""
        cover = grid.cover(tissue)
        valid = (cover >= self.settings.min_tissue) & (cover > 0)
        return _sample(valid, self.settings.max_fields)

    def tissue(self, slide: Slide, mask_file: Path | None = None) -> TissueMask:
        """Where the settings find tissue; raises as :func:`find_tissue`."""
        settings = self.settings
        return find_tissue(
            slide, method=settings.tissue, mask_file=mask_file, workers=settings.workers
        )

    def canvas(self, slide: Slide) -> Canvas:
        """How a slide is seen; raises MissingMppError, SlideError where it is too coarse."""
        return Canvas.plan(slide, self.spec.mpp, close=not self.settings.exact)

    def grid(self, slide: Slide) -> TileGrid:
        """Where this network's fields lie on a slide; raises MissingMppError."""
        return TileGrid.plan(slide, self.spec.mpp, self.spec.patch_px, self.settings.stride_px)

    def read(
        self,
        slide: Slide,
        rows: NDArray[np.integer],
        columns: NDArray[np.integer],
        *,
        clock: StageClock | None = None,
        on_progress: Callable[[int, int], None] | None = None,
        watch: Watch | None = None,
        batches: Iterable[Batch] | None = None,
    ) -> NDArray[np.float32]:
        """Class probabilities of some fields of :meth:`grid`, read row by row.

        Args:
            slide: an open slide.
            rows: grid row of each field, int (N,), not falling.
            columns: grid column of each, int (N,), rising within a row.
            clock: takes the time of the stages.
            on_progress: called with (fields done, fields in all).
            watch: as in :meth:`predict`.
            batches: the fields, if they were read already: indices into ``rows``, and patches.

        Returns:
            float32 (N, classes).

        Raises:
            RegionReadError, SlideError: from the slide, or outputs that are not finite numbers.
        """
        clock = clock or StageClock()
        found = np.empty((len(rows), len(self.spec.classes)), np.float32)
        done = 0
        if not len(rows):
            return found
        with clock("forward"):
            engine = self.ready(len(rows))
        if batches is None:
            batches = stream_patches(
                self.canvas(slide),
                self.grid(slide),
                rows,
                columns,
                batch_size=self.settings.batch_size,
                workers=self.settings.workers,
                clock=clock,
            )
        pending = _pending()

        def take() -> None:
            nonlocal done
            index, wait = pending.popleft()
            with clock("forward"):
                logits = wait()
                if not np.isfinite(logits).all():
                    raise _overflow(slide, engine)
                found[index] = softmax(logits, dtype=np.float32)
            done += len(index)
            if on_progress:
                on_progress(done, len(rows))

        for index, patches in batches:
            with clock("forward"):
                pending.append((index, started(engine, patches)))
            if watch:
                with clock("watch"):
                    watch(index, len(rows), patches)
            if len(pending) >= getattr(engine, "in_flight", 1):
                take()
        while pending:
            take()
        return found

    def ready(self, fields: int = 0) -> Engine:
        """The engine, opened if it is not; ``fields`` is how many are to be read first."""
        if self.engine is None:
            settings = self.settings
            self.engine = open_engine(
                self.network,
                settings.engine,
                settings.precision,
                device=self.place,
                threads=settings.workers,
                fields=fields,
                check=not self._settled,
            )
        return self.engine

    def settle(self, engine: str, precision: str) -> None:
        """Compute with this from now on; bf16 is not compared with fp32 again."""
        own = self.engine.alone(precision) if isinstance(self.engine, Checked) else self.engine
        fits = own is not None and (own.name, own.precision) == (engine, precision)
        self.engine, self._settled = own if fits else None, True
        self.settings = replace(self.settings, engine=engine, precision=precision)

    def trial(self, fields: int) -> SlidePredictor:
        """One that shares this one's engine and reads an even sample of a slide's fields."""
        settings = replace(self.settings, max_fields=fields)
        other = SlidePredictor(
            self.network, self.spec, device=self.place, settings=settings, guard=self.guard
        )
        other.engine = self.engine
        return other


def _pending() -> deque[_Pending]:
    """Batches whose outputs are awaited, the oldest first."""
    return deque()


def _both(watch: Watch | None, seen: Picture | None) -> Watch | None:
    """Show batches to both."""
    if seen is None:
        return watch

    def show(index: NDArray[np.int64], count: int, patches: NDArray[np.uint8]) -> None:
        if watch:
            watch(index, count, patches)
        seen(index, patches)

    return show


def _overflow(slide: Slide, engine: Engine) -> SlideError:
    fault = f"the network's outputs are NaN or infinite (engine {engine.name}, {engine.precision})"
    remedy = "use --engine torch --precision fp32; if that does not help, train the student again"
    return SlideError(slide.info.file, fault, remedy)


def _sample(valid: NDArray[np.bool_], limit: int | None) -> NDArray[np.bool_]:
    """Every n-th field where there are more than ``limit``."""
    count = int(valid.sum())
    if limit is None or count <= limit:
        return valid
    keep = np.zeros_like(valid)
    chosen = np.flatnonzero(valid)[np.linspace(0, count - 1, limit).round().astype(np.int64)]
    keep.flat[chosen] = True
    return keep


def _grade_map(
    slide: Slide,
    grid: TileGrid,
    spec: InputSpec,
    probability: NDArray[np.float32],
    valid: NDArray[np.bool_],
    tissue: TissueMask,
    clock: StageClock,
) -> GradeMap:
    """Where strides overlap, a cell is the middle of its field, one stride large."""
    shift = [(field - step) / 2 for field, step in zip(grid.field_px, grid.step_px, strict=True)]
    origin = (grid.origin_xy[0] + shift[0], grid.origin_xy[1] + shift[1])
    part = (grid.step_px[0] / DETAIL, grid.step_px[1] / DETAIL)
    parts = (grid.columns * DETAIL, grid.rows * DETAIL)
    return GradeMap(
        probability_khw=probability,
        valid_hw=valid,
        tissue_hw=tissue.cover(origin, grid.step_px, (grid.columns, grid.rows)),
        mpp=grid.stride_px * spec.mpp,
        origin_xy=origin,
        cell_px=grid.step_px,
        classes=tuple(spec.classes),
        slide=slide.info,
        seconds=dict(clock.seconds),
        tissue_mask_hw=tissue.within(origin, part, parts),
    )
