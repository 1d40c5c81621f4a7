"""Patches of slides, or of tile stores, become bags of embeddings; nothing is trained."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from wsikd.bags.bag import BagInfo, bag_place, open_bag, write_bag
from wsikd.core.errors import ConfigError, DataError
from wsikd.core.output.lock import locked
from wsikd.core.timing import StageClock
from wsikd.models.device import computes_fp16, pick_device, upload
from wsikd.models.in_flight import Lane, in_turn, most_in_flight
from wsikd.models.memory import Halved
from wsikd.slides.file_format import files_of
from wsikd.slides.listing.manifest import open_entry
from wsikd.slides.scaled_view import Canvas
from wsikd.slides.tissue.find import find_tissue
from wsikd.tiles.grid import TileGrid
from wsikd.tiles.metadata import hide_patient
from wsikd.tiles.store import TileStore, differences
from wsikd.tiles.stream import stream_patches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from wsikd.models.encoders.base import Encoder
    from wsikd.slides.base import Slide
    from wsikd.slides.listing.manifest import SlideEntry

    Progress = Callable[[int, int], None] | None
    Finish = Callable[[], "Embedded"]
    Batches = Iterable[tuple[NDArray[np.int64], NDArray[np.uint8]]]

logger = logging.getLogger(__name__)
PRECISIONS = ("auto", "fp32", "fp16")
LEAST_COSINE = 0.999
"""Of embeddings in fp16 and fp32, at which "auto" stays in fp16."""


@dataclass(frozen=True)
class EmbedSettings:
    """Settings that decide a bag's content, in addition to slide and encoder.

    ``mpp`` and ``patch_px`` are those of the patches; ``stride_px`` is the distance of neighbours
    (slides only, as are ``tissue`` and ``min_tissue``; a store brings its own).
    """

    mpp: float
    patch_px: int
    stride_px: int | None = None
    tissue: str = "otsu"
    min_tissue: float = 0.1


@dataclass(frozen=True)
class Embedded:
    """What came of a slide: patches, whether the bag was made now, seconds by stage."""

    patches: int
    made: bool
    seconds: dict[str, float]


class Embedder:
    """Runs one encoder over slides and stores.

    Args:
        encoder: see ``wsikd.models.encoders.open``.
        settings: see :class:`EmbedSettings`.
        device: auto, cpu or cuda:0.
        batch_size: patches in a step.
        threads: number of reading threads.
        precision: fp32; fp16, on GPUs; or auto: fp16 on GPUs that compute in it, if the first batch
            gets nearly the same embeddings as in fp32.

    Raises:
        ConfigError: there is no such device, or it does not compute in fp16.
    """

    def __init__(
        self,
        encoder: Encoder,
        settings: EmbedSettings,
        *,
        device: str = "auto",
        batch_size: int = 32,
        threads: int = 2,
        precision: str = "auto",
    ) -> None:
        """Move the encoder to its device."""
        self.settings, self.batch_size, self.threads = settings, batch_size, threads
        self.device = pick_device(device)
        self.encoder = encoder.eval().to(self.device)
        self.spec = encoder.spec
        self.encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._embed, self._lane = Halved(self._run, self.device), Lane(self.device)
        self._half = _in_half(self.device, precision)
        self._checked = not self._half or precision != "auto"

    @property
    def precision(self) -> str:
        """The precision: fp32 or fp16."""
        return "fp16" if self._half else "fp32"

    def embed_slide(self, entry: SlideEntry, path: Path, **options: Any) -> Embedded:
        """The same as :meth:`start_slide`, and the bag is written at once."""
        return self.start_slide(entry, path, **options)()

    def start_slide(
        self,
        entry: SlideEntry,
        path: Path,
        *,
        overwrite: bool = False,
        on_progress: Progress = None,
    ) -> Finish:
        """Embed the tissue of a slide; what is returned writes the bag at ``path``.

        It must be called, in any thread: until then the place is locked.

        Raises:
            SlideError: the slide cannot be used.
            DataError: the bag there was made with other settings.
            OutputError: it cannot be written.
        """
        clock, settings = StageClock(), self.settings
        with clock("open"):
            slide = open_entry(entry)
        with slide, ExitStack() as held:
            held.enter_context(locked(path))
            grid = TileGrid.plan(slide, settings.mpp, settings.patch_px, settings.stride_px)
            info = self._describe(slide, entry, path, settings.patch_px, grid.field_px)
            read = files_of(entry.path, entry.mask)
            if (found := there(path, info, overwrite=overwrite, inputs=read)) is not None:
                return partial(Embedded, found, made=False, seconds={})
            with clock("tissue"):
                tissue = find_tissue(
                    slide, method=settings.tissue, mask_file=entry.mask, workers=self.threads
                )
            cover = grid.cover(tissue)
            rows, columns = np.nonzero((cover >= settings.min_tissue) & (cover > 0))
            batches = stream_patches(
                Canvas.plan(slide, settings.mpp), grid, rows, columns,
                batch_size=self.batch_size, workers=self.threads, clock=clock,
            )  # fmt: skip
            xy = grid.boxes(rows, columns)[:, :2]
            features = self._features(len(xy), batches, clock, on_progress)
            return self._finish(held.pop_all(), path, info, features, xy, clock, read)

    def _describe(
        self,
        slide: Slide,
        entry: SlideEntry,
        path: Path,
        side_px: int,
        field_px: tuple[float, float],
        **more: Any,
    ) -> BagInfo:
        """The description of a slide's bag; ``more`` is kept with the settings."""
        patches = {**asdict(self.settings), **more, **slide.info.marks}
        return BagInfo(
            slide=slide.info.name,
            encoder={**self.spec.record(), "patches": patches},
            mpp=self.settings.mpp,
            patch_px=side_px,
            field_px=field_px,
            patient=hide_patient(entry.patient, path.parent),
            split=entry.split,
            label=entry.label,
            source=slide.info.fingerprint,
        )

    def embed_store(self, store: TileStore, path: Path, **options: Any) -> Embedded:
        """The same as :meth:`start_store`, and the bag is written at once."""
        return self.start_store(store, path, **options)()

    def start_store(
        self,
        store: TileStore,
        path: Path,
        *,
        overwrite: bool = False,
        on_progress: Progress = None,
    ) -> Finish:
        """Embed the patches of a store in its order; see :meth:`start_slide`.

        Raises:
            StoreError: the store has no such resolution.
            DataError: the bag there was made with other settings, or the store's patches are of
                another size.
            OutputError: it cannot be written.
        """
        settings, clock = self.settings, StageClock()
        if store.patch_px(settings.mpp) != settings.patch_px:
            raise DataError(
                store.path, f"its patches are {store.patch_px(settings.mpp)} px at "
                f"{settings.mpp:g} um/px, not {settings.patch_px}",
                f"give --patch-size {store.patch_px(settings.mpp)}, or tile again",
            )  # fmt: skip
        about = store.provenance
        size_um = settings.patch_px * settings.mpp
        with ExitStack() as held:
            held.enter_context(locked(path))
            info = BagInfo(
                slide=store.slide,
                encoder={**self.spec.record(), "patches": asdict(settings)},
                mpp=settings.mpp,
                patch_px=settings.patch_px,
                field_px=(size_um / about["slide"]["mpp"][0], size_um / about["slide"]["mpp"][1]),
                patient=store.patient,
                split=store.split,
                label=about.get("label"),
                source=store.digest,
            )
            read = [store.path]
            if (found := there(path, info, overwrite=overwrite, inputs=read)) is not None:
                return partial(Embedded, found, made=False, seconds={})
            batches = _from_store(store, settings.mpp, self.batch_size, clock)
            xy = store.patches.xy
            features = self._features(len(xy), batches, clock, on_progress)
            return self._finish(held.pop_all(), path, info, features, xy, clock, read)

    def _features(
        self, count: int, batches: Batches, clock: StageClock, on_progress: Progress
    ) -> NDArray[np.float32]:
        """Embeddings (count, D)."""
        features = np.empty((count, self.spec.dim), np.float32)
        done = 0
        for index, found in self._computed(batches, clock):
            features[index] = found
            done += len(index)
            if on_progress:
                on_progress(done, count)
        return features

    def _finish(
        self,
        held: ExitStack,
        path: Path,
        info: BagInfo,
        features: NDArray[np.floating],
        xy: NDArray[np.float64],
        clock: StageClock,
        read: Sequence[Path],
    ) -> Finish:
        """What writes a bag and closes ``held``."""
        if self._half:
            info = replace(info, encoder={**info.encoder, "precision": self.precision})

        def finish() -> Embedded:
            with held, clock("write"):
                spent = {k: clock.seconds.get(k, 0.0) for k in ("read", "resize", "forward")}
                write_bag(path, info, features, xy, spent, read)
            return Embedded(len(xy), made=True, seconds=dict(clock.seconds))

        return finish

    def _computed(
        self, batches: Batches, clock: StageClock
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Embeddings, batch by batch; a GPU is sent the next batch while it computes one.

        Raises:
            DataError: one is not a finite number.
        """

        def start(patches: NDArray[np.uint8]) -> Callable[[], NDArray[np.float32]]:
            with clock("forward"):
                wait = self._started(patches)

            def finish() -> NDArray[np.float32]:
                with clock("forward"):
                    return self._finite(wait())

            return finish

        yield from in_turn(batches, start, most_in_flight(self.device))

    def _started(self, patches: NDArray[np.uint8]) -> Callable[[], NDArray[np.float32]]:
        if not self._checked:
            self._check(patches)
        if self.device.type == "cuda" and self._embed.most is None:
            try:
                return self._lane.start(patches, self._encoded)
            except torch.OutOfMemoryError:  # the batch is halved
                pass
        found = self._embed(patches)
        return lambda: found

    def _finite(self, found: NDArray[np.float32]) -> NDArray[np.float32]:
        if not np.isfinite(found).all():
            fault = f"its embeddings are NaN or infinite ({self.precision})"
            other = "give --precision fp32, or " if self._half else ""
            raise DataError(self.spec.id, fault, f"{other}take another encoder or other weights")
        return found

    def _check(self, patches: NDArray[np.uint8]) -> None:
        """Stay with fp32 where embeddings in fp16 differ from those."""
        low = self._embed(patches).astype(np.float64)
        self._half, self._checked = False, True
        full = self._embed(patches).astype(np.float64)
        length = np.linalg.norm(low, axis=1) * np.linalg.norm(full, axis=1)
        with np.errstate(all="ignore"):
            cosine = np.where(length > 0, (low * full).sum(1) / length, 1.0)
        self._half = bool((cosine >= LEAST_COSINE).all())  # not where one is NaN
        if not self._half:
            text = "%s: embeddings in fp16 differ from those in fp32, so fp32 is used"
            logger.warning(text, self.spec.id)

    def _run(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = (
            self._encoded(upload(torch.from_numpy(patches), self.device)).cpu().numpy()
        )
        return found

    @torch.inference_mode()
    def _encoded(self, batch: torch.Tensor) -> torch.Tensor:
        """Float32 (B, D) of uint8 (B, patch_px, patch_px, 3)."""
        with torch.autocast(self.device.type, torch.float16, enabled=self._half):
            found: torch.Tensor = self.encoder(batch.permute(0, 3, 1, 2)).float()
            return found


def _in_half(device: torch.device, precision: str) -> bool:
    """Whether to begin in fp16; raises ConfigError."""
    if precision not in PRECISIONS:
        known = ", ".join(PRECISIONS)
        raise ConfigError(f"--precision {precision}", "is not known", f"give one of {known}")
    if precision == "fp16" and not computes_fp16(device):
        fault = f"is not supported on {device}"
        raise ConfigError("--precision fp16", fault, "give --precision fp32")
    return precision != "fp32" and computes_fp16(device)


def settings_for(
    encoder: Encoder, mpp: float | None, patch_px: int | None, **more: Any
) -> EmbedSettings:
    """Resolution and size of patches: as asked, else the encoder's own.

    Raises:
        ConfigError: neither says it, or an encoder made for another resolution is asked.
    """
    own = encoder.spec
    if mpp is not None and own.mpp is not None and abs(mpp - own.mpp) > 0.02 * own.mpp:
        raise ConfigError(
            f"--mpp {mpp:g}", f"the encoder was trained at {own.mpp:g} um/px",
            "leave it out, or take another encoder",
        )  # fmt: skip
    mpp, patch_px = mpp or own.mpp, patch_px or own.patch_px or own.input_px
    if mpp is None:
        raise ConfigError(
            "--mag", f"{own.id} does not state the resolution to read at", "give --mag or --mpp"
        )
    if patch_px is None:
        raise ConfigError("--patch-size", f"{own.id} does not state it", "give the side in px")
    return EmbedSettings(mpp, patch_px, **more)


def there(
    path: Path,
    info: BagInfo,
    *,
    overwrite: bool = False,
    regions: bool = False,
    inputs: Sequence[Path] = (),
) -> int | None:
    """Patches of the bag at a place; None where one is to be made.

    Args:
        path: the place, locked by the caller.
        info: what a bag there must say of itself.
        overwrite: make one in any case.
        regions: whether it is one of regions.
        inputs: what is read, which no bag may replace.

    Raises:
        DataError: the bag there differs.
        OutputError: something else is there.
    """
    place = bag_place(path, regions=regions, inputs=inputs)
    place.recover()
    if overwrite or not place.taken():
        place.may_replace()
        return None
    bag = open_bag(path)
    if _plain(bag.info) != _plain(info):
        changes = differences(_flat(bag.info), _flat(info))
        raise DataError(
            path,
            f"was made with other settings ({changes})",
            "choose another -o, or give --overwrite",
        )
    return len(bag)


def _flat(info: BagInfo) -> dict[str, Any]:
    whole = _plain(info)
    encoder = whole.pop("encoder")
    patches = encoder.pop("patches", {})
    return {**whole, **encoder, **patches}


def _plain(info: BagInfo) -> dict[str, Any]:
    """The record in the form that a file gives, less the precision: a bag of either is kept."""
    about = asdict(info)
    about["encoder"].pop("precision", None)
    if info.field_px is not None:
        about["field_px"] = tuple(map(float, info.field_px))
    return about


def _from_store(
    store: TileStore, mpp: float, size: int, clock: StageClock
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
    for start in range(0, len(store.patches), size):
        index = np.arange(start, min(start + size, len(store.patches)))
        with clock("read"):
            patches = np.stack([store.read_patch(int(i), mpp) for i in index])
        yield index, patches
