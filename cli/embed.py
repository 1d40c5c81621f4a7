"""``wsikd embed``: slides or tile stores become bags of patch embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .common import (
    Batch,
    input_option,
    own_tissue,
    progress,
    slide_options,
    tissue_options,
    use_threads,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsikd.slides.manifest import SlideEntry


@click.command()
@input_option
@click.option(
    "--encoder",
    "encoder_name",
    required=True,
    metavar="NAME|FOLDER",
    help="timm:NAME, a run of wsikd distill, or a bundle.",
)
@click.option(
    "--weights",
    metavar="FILE",
    help="Local weights of a network of timm; 'random' for none.  [default: timm's hub]",
)
@click.option("--licence", metavar="TEXT", help="Terms of those weights, kept in every bag.")
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
    tissue: str,
    min_tissue: float,
    slide_mpp: float | None,
    reader: str,
    threads: int | None,
    overwrite: bool,
) -> None:
    """Turn patches into embeddings with a frozen network: one bag a slide.

    SLIDES may also be tile stores, or a folder of them; their patches are then embedded as they
    are.
    """
    from wsikd.learn.embed import Embedder, settings_for
    from wsikd.models.encoder import open_encoder
    from wsikd.slides.sidecar import tissue_method
    from wsikd.tiles.bags import open_bag, write_h5
    from wsikd.tiles.store import TileStore

    if mag is not None and mpp is not None:
        raise click.UsageError("give --mag or --mpp, not both")
    method = tissue_method(tissue)
    encoder = open_encoder(encoder_name, weights=weights, licence=licence)
    settings = settings_for(
        encoder, 10 / mag if mag else mpp, patch_size,
        stride_px=stride, tissue=method, min_tissue=min_tissue,
    )  # fmt: skip
    embedder = Embedder(
        encoder, settings, device=device, batch_size=batch_size, threads=use_threads(threads)
    )
    stores = _stores(inputs)
    entries = stores or _slides(inputs, slide_mpp, reader)
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
        return f"{done.patches} embeddings of {encoder.spec.dim} numbers, {place}"

    batch = Batch(output)
    if not stores:
        entries = own_tissue(tissue, entries, batch)
    batch.run(entries, work)
    batch.finish(", ".join(f"{n} {what}" for what, n in counts.items()))


def _stores(inputs: Sequence[str]) -> list[SlideEntry]:
    """The tile stores among the inputs; none unless the inputs are stores or folders of them."""
    from wsikd.core.errors import ConfigError
    from wsikd.slides.manifest import SlideEntry
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


def _slides(inputs: tuple[str, ...], slide_mpp: float | None, reader: str) -> list[SlideEntry]:
    from wsikd.slides.manifest import find_slides

    return find_slides(inputs, slide_mpp=slide_mpp, reader=reader)
