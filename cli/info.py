"""``wsikd info``: facts about slides and networks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from .common import Batch, slide_options, tissue_options

if TYPE_CHECKING:
    from collections.abc import Sequence


@click.command(short_help="Describe slides and students.")
@click.argument("slides", nargs=-1, required=True)
@click.option(
    "--mag",
    "magnifications",
    type=click.FloatRange(0, min_open=True),
    multiple=True,
    help="Magnifications to count fields for.  [default: 10 and 2.5]",
)
@click.option(
    "--patch-size",
    type=click.IntRange(1),
    default=512,
    show_default=True,
    help="Patch side in px at the highest of these magnifications.",
)
@tissue_options
@slide_options
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead.")
def info(
    slides: tuple[str, ...],
    magnifications: tuple[float, ...],
    patch_size: int,
    tissue: str,
    min_tissue: float,
    slide_mpp: float | None,
    reader: str,
    series: int | None,
    accept_grey: bool,
    threads: int | None,
    as_json: bool,
) -> None:
    """Show a slide's reader, levels, resolution and its source, tissue and fields.

    For a student or teacher (run folder or bundle): its classes, input, figures and guard.
    """
    from wsikd.slides.listing.inputs import check_slides, own_tissue
    from wsikd.slides.listing.manifest import find_slides
    from wsikd.slides.listing.sidecar import tissue_method
    from wsikd.tiles.runs.info import Asked, describe_all

    sizes = tuple(sorted(set(magnifications or (10.0, 2.5)), reverse=True))
    asked = Asked(sizes, patch_size, tissue_method(tissue), min_tissue, threads)
    asked.check()
    batch = Batch(None)
    networks = _networks(slides)
    slides = tuple(item for item in slides if item not in networks)
    check_slides(slides, "wsikd info")
    if not as_json:
        for name, rows in networks.items():
            wide = max(map(len, rows))
            click.echo(
                "\n".join([name, *(f"  {key:<{wide}} {said}" for key, said in rows.items())])
            )
    entries = (
        []
        if not slides
        else find_slides(
            slides, slide_mpp=slide_mpp, reader=reader, series=series, accept_grey=accept_grey
        )
    )
    entries = own_tissue(tissue, entries, batch)
    records = describe_all(entries, asked, batch, (lambda _: None) if as_json else click.echo)
    if as_json:
        own = [{"student": name, **rows} for name, rows in networks.items()]
        click.echo(json.dumps([*own, *records], indent=2))
    batch.finish("")


def _networks(items: Sequence[str]) -> dict[str, dict[str, str]]:
    """Descriptions of the students and teachers among the inputs."""
    from wsikd.slides.what_is import GRADER, what_is

    networks = [item for item in items if what_is(item) == GRADER]
    if not networks:
        return {}  # the cards take a quarter of a second to import
    from wsikd.models.files.facts import facts
    from wsikd.models.files.peek import peek_grader

    return {item: facts(peek_grader(item, "wsikd info")) for item in networks}
