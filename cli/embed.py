"""``wsikd embed``: slides or tile stores become bags of patch embeddings, or region grids."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .common import (
    Batch,
    input_option,
    progress,
    slide_options,
    tissue_options,
)
from .embed_vectors import embed_vectors
from .sections import Sectioned

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wsikd.bags.embed import Embedder
    from wsikd.models.encoders.base import Encoder
    from wsikd.slides.listing.manifest import SlideEntry


_FILES = ("", "hipt", "dino")
"""Prefixes of encoders that are a path."""


def region_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of region grids."""
    for option in (
        click.option("--float16", is_flag=True, help="Store half the bytes."),
        click.option(
            "--coarser",
            type=click.FloatRange(0, 1),
            help="Read a slide that is coarser than --mpp by at most this share at its "
            "own resolution.  [default: 0.05]",
        ),
        click.option(
            "--min-inside",
            type=click.FloatRange(0, 1),
            help="Smallest share of a region's area on the slide; what lies beyond is "
            "background.  [default: 0.75]",
        ),
        click.option(
            "--regions",
            "region_px",
            type=click.IntRange(1),
            metavar="PX",
            help="Make region grids: squares of PX at --mpp, each of g x g tiles of --patch-size "
            "(default the encoder's, else 256). --min-tissue counts the whole region.",
        ),
    ):
        command = option(command)
    return command


@click.command(
    cls=Sectioned,
    sections={
        "Region grids": "region_px min_inside coarser float16",
        "Slides and tissue": "tissue min_tissue slide_mpp series accept_grey reader",
        "Machine": "batch_size device threads",
    },
    short_help="Turn patches into embeddings, one bag a slide.",
)
@input_option
@click.option(
    "--encoder",
    "encoder_name",
    required=True,
    metavar="NAME|FILE|FOLDER",
    help="timm:NAME; a run of wsikd distill, or a bundle; a file of a transformer trained by DINO, "
    "hipt:FILE (as FILE alone) or dino:FILE, which differ in what is done to a patch; "
    "PREFIX:ARGUMENT of an installed package; for region grids a run of method slpd.",
)
@click.option(
    "--weights",
    metavar="FILE",
    help="Local weights of a network of timm; 'random' for none.  [default: timm's hub]",
)
@click.option("--licence", metavar="TEXT", help="Terms of the weights, kept in every bag.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="BAGS",
    help="Folder for one <slide>.zarr per slide.",
)
@click.option("--mag", type=click.FloatRange(0, min_open=True), help="As --mpp: 10 means 1 um/px.")
@click.option(
    "--mpp",
    type=click.FloatRange(0, min_open=True),
    metavar="UM",
    help="um per pixel of the patches.  [default: the encoder's]",
)
@click.option("--patch-size", type=click.IntRange(1), help="In px.  [default: the encoder's]")
@click.option("--stride", type=click.IntRange(1), help="In px.  [default: the patch size]")
@click.option("--h5", is_flag=True, help="Write <slide>.h5 as CLAM and TRIDENT keep it, too.")
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:0.")
@region_options
@tissue_options
@slide_options
@click.option("--overwrite", is_flag=True, help="Embed again, replacing what is there.")
def embed(
    inputs: tuple[str, ...],
    encoder_name: str,
    weights: str | None,
    licence: str | None,
    output: Path,
    mag: float | None,
    mpp: float | None,
    patch_size: int | None,
    stride: int | None,
    h5: bool,
    batch_size: int,
    device: str,
    region_px: int | None,
    min_inside: float | None,
    coarser: float | None,
    float16: bool,
    tissue: str,
    min_tissue: float,
    slide_mpp: float | None,
    reader: str,
    series: int | None,
    accept_grey: bool,
    threads: int | None,
    overwrite: bool,
) -> None:
    """Turn patches into embeddings with a frozen network: one bag a slide.

    SLIDES may also be tile stores, or a folder of them; their patches are then embedded as they
    are. With --regions a bag holds grids of tiles, which a region encoder reads: where --encoder is
    a run of method slpd, SLIDES are such grids, and a bag holds one vector a region.
    """
    from wsikd.bags.bag import open_bag, write_h5
    from wsikd.bags.made import bags_made
    from wsikd.core.errors import ConfigError
    from wsikd.slides.listing.inputs import check_slides, existing, own_tissue
    from wsikd.slides.listing.manifest import find_slides
    from wsikd.slides.listing.once import settle_names
    from wsikd.slides.listing.sidecar import tissue_method
    from wsikd.slides.threads import use_threads
    from wsikd.slides.what_is import REGIONS, what_is
    from wsikd.tiles.store import TileStore

    _check_encoder(encoder_name)
    if what_is(encoder_name) == REGIONS:
        embed_vectors(
            click.get_current_context(), inputs, Path(encoder_name), output,
            device=device, batch_size=batch_size, overwrite=overwrite,
        )  # fmt: skip
        return
    if mag is not None and mpp is not None:
        raise click.UsageError("give --mag or --mpp, not both")
    of_regions = {"min_inside": min_inside, "coarser": coarser, "half": float16 or None}
    asked = {k: v for k, v in of_regions.items() if v is not None}
    if region_px is None and asked:
        raise click.UsageError("--min-inside, --coarser and --float16 go with --regions")
    if region_px is not None and (stride is not None or h5):
        raise click.UsageError("--regions goes with neither --stride nor --h5")
    method = tissue_method(tissue)
    stores = _stores(inputs)
    if stores and region_px is not None:
        raise ConfigError(inputs[0], "is a tile store", "regions are read from slides: give those")
    batch = Batch(output)
    entries = stores
    if not stores:
        check_slides(inputs)
        entries = find_slides(
            inputs, slide_mpp=slide_mpp, reader=reader, series=series, accept_grey=accept_grey
        )
        entries = settle_names(existing(entries, batch), bags_made(output))
    if not entries:
        batch.finish("nothing embedded")

    from wsikd.models.encoders.open import open_encoder

    encoder = open_encoder(encoder_name, weights=weights, licence=licence)
    embedder = _embedder(
        encoder, 10 / mag if mag else mpp, patch_size, stride, region_px,
        {"tissue": method, "min_tissue": min_tissue, **asked},
        {"device": device, "batch_size": batch_size, "threads": use_threads(threads)},
    )  # fmt: skip
    output.mkdir(parents=True, exist_ok=True)
    counts = {"made": 0, "already there": 0}

    def work(entry: SlideEntry) -> str:
        path = output / f"{entry.name}.zarr"
        with progress(entry.name) as shown:
            if stores:
                store = TileStore.open(entry.path)
                done = embedder.embed_store(store, path, overwrite=overwrite, on_progress=shown)
            else:
                done = embedder.embed_slide(entry, path, overwrite=overwrite, on_progress=shown)
        if h5 and (done.made or overwrite or not path.with_suffix(".h5").exists()):
            write_h5(path.with_suffix(".h5"), open_bag(path), overwrite=True)
        counts["made" if done.made else "already there"] += 1
        place = f"{'in' if done.made else 'already in'} {path}"
        if region_px is None:
            return f"{done.patches} embeddings of {encoder.spec.dim} numbers, {place}"
        side = region_px // embedder.settings.patch_px
        return f"{done.patches} regions of {side} x {side} tiles, {encoder.spec.dim} each, {place}"

    if not stores:
        entries = own_tissue(tissue, entries, batch)
    batch.run(entries, work)
    batch.finish(", ".join(f"{n} {what}" for what, n in counts.items()))


