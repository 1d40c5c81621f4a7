"""Options of ``wsikd tile``: tissue, annotations, storage and hardware."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsikd.tiles.runs.run import Running


def annotation_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that turn annotations into labels."""
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
            "--classes", help="Class names in order, as A,B,C.  [default: those annotated]"
        ),
        click.option(
            "--label-map",
            multiple=True,
            metavar="SOURCE=CLASS",
            help="Name for a mask value, an ASAP group or a QuPath class: 3=G3. An empty name "
            "ignores it; '-' cuts its areas out of all others. Repeatable, or give FILE.yaml.",
        ),
        click.option(
            "--annotations",
            type=click.Path(exists=True, path_type=Path),
            help="QuPath GeoJSON, ASAP XML or a mask (TIFF, PNG) of class values; or a folder of "
            "them, named after the slides: <slide>.geojson, .json, .xml, _mask.tif, .tif, .png.",
        ),
    ):
        command = option(command)
    return command


def area_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options for the smallest area that counts as tissue, or as a hole in it."""
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
    """Options for the resampling and storage of pixels."""
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
            help="none: raw, fastest to train from. zstd: lossless, 10 to 50 % smaller. jpeg: "
            "lossy (quality 90), five to nine times smaller.",
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
            help="Only report how far the two routes differ on each slide (PSNR, mean shift).",
        ),
    ):
        command = option(command)
    return command


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options for processes, threads and clusters."""
    for option in (
        click.option(
            "--dry-run", is_flag=True, help="Only report the number of patches, bytes and minutes."
        ),
        click.option(
            "--workers",
            type=click.IntRange(1),
            help="Fill the stores with this many single-threaded processes of a local Dask "
            "cluster.",
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
            help="Give up on a slide without progress for this many minutes.",
        ),
        click.option(
            "--jobs",
            type=click.IntRange(0),
            default=1,
            show_default=True,
            help="Slides processed at a time, each in its own process, so that a damaged slide "
            "does not stop the others. 0: no extra process.",
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
