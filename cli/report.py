"""``wsikd report``: one page of a folder of results."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="Write one HTML page for a folder of graded slides.")
@click.argument("out", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "-i",
    "--input",
    "inputs",
    multiple=True,
    metavar="SLIDES",
    help="The graded slides, to print each beside its map; results do not store their paths.  "
    "[default: maps only]",
)
@click.option(
    "--reader",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="Slide reader: auto, openslide, direct, tiatoolbox.",
)
def report(out: Path, inputs: tuple[str, ...], reader: str) -> None:
    """Write OUT/report.html: every slide of a folder of wsikd infer on one page.

    The page opens in any browser without a server. Its pictures are small and link to the overlays.
    Printed, each slide has a page of its own, and classes differ by hatching and letters.
    """
    from wsikd.slides.listing.inputs import check_slides
    from wsikd.slides.what_is import RESULTS, check_role

    check_role(out, "wsikd report", RESULTS)
    check_slides(inputs)
    from wsikd.grade.reports.folder_report import write_results_report
    from wsikd.grade.runs.results import results_made
    from wsikd.slides.listing.manifest import find_slides
    from wsikd.slides.listing.once import settle_names

    entries = find_slides(inputs, reader=reader, accept_grey=True) if inputs else []
    path, slides, failures = write_results_report(out, settle_names(entries, results_made(out)))
    click.echo(f"{path}: {slides} slide(s), {failures} failure(s)")
