"""``wsikd tile``: slides become tile stores."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .common import (
    Batch,
    input_option,
    progress,
    slide_options,
    use_threads,
)
from .tile_options import annotation_options, tissue_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsikd.core.errors import WsikdError
    from wsikd.slides.annotations import Annotation
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
@annotation_options
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
    label_map: tuple[str, ...],
    classes: str | None,
    min_cover: float,
    min_purity: float,
    tissue: str,
    min_tissue: float,
    min_tissue_area: float | None,
    max_hole_area: float | None,
    slide_mpp: float | None,
    reader: str,
    threads: int | None,
    overwrite: bool,
) -> None:
    """Tile slides into OME-Zarr stores, several magnifications of the same fields in each."""
    from wsikd.slides.label_map import parse_label_map
    from wsikd.slides.manifest import find_slides, open_entry
    from wsikd.slides.mpp import mpp_of_magnification
    from wsikd.slides.sidecar import own_masks
    from wsikd.slides.tissue import default_areas
    from wsikd.tiles.grid import patch_sizes
    from wsikd.tiles.record import SlideNotes, project_key
    from wsikd.tiles.store import StoreSettings
    from wsikd.tiles.tiling import tile_slide

    if magnifications and mpps:
        raise click.UsageError("give --mag or --mpp, not both")
    asked = mpps or tuple(mpp_of_magnification(m) for m in magnifications or (10.0, 2.5))
    finest_first = tuple(sorted(set(asked)))
    patch_sizes(finest_first, patch_size, stride or patch_size)
    renamed = parse_label_map(label_map)
    workers = use_threads(threads)
    entries = find_slides(inputs, slide_mpp=slide_mpp, reader=reader, annotations=annotations)
    method, entries, unmasked = own_masks(tissue, entries)
    names = _named_classes(classes) if classes else _annotated_classes(entries, renamed)
    usual = default_areas(method)
    settings = StoreSettings(
        mpps=finest_first,
        patch_px=patch_size,
        stride_px=stride or patch_size,
        tissue=method,
        min_tissue=min_tissue,
        classes=names,
        min_cover=min_cover,
        min_purity=min_purity,
        label_map=renamed,
        min_tissue_um2=usual.min_tissue_um2 if min_tissue_area is None else min_tissue_area,
        max_hole_um2=usual.max_hole_um2 if max_hole_area is None else max_hole_area,
    )
    output.mkdir(parents=True, exist_ok=True)
    key = project_key(output) if any(entry.patient for entry in entries) else None
    counts = {"made": 0, "already there": 0}

    def work(entry: SlideEntry) -> str:
        with open_entry(entry) as slide:
            notes = SlideNotes(
                _annotation(entry, slide, renamed),
                entry.label,
                entry.patient,
                entry.split,
                entry.mask,
                output / "overlays" / f"{entry.name}.png",
                key,
            )
            path = output / f"{entry.name}.zarr"
            with progress(entry.name) as on_progress:
                store, made = tile_slide(
                    slide,
                    path,
                    settings,
                    notes,
                    workers=workers,
                    overwrite=overwrite,
                    on_progress=on_progress,
                )
        counts["made" if made else "already there"] += 1
        labelled = int((store.patches.label >= 0).sum())
        note = f", {labelled} labelled" if names else ""
        return f"{len(store.patches)} patches{note}, {'in' if made else 'already in'} {path}"

    batch = Batch(output)
    for entry in unmasked:
        batch.failed(entry, _no_mask(entry, tissue))
    batch.run(entries, work)
    batch.finish(", ".join(f"{n} {what}" for what, n in counts.items()))


def _annotation(
    entry: SlideEntry, slide: Slide, label_map: Sequence[tuple[str, str]]
) -> Annotation | None:
    from wsikd.slides.annotations import read_annotation

    return read_annotation(entry.annotation, slide, label_map) if entry.annotation else None


def _no_mask(entry: SlideEntry, folder: str) -> WsikdError:
    from wsikd.core.errors import AnnotationError

    fault = f"no mask of it in {folder}"
    remedy = f"add {entry.path.stem}.png or .geojson there, or use --tissue otsu"
    return AnnotationError(entry.name, fault, remedy)


def _named_classes(text: str) -> tuple[str, ...]:
    """Names of ``A, B,C`` in the order given; raises ConfigError where one is empty or double."""
    from wsikd.core.errors import ConfigError
    from wsikd.slides.label_map import plain_name

    names = tuple(plain_name(name) for name in text.split(","))
    if not all(names) or len(set(names)) < len(names):
        raise ConfigError("--classes", f"'{text}' names one twice or none", "give them as A,B,C")
    return names


def _annotated_classes(
    entries: Sequence[SlideEntry], label_map: Sequence[tuple[str, str]]
) -> tuple[str, ...]:
    """Classes over all annotations and labels, in order of grade."""
    from wsikd.core.classes import ordered_classes
    from wsikd.core.errors import AnnotationError
    from wsikd.slides.annotations import annotated_names

    names = {entry.label for entry in entries if entry.label}
    for file in {entry.annotation for entry in entries if entry.annotation}:
        try:
            names |= set(annotated_names(file, label_map))
        except AnnotationError as error:
            log.debug("%s", error)  # told again when that slide's turn comes
    return ordered_classes(names)
