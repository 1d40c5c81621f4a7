"""``wsikd attend``: maps of the attention of a slide classifier."""

from __future__ import annotations

from pathlib import Path

import click

from .common import Batch, input_option, slide_options


@click.command(short_help="Draw where a slide classifier looks (method: mil).")
@click.argument("run", type=click.Path(path_type=Path))
@input_option
@click.option(
    "--bags",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    metavar="BAGS",
    help="Bags of wsikd embed of these slides. Repeatable.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="OUT",
    help="Folder for one folder per slide.",
)
@click.option(
    "--format",
    "formats",
    multiple=True,
    default=["zarr,csv,geojson,heat"],
    show_default=True,
    metavar="NAMES",
    help="Files to write for each slide, as for wsikd infer. Repeatable.",
)
@slide_options
def attend(
    run: Path,
    inputs: tuple[str, ...],
    bags: tuple[Path, ...],
    output: Path,
    formats: tuple[str, ...],
    threads: int | None,
    reader: str,
    series: int | None,
    accept_grey: bool,
    slide_mpp: float | None,
) -> None:
    """Draw the attention of RUN (method: mil) on its slides.

    The maps have the classes "rest" and "attention": the attention of a field as a share of the
    slide's highest. heat.png draws it as a heat map. It shows which fields decided the slide's
    class, not the class of each field.
    """
    from wsikd.api.attention import AttendRequest, draw_attention

    batch = Batch(output)
    request = AttendRequest(
        run, inputs, bags, output, formats, threads=threads, slide_mpp=slide_mpp, reader=reader,
        series=series, accept_grey=accept_grey,
    )  # fmt: skip
    decided = draw_attention(request, batch)
    batch.finish(f"{len(decided)} drawn")
