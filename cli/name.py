"""``wsikd name``: a name and version for a network."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="Give a student or another network a name and version.")
@click.argument("student", type=click.Path(path_type=Path))
@click.argument("name")
@click.option(
    "--version",
    metavar="TEXT",
    help="Its version, up to 40 characters.  [default: none; an earlier one is removed]",
)
def name(student: Path, name: str, version: str | None) -> None:
    """Give STUDENT, a run folder or bundle of any kind, the name NAME (up to 80 characters).

    wsikd info, pictures, reports and exports show name and version before the digest of the
    weights. Weights and grades stay as they are, and runs that use the network can be continued.
    """
    from wsikd.models.files.naming import name_bundle
    from wsikd.models.files.peek import check_network
    from wsikd.slides.what_is import GRADER, NETWORKS

    check_network(student, "STUDENT", GRADER, *NETWORKS.values())
    click.echo(f"{student}: {name_bundle(student, name, version).called}")
