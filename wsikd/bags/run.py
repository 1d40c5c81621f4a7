"""Slides, tile stores or region grids become bags: ``wsikd embed`` and ``wsikd.embed``."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from wsikd.bags.embed import Embedded, Embedder
    from wsikd.core.output.batch import Batch
    from wsikd.slides.listing.entry import SlideEntry

    Progress = Callable[[int, int], None] | None

_FILES = ("", "hipt", "dino")
"""Prefixes of encoders that are a path."""


class Watch(Protocol):
    """Shows how far a slide has come."""

    def __call__(self, name: str, /) -> AbstractContextManager[Progress]:
        """What takes (patches done, patches in all) of a slide while the block runs."""


@dataclass(frozen=True)
class Regions:
    """What makes a bag one of region grids; None takes the default of ``RegionSettings``."""

    region_px: int
    min_inside: float | None = None
    coarser: float | None = None
    half: bool | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The options that are set, without the size."""
        asked = {"min_inside": self.min_inside, "coarser": self.coarser, "half": self.half}
        return {name: value for name, value in asked.items() if value is not None}


@dataclass(frozen=True)
class EmbedRequest:
    """Which bags are made of what.

    Attributes:
        inputs: slides, folders, globs, manifests; or tile stores; or region grids.
        out: folder for one ``<slide>.zarr`` a slide.
        encoder: see ``wsikd.models.encoders.open``; a run of method slpd encodes region grids.
        weights: weights of a timm network.
        licence: terms of the weights.
        mpp: um per pixel of the patches; None takes the encoder's.
        patch_px: side of a patch; None takes the encoder's.
        stride_px: distance of patches; None takes their side.
        h5: write CLAM's and TRIDENT's files too.
        regions: makes region grids.
        tissue: as it was given: a masker, a mask, a folder of masks.
        min_tissue: smallest share of tissue in a patch.
        slide_mpp: um per level-0 pixel, where neither manifest nor file says it.
        reader: what reads the slides.
        series: which image of a file with several.
        accept_grey: read slides that are not brightfield.
        overwrite: replace bags that are there.
    """

    inputs: Sequence[str]
    out: Path
    encoder: str
    weights: str | None = None
    licence: str | None = None
    mpp: float | None = None
    patch_px: int | None = None
    stride_px: int | None = None
    h5: bool = False
    regions: Regions | None = None
    tissue: str = "otsu"
    min_tissue: float = 0.1
    slide_mpp: float | None = None
    reader: str = "auto"
    series: int | None = None
    accept_grey: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class Machine:
    """What computes and reads; it changes a bag by rounding alone.

    ``precision`` is fp32, fp16 or auto, see ``wsikd.bags.embed.Embedder``.
    """

    device: str = "auto"
    batch_size: int = 32
    threads: int = 2
    precision: str = "auto"


@dataclass
class Made:
    """What came of a run: slide name -> bag, and how many of them were made now."""

    paths: dict[str, Path] = field(default_factory=dict)
    made: int = 0

    @property
    def summary(self) -> str:
        """The last line of the command."""
        if not self.paths:
            return "nothing embedded"
        return f"{self.made} made, {len(self.paths) - self.made} already there"

    def add(self, name: str, path: Path, done: Embedded) -> str:
        """Count a bag; returns where it lies, as the report says it."""
        self.paths[name] = path
        self.made += done.made
        return f"{'in' if done.made else 'already in'} {path}"


def check_encoder(name: str) -> bool:
    """Refuse an unknown encoder before anything heavy is imported.

    Returns:
        Whether it is a run of method slpd, which encodes region grids.

    Raises:
        ConfigError, BundleError: it is none.
    """
    from wsikd.models.names import no_encoder, split_encoder
    from wsikd.slides.what_is import (
        EMBEDDER,
        GRADER,
        REGIONS,
        UNFINISHED,
        WEIGHTS,
        check_role,
        what_is,
    )

    prefix, file = split_encoder(name) or ("", name)
    if prefix in _FILES:
        if not Path(file).exists():
            raise no_encoder(name)
        check_role(file, "--encoder", GRADER, EMBEDDER, REGIONS, UNFINISHED, WEIGHTS)
    return what_is(name) == REGIONS


def embed_all(
    request: EmbedRequest, machine: Machine, batch: Batch, watch: Watch | None = None
) -> Made:
    """Make a bag of every slide, store or grid; one that fails is recorded in ``batch``.

    Raises:
        WsikdError: nothing can be embedded: the encoder, a setting, the inputs or ``out``.
    """
    if check_encoder(request.encoder):
        return _vectors(request, machine, batch)
    return _patches(request, machine, batch, watch or (lambda _: nullcontext(None)))


