"""Patches of slides, or of tile stores, become bags of embeddings; nothing is trained."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from wsikd.bags.bag import BagInfo, bag_place, open_bag, write_bag
from wsikd.core.errors import ConfigError, DataError
from wsikd.core.output.lock import locked
from wsikd.core.timing import StageClock
from wsikd.models.device import pick_device, upload
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
    """

    def __init__(
        self,
        encoder: Encoder,
        settings: EmbedSettings,
        *,
        device: str = "auto",
        batch_size: int = 32,
        threads: int = 2,
    ) -> None:
        """Move the encoder to its device."""
        self.settings, self.batch_size, self.threads = settings, batch_size, threads
        self.device = pick_device(device)
        self.encoder = encoder.eval().to(self.device)
        self.spec = encoder.spec
        self.encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._embed = Halved(self._run, self.device)

    def embed_slide(
        self,
        entry: SlideEntry,
        path: Path,
        *,
        overwrite: bool = False,
        on_progress: Progress = None,
    ) -> Embedded:
        """Embed the tissue of a slide into the bag at ``path``.

        Raises:
            SlideError: the slide cannot be used.
            DataError: the bag there was made with other settings.
            OutputError: it cannot be written.
        """
        clock, settings = StageClock(), self.settings
        with clock("open"):
            slide = open_entry(entry)
        with slide, locked(path):
            grid = TileGrid.plan(slide, settings.mpp, settings.patch_px, settings.stride_px)
            info = self._describe(slide, entry, path, settings.patch_px, grid.field_px)
            read = files_of(entry.path, entry.mask)
            if (found := there(path, info, overwrite=overwrite, inputs=read)) is not None:
                return Embedded(found, made=False, seconds={})
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
            self._write(path, info, xy, batches, clock, on_progress, read)
        return Embedded(len(rows), made=True, seconds=dict(clock.seconds))

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

    def embed_store(
        self,
        store: TileStore,
        path: Path,
        *,
        overwrite: bool = False,
        on_progress: Progress = None,
    ) -> Embedded:
        """Embed the patches of a store into the bag at ``path``, in the store's order.

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
        with locked(path):
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
                return Embedded(found, made=False, seconds={})
            batches = _from_store(store, settings.mpp, self.batch_size, clock)
            self._write(path, info, store.patches.xy, batches, clock, on_progress, read)
        return Embedded(len(store.patches), made=True, seconds=dict(clock.seconds))

    def _write(
        self,
        path: Path,
        info: BagInfo,
        xy: NDArray[np.float64],
        batches: Iterable[tuple[NDArray[np.int64], NDArray[np.uint8]]],
        clock: StageClock,
        on_progress: Progress,
        read: Sequence[Path],
    ) -> None:
        features = np.empty((len(xy), self.spec.dim), np.float32)
        done = 0
        for index, patches in batches:
            with clock("forward"):
                features[index] = self._forward(patches)
            done += len(index)
            if on_progress:
                on_progress(done, len(xy))
        with clock("write"):
            spent = {k: clock.seconds.get(k, 0.0) for k in ("read", "resize", "forward")}
            write_bag(path, info, features, xy, spent, read)

    def _forward(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        found = self._embed(patches)
        if not np.isfinite(found).all():
            fault = "its embeddings are NaN or infinite"
            raise DataError(self.spec.id, fault, "take another encoder or other weights")
        return found

    @torch.inference_mode()
    def _run(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        batch = upload(torch.from_numpy(patches), self.device).permute(0, 3, 1, 2)
        found: NDArray[np.float32] = self.encoder(batch).float().cpu().numpy()
        return found


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
    if asdict(bag.info) != _plain(info):
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
    """The record in the form that a file gives."""
    about = asdict(info)
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
