"""``wsikd view``: slides and their grade maps in the browser."""

from __future__ import annotations

from pathlib import Path

import click

_LONGEST_NAME = 100


@click.command(short_help="Show graded slides in the browser, with the grade of each field.")
@click.argument("out", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "-i",
    "--input",
    "inputs",
    multiple=True,
    metavar="SLIDES",
    help="The graded slides, as given to wsikd infer; results do not store their paths.  "
    "[default: maps only]",
)
@click.option(
    "--reviewer",
    default="",
    metavar="NAME",
    help="Let this person correct grades and sign; OUT/corrections/ keeps it.  [default: nobody]",
)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="[default: a free one]")
@click.option("--no-browser", is_flag=True, help="Print the address without opening a browser.")
@click.option(
    "--reader",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="Slide reader: auto, openslide, direct, tiatoolbox.",
)
def view(
    out: Path, inputs: tuple[str, ...], reviewer: str, port: int, no_browser: bool, reader: str
) -> None:
    """Show OUT, a folder of wsikd infer, in the browser: each map over its slide.

    It serves only this machine, and ends with Ctrl-C. It writes nothing without --reviewer. wsikd
    tile --annotations OUT/corrections takes a reviewer's corrections as labels.
    """
    import threading
    import webbrowser

    from wsikd.slides.listing.inputs import check_slides
    from wsikd.slides.threads import use_threads
    from wsikd.slides.what_is import RESULTS, check_role

    check_role(out, "wsikd view", RESULTS)
    check_slides(inputs)
    _check_name(reviewer)
    from wsikd.grade.runs.results import results_made
    from wsikd.grade.viewer.server import ViewServer
    from wsikd.grade.viewer.session import Viewing
    from wsikd.slides.listing.manifest import find_slides
    from wsikd.slides.listing.once import settle_names

    use_threads(1)
    entries = find_slides(inputs, reader=reader, accept_grey=True) if inputs else []
    viewing = Viewing(out, settle_names(entries, results_made(out)), reviewer=reviewer)
    with ViewServer(viewing, port) as server:
        names = viewing.names()
        click.echo(f"{out}: {len(names)} slide(s) at {server.address} (Ctrl-C ends it)")
        if not no_browser:
            threading.Thread(target=webbrowser.open, args=(server.address,), daemon=True).start()
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            click.echo()
        finally:
            viewing.close()


def _check_name(reviewer: str) -> None:
    from wsikd.core.errors import ConfigError

    if not reviewer.isprintable() or len(reviewer) > _LONGEST_NAME:
        fault = "cannot be signed with"
        raise ConfigError("--reviewer", fault, f"give up to {_LONGEST_NAME} printable characters")
