"""Options of ``wsikd tile``: what is tissue, what was drawn, and how the work is done."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsikd.tiles.runs.run import Running


def annotation_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that turn what a person drew into labels."""
    for option in (
        click.option(
            "--min-purity",
            type=click.FloatRange(0, 1),
            default=0.0,
            show_default=True,
            help="Share of a field's annotated area that its class must have to label it.",
        ),
        click.option(
            "--min-cover",
            type=click.FloatRange(0, 1),
            default=0.5,
            show_default=True,
            help="Share of a field that a class must cover to label it.",
        ),
        click.option(
            "--classes", help="Label names in order, as A,B,C.  [default: those annotated]"
        ),
        click.option(
            "--label-map",
            multiple=True,
            metavar="SOURCE=CLASS",
            help="What a mask value, an ASAP group or a QuPath class is called: 3=G3. Empty leaves "
            "it out; '-' cuts its areas out of all others. May be given again, or as FILE.yaml.",
        ),
        click.option(
            "--annotations",
            type=click.Path(exists=True, path_type=Path),
            help="QuPath GeoJSON, ASAP XML or a mask (TIFF, PNG) of class values; or a folder of "
            "them, named as the slides are: <slide>.geojson, .json, .xml, _mask.tif, .tif, .png.",
        ),
    ):
        command = option(command)
    return command


def area_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that tell what is too small to count as tissue, or as a hole in it."""
    for option in (
        click.option(
            "--max-hole-area",
            type=click.FloatRange(0),
            metavar="UM2",
            help="Fill holes in tissue below this area in um2.  [default: 20000 with otsu, else 0]",
        ),
        click.option(
            "--min-tissue-area",
            type=click.FloatRange(0),
            metavar="UM2",
            help="Drop pieces of tissue below this area in um2.  [default: 20000 with otsu, else "
            "0]",
        ),
    ):
        command = option(command)
    return command


def store_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say how pixels are derived and kept."""
    for option in (
        click.option(
            "--ome-version",
            default="0.5",
            show_default=True,
            metavar="VERSION",
            help="OME-Zarr 0.5 (shards), or 0.4 for readers such as TIAToolbox and QuPath.",
        ),
        click.option(
            "--codec",
            default="none",
            show_default=True,
            metavar="NAME",
            help="none: raw, quickest to train from. zstd: lossless, a tenth to half smaller. "
            "jpeg: five to nine times smaller, lossy (quality 90).",
        ),
        click.option(
            "--route",
            default="area",
            show_default=True,
            metavar="NAME",
            help="Lower magnifications: area, the average of the highest; or pyramid, the "
            "scanner's own levels.",
        ),
        click.option(
            "--compare",
            is_flag=True,
            help="Tell how far the two routes differ on each slide (PSNR, mean shift); no more.",
        ),
    ):
        command = option(command)
    return command


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say where and how the work is done."""
    for option in (
        click.option("--dry-run", is_flag=True, help="Tell patches, bytes and minutes; no more."),
        click.option(
            "--workers",
            type=click.IntRange(1),
            help="Fill the stores in so many processes of a local Dask cluster, one thread each.",
        ),
        click.option(
            "--scheduler",
            metavar="ADDRESS",
            help="Fill the stores on this Dask cluster: tcp://host:port.",
        ),
        click.option(
            "--stall",
            type=click.FloatRange(0, min_open=True),
            default=10.0,
            show_default=True,
            metavar="MINUTES",
            help="Give a slide up that has made no progress for so long.",
        ),
        click.option(
            "--jobs",
            type=click.IntRange(0),
            default=1,
            show_default=True,
            help="Slides at a time, each in a process of its own, so that a damaged one stops no "
            "other. 0 reads them in the command's own process.",
        ),
    ):
        command = option(command)
    return command


def running(
    jobs: int, threads: int | None, stall: float, scheduler: str | None, workers: int | None
) -> Running:
    """Check the options; threads are by default the cores, shared out to the jobs."""
    if scheduler and workers:
        raise click.UsageError("give --scheduler or --workers, not both")
    from wsikd.tiles.runs.run import Running

    share = max(1, (os.cpu_count() or 1) // max(1, jobs))
    return Running(jobs, threads or share, stall, scheduler, workers)
