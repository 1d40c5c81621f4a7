"""``wsikd slides``: similar slides by a run of ``method: slpd``."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .exits import SOME_FAILED, error_line

if TYPE_CHECKING:
    from wsikd.grade.reports.similar_slides import Match, Region
    from wsikd.learn.slpd.prototypes import PrototypeTable


@click.group()
def slides() -> None:
    """Find similar slides with a run of method slpd."""


@slides.command()
@click.argument("run", type=click.Path(path_type=Path, exists=True))
@click.argument("slide")
@click.option(
    "-i",
    "--input",
    "inputs",
    multiple=True,
    metavar="SLIDES",
    help="The slides, for pictures of regions; runs do not store their paths.  [default: "
    "coordinates only]",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="PAGE",
    help="The HTML page.  [default: RUN/similar/SLIDE.html]",
)
@click.option(
    "--count", type=click.IntRange(1), default=5, show_default=True, help="Number of slides listed."
)
@click.option(
    "--pictures",
    type=click.IntRange(0, 20),
    default=3,
    show_default=True,
    help="Number of regions shown for each prototype.",
)
@click.option(
    "--reader",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="Slide reader: auto, openslide, direct, tiatoolbox.",
)
def similar(
    run: Path,
    slide: str,
    inputs: tuple[str, ...],
    output: Path | None,
    count: int,
    pictures: int,
    reader: str,
) -> None:
    """List the slides of RUN that are most similar to SLIDE; write a page of matching regions.

    RUN is a run of method slpd, or its prototypes.npz. Slides of the same patient are left out.
    """
    from wsikd.slides.listing.inputs import check_slides
    from wsikd.slides.what_is import REGIONS, UNFINISHED, check_role

    check_role(run, "RUN", REGIONS, UNFINISHED)
    check_slides(inputs)
    from wsikd.grade.reports.similar_slides import SimilarPage, write_similar
    from wsikd.learn.slpd.prototypes import PrototypeTable
    from wsikd.slides.listing.manifest import find_slides

    table = PrototypeTable.load(run)
    own = _find(table, slide)
    entries = find_slides(inputs, reader=reader, accept_grey=True) if inputs else []
    matches = _matches(table, own, count, pictures)
    facts = {
        "Slides with prototypes": f"{int(table.valid.sum())} of {len(table)}",
        "prototypes a slide": str(table.clusters),
        "epoch": str(table.about.get("epoch", "unknown")),
    }
    page = output or (run if run.is_dir() else run.parent) / "similar" / f"{slide}.html"
    failed = write_similar(SimilarPage(slide, matches, facts), page, entries)
    _print(matches)
    click.echo(f"{page}: {len(matches)} slide(s) like {slide}")
    if not entries:
        click.echo("no slides were given: the page lists coordinates; give them with -i", err=True)
    for _, error in failed:
        click.echo(error_line(error), err=True)
    if failed:
        sys.exit(SOME_FAILED)


def _find(table: PrototypeTable, slide: str) -> int:
    from wsikd.core.errors import DataError

    if slide not in table.slides:
        close = difflib.get_close_matches(slide, table.slides, n=3, cutoff=0.4)
        some = ", ".join(table.slides[:3]) + (", ..." if len(table) > 3 else "")
        remedy = f"did you mean {' or '.join(close)}?" if close else f"give one of {some}"
        raise DataError(f"slide '{slide}'", "is none of this run", remedy)
    return table.index(slide)


def _matches(table: PrototypeTable, own: int, count: int, per: int) -> list[Match]:
    from wsikd.grade.reports.similar_slides import Match, Pair, Region

    def regions(slide: int, prototype: int) -> list[Region]:
        return [
            Region(
                table.slides[slide],
                (float(table.coords[r, 0]), float(table.coords[r, 1])),
                (float(table.field_px[slide, 0]), float(table.field_px[slide, 1])),
                float(table.closeness[r]),
            )
            for r in table.nearest(slide, prototype, per).tolist()
        ]

    found = []
    for like in table.similar(own, count):
        pairs = []
        for k, other in enumerate(like.matched.tolist()):
            cosine = float(table.prototypes[own, k] @ table.prototypes[like.slide, other])
            pairs.append(Pair(k, other, cosine, regions(own, k), regions(like.slide, other)))
        found.append(Match(table.slides[like.slide], like.similarity, pairs))
    return found


def _print(matches: list[Match]) -> None:
    width = max([len(m.slide) for m in matches] + [len("slide")])
    click.echo(f"{'slide':{width}}  similarity  matched prototypes (cosine)")
    for match in matches:
        pairs = ", ".join(f"{p.own}-{p.other} ({p.cosine:.3f})" for p in match.pairs)
        click.echo(f"{match.slide:{width}}  {match.similarity:10.3f}  {pairs}")
