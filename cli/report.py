"""``wsikd report``: one page of a folder of results."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="Write one HTML page for a folder of graded slides.")
@click.argument("out", type=click.Path(path_type=Path, exists=True, file_okay=False))
def report(out: Path) -> None:
    """Write OUT/report.html: every slide of a folder of wsikd infer on one page.

    The page opens in any browser without a server. Its pictures are small and link to the overlays.
    """
    from wsikd.slides.what_is import RESULTS, check_role

    check_role(out, "wsikd report", RESULTS)
    from wsikd.grade.reports.folder_report import write_results_report

    path, slides, failures = write_results_report(out)
    click.echo(f"{path}: {slides} slide(s), {failures} failure(s)")
