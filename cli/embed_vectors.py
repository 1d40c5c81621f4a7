"""The part of ``wsikd embed`` that turns region grids into bags of region vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .common import Batch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from wsikd.slides.listing.manifest import SlideEntry

FITTING = ("inputs", "encoder_name", "output", "batch_size", "device", "overwrite")
"""Options that go with a region encoder."""


def embed_vectors(
    context: click.Context,
    inputs: Sequence[str],
    run: Path,
    output: Path,
    *,
    device: str,
    batch_size: int,
    overwrite: bool,
) -> None:
    """Encode every grid; one that will not do is told of at the end, and the others go on."""
    from wsikd.bags.bag import find_bags
    from wsikd.slides.listing.manifest import SlideEntry
    from wsikd.slides.what_is import BAGS, GRIDS, check_role

    for option in context.command.params:
        name = option.name or ""
        given = context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if given and name not in FITTING:
            raise click.UsageError(f"{option.opts[0]} does not go with a region encoder")
    for item in inputs:
        check_role(item, "-i with a region encoder", GRIDS, BAGS)
    entries = [SlideEntry(path, path.stem) for path in find_bags(inputs)]

    from wsikd.bags.region_vectors import VectorEmbedder

    embedder = VectorEmbedder(run, device=device, batch_size=batch_size)
    output.mkdir(parents=True, exist_ok=True)
    counts = {"made": 0, "already there": 0}

    def work(entry: SlideEntry) -> str:
        path = output / f"{entry.name}.zarr"
        done = embedder.embed(entry.path, path, overwrite=overwrite)
        counts["made" if done.made else "already there"] += 1
        place = f"{'in' if done.made else 'already in'} {path}"
        return f"{done.patches} region vectors of {embedder.dim} numbers, {place}"

    batch = Batch(output)
    batch.run(entries, work)
    batch.finish(", ".join(f"{n} {what}" for what, n in counts.items()))
