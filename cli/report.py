"""``wsikd report``: one page of a folder of results, or of training runs."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="Write one HTML page on graded slides, or on training runs.")
@click.argument(
    "places",
    metavar="OUT|RUN...",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
)
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
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder of the page on runs.  [default: RUN/report; needed for several]",
)
@click.option("--device", default="auto", show_default=True, help="For runs: auto, cpu or cuda:0.")
def report(
    places: tuple[Path, ...], inputs: tuple[str, ...], reader: str, output: Path | None, device: str
) -> None:
    """Write OUT/report.html: every slide of a folder of wsikd infer on one page.

    The page opens in any browser without a server. Its pictures are small and link to the overlays.
    Printed, each slide has a page of its own, and classes differ by hatching and letters.

    For training runs: curves, confusion, the worst and the most doubtful validation patches, where
    teacher and student look, and what differs between the configurations. The test part is not
    looked at.
    """
    from wsikd.slides.listing.inputs import check_slides
    from wsikd.slides.what_is import GRADER, RESULTS, check_role, what_is

    if what_is(places[0]) == GRADER:
        if inputs:
            raise click.UsageError("-i is for a folder of results")
        for run in places:
            check_role(run, "wsikd report", GRADER)
        _report_runs(places, output, device)
        return
    check_role(places[0], "wsikd report", RESULTS, GRADER)
    if len(places) > 1 or output is not None:
        raise click.UsageError("a folder of results is given alone; its page lies in it")
    check_slides(inputs)
    from wsikd.grade.reports.folder_report import write_results_report
    from wsikd.grade.runs.results import results_made
    from wsikd.slides.listing.manifest import find_slides
    from wsikd.slides.listing.once import settle_names

    out = places[0]
    entries = find_slides(inputs, reader=reader, accept_grey=True) if inputs else []
    path, slides, failures = write_results_report(out, settle_names(entries, results_made(out)))
    click.echo(f"{path}: {slides} slide(s), {failures} failure(s)")


def _report_runs(runs: tuple[Path, ...], output: Path | None, device: str) -> None:
    if output is None and len(runs) > 1:
        raise click.UsageError("give -o DIR for the page on several runs")
    from wsikd.learn.score.run_report import write_run_report
    from wsikd.models.device import pick_device

    folder = output or runs[0] / "report"
    path = write_run_report(runs, folder, device=str(pick_device(device)))
    click.echo(f"{path}: {len(runs)} run(s)")
