"""``wsikd tile``: slides become tile stores."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .common import Batch, input_option, slide_options, tissue_options
from .sections import Sectioned
from .tile_options import (
    annotation_options,
    area_options,
    run_options,
    running,
    store_options,
)
from .tile_progress import TileProgress

if TYPE_CHECKING:
    from wsikd.tiles.runs.run import Ended

log = logging.getLogger(__name__)


@click.command(
    cls=Sectioned,
    short_help="Tile slides into stores, at several magnifications.",
    sections={
        "Labels": "annotations label_map classes min_cover min_purity",
        "Reading": "tissue min_tissue min_tissue_area max_hole_area slide_mpp series "
        "accept_grey reader route",
        "Output": "codec ome_version",
        "Hardware": "threads jobs stall scheduler workers",
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
    help="Magnification: 10 means 1.0 um/px, 2.5 means 4.0. Repeatable.  [default: 10 and 2.5]",
)
@click.option(
    "--mpp",
    "mpps",
    type=click.FloatRange(0, min_open=True),
    multiple=True,
    help="Resolution in um/px, instead of --mag. Repeatable.",
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
    help="Step between patches in px at the highest magnification.  [default: the patch size]",
)
@annotation_options
@tissue_options
@area_options
@store_options
@slide_options
@run_options
@click.option("--overwrite", is_flag=True, help="Tile again and replace earlier stores.")
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
    from wsikd.core.faults import require
    from wsikd.slides.mpp import mpp_of_magnification
    from wsikd.tiles.runs.compare import compare_tiles
    from wsikd.tiles.runs.foresee import estimate_tiles
    from wsikd.tiles.runs.plan import TileRequest, plan_tiles
    from wsikd.tiles.runs.run import run_tiles

    if magnifications and mpps:
        raise click.UsageError("give --mag or --mpp, not both")
    if compare and dry_run:
        raise click.UsageError("give --compare or --dry-run, not both")
    asked = TileRequest(
        inputs=inputs,
        out=output,
        mpps=mpps or tuple(mpp_of_magnification(m) for m in magnifications or (10.0, 2.5)),
        patch_px=patch_size,
        stride_px=stride,
        annotations=annotations,
        label_map=label_map,
        classes=classes,
        min_cover=min_cover,
        min_purity=min_purity,
        tissue=tissue,
        min_tissue=min_tissue,
        min_tissue_um2=min_tissue_area,
        max_hole_um2=max_hole_area,
        route=route,
        codec=codec,
        ome_version=ome_version,
        slide_mpp=slide_mpp,
        reader=reader,
        series=series,
        accept_grey=accept_grey,
        overwrite=overwrite,
    )
    asked.check()
    how = running(jobs, threads, stall, scheduler, workers)
    only_report = dry_run or compare
    if not only_report:
        require("wsikd tile", "dask")
    plan = plan_tiles(asked, how, writes=not only_report)
    batch = Batch(None if only_report else output)
    for entry, error in plan.unmasked:
        batch.failed(entry, error)
    if only_report:
        work = compare_tiles if compare else estimate_tiles
        done = work(plan.jobs, how, batch, output, plan.labels)
    else:
        done = run_tiles(plan.jobs, how, batch, output, plan.labels, plan.left_out, TileProgress)
    _end(batch, done)


def _end(batch: Batch, done: Ended) -> None:
    """Sum up. Failed slides decide the exit code; else a run without the labels that it asks for.

    Raises:
        ConfigError: no patch has a label, and no slide failed.
    """
    if done.unlabelled is not None and batch.failures:
        log.warning("%s", done.unlabelled)
    batch.finish(done.summary)
    if done.unlabelled is not None:
        raise done.unlabelled
