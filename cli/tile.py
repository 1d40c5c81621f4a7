"""``wsikd tile``: slides become tile stores."""

from __future__ import annotations

from pathlib import Path

import click

from .common import Batch, input_option, slide_options, tissue_options
from .roles import check_slides
from .sections import Sectioned
from .tile_compare import compare_tiles
from .tile_labels import plan_labels
from .tile_options import annotation_options, area_options, store_options
from .tile_run import estimate_tiles, run_options, run_tiles, running


@click.command(
    cls=Sectioned,
    short_help="Tile slides into stores, at several magnifications.",
    sections={
        "What is labelled": "annotations label_map classes min_cover min_purity",
        "What is read": "tissue min_tissue min_tissue_area max_hole_area slide_mpp series "
        "accept_grey reader route",
        "What is written": "codec ome_version",
        "The machine": "threads jobs stall scheduler workers",
    },
)
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
@area_options
@store_options
@slide_options
@run_options
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
    compare: bool,
    route: str,
    codec: str,
    ome_version: str,
    slide_mpp: float | None,
    reader: str,
    series: int | None,
    accept_grey: bool,
    threads: int | None,
    jobs: int,
    stall: float,
    scheduler: str | None,
    workers: int | None,
    dry_run: bool,
    overwrite: bool,
) -> None:
    """Tile slides into OME-Zarr stores, several magnifications of the same fields in each."""
    from wsikd.bags.made import stores_made
    from wsikd.slides.annotations.label_map import parse_label_map
    from wsikd.slides.listing.manifest import discover_slides
    from wsikd.slides.listing.once import settle_names
    from wsikd.slides.listing.sidecar import no_mask, own_masks
    from wsikd.slides.mpp import mpp_of_magnification
    from wsikd.slides.tissue.find import default_areas
    from wsikd.tiles.blocks import check_route
    from wsikd.tiles.codecs import check_codec
    from wsikd.tiles.grid import patch_sizes
    from wsikd.tiles.jobs import TileJob
    from wsikd.tiles.metadata import KEY_BYTES, KEY_FILE, project_key
    from wsikd.tiles.store import StoreSettings

    if magnifications and mpps:
        raise click.UsageError("give --mag or --mpp, not both")
    if compare and dry_run:
        raise click.UsageError("give --compare or --dry-run, not both")
    check_codec(codec, ome_version)
    check_route(route)
    asked = mpps or tuple(mpp_of_magnification(m) for m in magnifications or (10.0, 2.5))
    finest_first = tuple(sorted(set(asked)))
    patch_sizes(finest_first, patch_size, stride or patch_size)
    renamed = parse_label_map(label_map)
    how = running(jobs, threads, stall, scheduler, workers)
    check_slides(inputs)
    found = discover_slides(
        inputs,
        slide_mpp=slide_mpp,
        annotations=annotations,
        reader=reader,
        series=series,
        accept_grey=accept_grey,
    )
    method, entries, unmasked = own_masks(tissue, settle_names(found.entries, stores_made(output)))
    labels = plan_labels(
        entries,
        renamed,
        annotations=annotations,
        classes=classes,
        apart=jobs > 0,
        stall_s=60 * stall,
    )
    usual = default_areas(method)
    settings = StoreSettings(
        mpps=finest_first,
        patch_px=patch_size,
        stride_px=stride or patch_size,
        tissue=method,
        min_tissue=min_tissue,
        classes=labels.classes,
        min_cover=min_cover,
        min_purity=min_purity,
        label_map=renamed,
        min_tissue_um2=usual.min_tissue_um2 if min_tissue_area is None else min_tissue_area,
        max_hole_um2=usual.max_hole_um2 if max_hole_area is None else max_hole_area,
        route=route,
        codec=codec,
        ome_version=ome_version,
    )
    only_tell = dry_run or compare
    if not only_tell:
        output.mkdir(parents=True, exist_ok=True)
    # A dry run draws no key: where there is none, no store of these patients can be there either.
    drawn = not only_tell or (output / KEY_FILE).exists()
    keyed = any(entry.patient for entry in entries)
    key = (project_key(output) if drawn else bytes(KEY_BYTES)) if keyed else None
    tasks = [
        TileJob(entry, output, settings, renamed, key, how.threads, overwrite) for entry in entries
    ]
    batch = Batch(None if only_tell else output)
    for entry in unmasked:
        batch.failed(entry, no_mask(entry, tissue))
    if only_tell:
        work = compare_tiles if compare else estimate_tiles
        work(tasks, how, batch, output, labels)
    else:
        run_tiles(tasks, how, batch, output, labels, found.left_out)