def _patches(request: EmbedRequest, machine: Machine, batch: Batch, watch: Watch) -> Made:
    from wsikd.bags.bag import open_bag, write_h5
    from wsikd.core.errors import ConfigError
    from wsikd.slides.listing.inputs import own_tissue
    from wsikd.slides.listing.sidecar import tissue_method
    from wsikd.tiles.store import TileStore

    tissue_method(request.tissue)  # refused before slides are looked for
    stores = _stores(request.inputs)
    if stores and request.regions:
        fault, remedy = "is a tile store", "regions are read from slides; give the slides"
        raise ConfigError(request.inputs[0], fault, remedy)
    entries = stores or _slides(request, batch)
    done = Made()
    if not entries:
        return done
    embedder = _embedder(request, machine)
    request.out.mkdir(parents=True, exist_ok=True)

    def work(entry: SlideEntry) -> Callable[[], str]:
        path = request.out / f"{entry.name}.zarr"
        with watch(entry.name) as shown:
            more: dict[str, Any] = {"overwrite": request.overwrite, "on_progress": shown}
            if stores:
                finish = embedder.start_store(TileStore.open(entry.path), path, **more)
            else:
                finish = embedder.start_slide(entry, path, **more)
        return partial(written, entry, path, finish)

    def written(entry: SlideEntry, path: Path, finish: Callable[[], Embedded]) -> str:
        one = finish()
        beside = path.with_suffix(".h5")
        if request.h5 and (one.made or request.overwrite or not beside.exists()):
            write_h5(beside, open_bag(path), overwrite=True)
        place, dim = done.add(entry.name, path, one), embedder.spec.dim
        if request.regions is None:
            return f"{one.patches} embeddings of {dim} numbers, {place}"
        side = request.regions.region_px // embedder.settings.patch_px
        return f"{one.patches} regions of {side} x {side} tiles, {dim} each, {place}"

    batch.run_beside(entries if stores else own_tissue(request.tissue, entries, batch), work)
    return done


def _slides(request: EmbedRequest, batch: Batch) -> Sequence[SlideEntry]:
    from wsikd.bags.made import bags_made
    from wsikd.slides.listing.inputs import check_slides, existing
    from wsikd.slides.listing.manifest import find_slides
    from wsikd.slides.listing.once import settle_names

    check_slides(request.inputs)
    entries = find_slides(
        request.inputs, slide_mpp=request.slide_mpp, reader=request.reader,
        series=request.series, accept_grey=request.accept_grey,
    )  # fmt: skip
    return settle_names(existing(entries, batch), bags_made(request.out))


def _embedder(request: EmbedRequest, machine: Machine) -> Embedder:
    from wsikd.bags.embed import Embedder, settings_for
    from wsikd.models.encoders.open import open_encoder
    from wsikd.slides.listing.sidecar import tissue_method

    encoder = open_encoder(request.encoder, weights=request.weights, licence=request.licence)
    how: dict[str, Any] = {"device": machine.device, "batch_size": machine.batch_size,
                           "threads": machine.threads, "precision": machine.precision}  # fmt: skip
    tissue: dict[str, Any] = {"tissue": tissue_method(request.tissue),
                              "min_tissue": request.min_tissue}  # fmt: skip
    mpp, patch_px, regions = request.mpp, request.patch_px, request.regions
    if regions is None:
        settings = settings_for(encoder, mpp, patch_px, stride_px=request.stride_px, **tissue)
        return Embedder(encoder, settings, **how)
    from wsikd.bags.embed_regions import RegionEmbedder, region_settings

    own: dict[str, Any] = {**tissue, **regions.options}
    settings = region_settings(encoder, mpp, patch_px, regions.region_px, **own)
    return RegionEmbedder(encoder, settings, **how)


def _vectors(request: EmbedRequest, machine: Machine, batch: Batch) -> Made:
    """Encode region grids; each becomes a bag of one vector a region."""
    from wsikd.bags.bag import find_bags
    from wsikd.slides.listing.entry import SlideEntry
    from wsikd.slides.what_is import BAGS, GRIDS, check_role

    for item in request.inputs:
        check_role(item, "-i with a region encoder", GRIDS, BAGS)
    entries = [SlideEntry(path, path.stem) for path in find_bags(request.inputs)]

    from wsikd.bags.region_vectors import VectorEmbedder

    embedder = VectorEmbedder(
        Path(request.encoder), device=machine.device, batch_size=machine.batch_size
    )
    request.out.mkdir(parents=True, exist_ok=True)
    done = Made()

    def work(entry: SlideEntry) -> str:
        path = request.out / f"{entry.name}.zarr"
        one = embedder.embed(entry.path, path, overwrite=request.overwrite)
        place = done.add(entry.name, path, one)
        return f"{one.patches} region vectors of {embedder.dim} numbers, {place}"

    batch.run(entries, work)
    return done


def _stores(inputs: Sequence[str]) -> list[SlideEntry]:
    """The tile stores among the inputs; none unless the inputs are stores or folders of them."""
    from wsikd.core.errors import ConfigError
    from wsikd.slides.listing.entry import SlideEntry
    from wsikd.tiles.store import read_meta

    found: list[Path] = []
    other: str | None = None
    for item in map(Path, inputs):
        if item.is_dir() and read_meta(item) is not None:
            found.append(item)
            continue
        inside = sorted(item.glob("*.zarr")) if item.is_dir() else []
        inside = [p for p in inside if read_meta(p) is not None]
        found += inside
        other = other if inside else str(item)
    if found and other:
        raise ConfigError(other, "is not a tile store as the others are", "embed it by itself")
    return [SlideEntry(path, path.stem) for path in dict.fromkeys(found)]
