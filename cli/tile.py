"""``wsikd tile``: slides become tile stores."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .common import (
    Batch,
    check_tissue,
    input_option,
    progress,
    slide_options,
    tissue_options,
    use_workers,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsikd.slides.annotations import Region
    from wsikd.slides.base import Slide
    from wsikd.slides.manifest import SlideEntry

log = logging.getLogger(__name__)


@click.command()
@input_option
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="STORES",
    help="Folder for one <slide>.zarr per slide.",
)
@click.option(
    "--mag",
    "magnifications",
    type=click.FloatRange(0, min_open=True),
    multiple=True,
    help="Magnification: 10 means 1.0 um/px, 2.5 means 4.0. May be given again.  "
    "[default: 10 and 2.5]",
)
@click.option(
    "--mpp",
    "mpps",
    type=click.FloatRange(0, min_open=True),
    multiple=True,
    help="Resolution in um/px, instead of --mag. May be given again.",
)
@click.option(
    "--patch-size",
    type=click.IntRange(1),
    default=512,
    show_default=True,
    help="Patch side in px at the highest magnification.",
)
@click.option(
    "--stride",
    type=click.IntRange(1),
    help="Distance of patches in px at the highest magnification.  [default: the patch size]",
)
@click.option(
    "--annotations",
    type=click.Path(exists=True, path_type=Path),
    help="QuPath GeoJSON file, or a folder with <slide>.geojson.",
)
@click.option("--classes", help="Label names in order, as A,B,C.  [default: those annotated]")
@click.option(
    "--min-cover",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="Share of a field that a class must cover to label it.",
)
@tissue_options
@slide_options
@click.option("--overwrite", is_flag=True, help="Tile again, replacing what is there.")
def tile(
    inputs: tuple[str, ...],
    output: Path,
    magnifications: tuple[float, ...],
    mpps: tuple[float, ...],
    patch_size: int,
    stride: int | None,
    annotations: Path | None,
    classes: str | None,
    min_cover: float,
    tissue: str,
    min_tissue: float,
    slide_mpp: float | None,
    workers: int | None,
    overwrite: bool,
) -> None:
    """Tile slides into OME-Zarr stores, several magnifications of the same fields in each."""
    from wsikd.slides.base import open_slide
    from wsikd.slides.manifest import find_slides
    from wsikd.slides.mpp import mpp_of_magnification
    from wsikd.tiles.grid import patch_sizes
    from wsikd.tiles.record import SlideNotes, project_key
    from wsikd.tiles.store import StoreSettings
    from wsikd.tiles.tiling import tile_slide

    if magnifications and mpps:
        raise click.UsageError("give --mag or --mpp, not both")
    asked = mpps or tuple(mpp_of_magnification(m) for m in magnifications or (10.0, 2.5))
    finest_first = tuple(sorted(set(asked)))
    patch_sizes(finest_first, patch_size, stride or patch_size)
    check_tissue(tissue)
    threads = use_workers(workers)
    entries = find_slides(inputs, slide_mpp=slide_mpp, annotations=annotations)
    names = _named_classes(classes) if classes else _annotated_classes(entries)
    settings = StoreSettings(
        mpps=finest_first,
        patch_px=patch_size,
        stride_px=stride or patch_size,
        tissue=tissue,
        min_tissue=min_tissue,
        classes=names,
        min_cover=min_cover,
    )
    output.mkdir(parents=True, exist_ok=True)
    key = project_key(output) if any(entry.patient for entry in entries) else None
    counts = {"made": 0, "already there": 0}

    def work(entry: SlideEntry) -> str:
        with open_slide(
            entry.path, slide_mpp=entry.mpp, mpp_source=entry.mpp_source, name=entry.name
        ) as slide:
            notes = SlideNotes(
                _regions(entry, slide), entry.label, entry.patient, entry.split, entry.mask, key
            )
            path = output / f"{entry.name}.zarr"
            with progress(entry.name) as on_progress:
                store, made = tile_slide(
                    slide,
                    path,
                    settings,
                    notes,
                    workers=threads,
                    overwrite=overwrite,
                    on_progress=on_progress,
                )
        counts["made" if made else "already there"] += 1
        labelled = int((store.patches.label >= 0).sum())
        note = f", {labelled} labelled" if names else ""
        return f"{len(store.patches)} patches{note}, {'in' if made else 'already in'} {path}"

    batch = Batch(output)
    batch.run(entries, work)
    batch.finish(", ".join(f"{n} {what}" for what, n in counts.items()))


def _regions(entry: SlideEntry, slide: Slide) -> Sequence[Region]:
    from wsikd.slides.annotations import read_geojson

    if entry.annotation is None:
        return ()
    x, y = slide.info.bounds[:2]
    return read_geojson(entry.annotation, offset_xy=(x, y))


def _named_classes(text: str) -> tuple[str, ...]:
    """Names of ``A, B,C`` in the order given; raises ConfigError where one is empty or double."""
    from wsikd.core.errors import ConfigError

    names = tuple(name.strip() for name in text.split(","))
    if not all(names) or len(set(names)) < len(names):
        raise ConfigError("--classes", f"'{text}' names one twice or none", "give them as A,B,C")
    return names


def _annotated_classes(entries: Sequence[SlideEntry]) -> tuple[str, ...]:
    """Classes over all annotations and labels, in order of grade."""
    from wsikd.core.classes import ordered_classes
    from wsikd.core.errors import AnnotationError
    from wsikd.slides.annotations import read_geojson

    names = {entry.label for entry in entries if entry.label}
    for file in {entry.annotation for entry in entries if entry.annotation}:
        try:
            names |= {region.name for region in read_geojson(file)}
        except AnnotationError as error:
            log.debug("%s", error)  # told again when that slide's turn comes
    return ordered_classes(names)