def _check_encoder(name: str) -> None:
    """Refuse what is no encoder before anything heavy is imported."""
    from wsikd.models.names import no_encoder, split_encoder
    from wsikd.slides.what_is import EMBEDDER, GRADER, REGIONS, UNFINISHED, WEIGHTS, check_role

    prefix, file = split_encoder(name) or ("", name)
    if prefix not in _FILES:
        return
    if not Path(file).exists():
        raise no_encoder(name)
    check_role(file, "--encoder", GRADER, EMBEDDER, REGIONS, UNFINISHED, WEIGHTS)


def _embedder(
    encoder: Encoder,
    mpp: float | None,
    patch_px: int | None,
    stride_px: int | None,
    region_px: int | None,
    more: dict[str, Any],
    how: dict[str, Any],
) -> Embedder:
    from wsikd.bags.embed import Embedder, settings_for

    if region_px is None:
        settings = settings_for(encoder, mpp, patch_px, stride_px=stride_px, **more)
        return Embedder(encoder, settings, **how)
    from wsikd.bags.embed_regions import RegionEmbedder, region_settings

    return RegionEmbedder(
        encoder, region_settings(encoder, mpp, patch_px, region_px, **more), **how
    )


def _stores(inputs: Sequence[str]) -> list[SlideEntry]:
    """The tile stores among the inputs; none unless the inputs are stores or folders of them."""
    from wsikd.core.errors import ConfigError
    from wsikd.slides.listing.manifest import SlideEntry
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
        raise ConfigError(other, "is no tile store as the others are", "embed it by itself")
    return [SlideEntry(path, path.stem) for path in dict.fromkeys(found)]
