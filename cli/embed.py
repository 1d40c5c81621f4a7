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
from .sections import Sectioned

if TYPE_CHECKING:
    from collections.abc import Callable

FITTING = ("inputs", "encoder_name", "output", "batch_size", "device", "overwrite")
"""Options that are valid with a region encoder."""


def region_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of region grids."""
    for option in (
        click.option("--float16", is_flag=True, help="Store embeddings in half precision."),
        click.option(
            "--coarser",
            type=click.FloatRange(0, 1),
            help="Read a slide that is coarser than --mpp by at most this share at its "
            "own resolution.  [default: 0.05]",
        ),
        click.option(
            "--min-inside",
            type=click.FloatRange(0, 1),
            help="Smallest share of a region's area that is on the slide; the rest is filled with "
            "background.  [default: 0.75]",
        ),
        click.option(
            "--regions",
            "region_px",
            type=click.IntRange(1),
            metavar="PX",
            help="Make region grids: squares of PX at --mpp, each of g x g tiles of --patch-size "
            "(default the encoder's, else 256). --min-tissue applies to the whole region.",
        ),
    ):
        command = option(command)
    return command


@click.command(
    cls=Sectioned,
    sections={
        "Region grids": "region_px min_inside coarser float16",
        "Slides and tissue": "tissue min_tissue slide_mpp series accept_grey reader",
        "Machine": "batch_size device precision threads",
    },
    short_help="Turn patches into embeddings, one bag per slide.",
)
@input_option
@click.option(
    "--encoder",
    "encoder_name",
    required=True,
    metavar="NAME|FILE|FOLDER",
    help="timm:NAME; a run of wsikd distill, or a bundle; a file of a transformer trained by DINO, "
    "hipt:FILE (as FILE alone) or dino:FILE, which differ in the transform of a patch; "
    "PREFIX:ARGUMENT of an installed package; for region grids a run of method slpd.",
)
@click.option(
    "--weights",
    metavar="FILE",
    help="Local weights of a timm network; 'random' for none.  [default: timm's hub]",
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
@click.option(
    "--mag",
    type=click.FloatRange(0, min_open=True),
    help="Magnification, instead of --mpp: 10 means 1 um/px.",
)
@click.option(
    "--mpp",
    type=click.FloatRange(0, min_open=True),
    metavar="UM",
    help="um per pixel of the patches.  [default: the encoder's]",
)
@click.option("--patch-size", type=click.IntRange(1), help="In px.  [default: the encoder's]")
@click.option("--stride", type=click.IntRange(1), help="In px.  [default: the patch size]")
@click.option("--h5", is_flag=True, help="Also write <slide>.h5, as CLAM and TRIDENT do.")
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda:0.")
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "fp16"]),
    default="auto",
    show_default=True,
    help="auto: fp16 on GPUs, if the first patches get nearly the same embeddings as in fp32.",
)
@region_options
@tissue_options
@slide_options
@click.option("--overwrite", is_flag=True, help="Embed again and replace earlier bags.")
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
    precision: str,
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
    """Turn patches into embeddings with a frozen network: one bag per slide.

    SLIDES may also be tile stores, or a folder of them; their patches are then embedded as they
    are. With --regions, a bag holds grids of tiles for a region encoder. If --encoder is a run of
    method slpd, SLIDES are such grids, and a bag holds one vector per region.
    """
    from wsikd.bags.run import EmbedRequest, Machine, Regions, check_encoder, embed_all
    from wsikd.slides.threads import use_threads

    if check_encoder(encoder_name):
        _only_fitting(click.get_current_context())
    if mag is not None and mpp is not None:
        raise click.UsageError("give --mag or --mpp, not both")
    if region_px is None and (min_inside is not None or coarser is not None or float16):
        raise click.UsageError("--min-inside, --coarser and --float16 go with --regions")
    if region_px is not None and (stride is not None or h5):
        raise click.UsageError("--regions goes with neither --stride nor --h5")
    regions = None
    if region_px is not None:
        regions = Regions(region_px, min_inside, coarser, float16 or None)
    request = EmbedRequest(
        inputs, output, encoder_name, weights, licence,
        mpp=10 / mag if mag else mpp, patch_px=patch_size, stride_px=stride, h5=h5,
        regions=regions, tissue=tissue, min_tissue=min_tissue, slide_mpp=slide_mpp,
        reader=reader, series=series, accept_grey=accept_grey, overwrite=overwrite,
    )  # fmt: skip
    batch = Batch(output)
    machine = Machine(device, batch_size, use_threads(threads), precision)
    done = embed_all(request, machine, batch, progress)
    batch.finish(done.summary)


def _only_fitting(context: click.Context) -> None:
    """Refuse options that do not go with a region encoder. Raises UsageError."""
    for option in context.command.params:
        name = option.name or ""
        given = context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if given and name not in FITTING:
            raise click.UsageError(f"{option.opts[0]} does not go with a region encoder")
