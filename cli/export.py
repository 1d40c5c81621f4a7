"""``wsikd export``: tile stores for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .common import Batch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsikd.slides.listing.manifest import SlideEntry


@click.command(short_help="Export tile stores for other tools, or as images.")
@click.argument("stores", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--to",
    "kind",
    required=True,
    metavar="KIND",
    help="clam-h5 or trident-h5: the patches' coordinates, as these tools read them; images: one "
    "file per patch in one folder per class, and labels.csv; or a kind that an installed package "
    "adds.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="DIR",
    help="Output folder.",
)
@click.option(
    "--mag",
    "magnification",
    type=click.FloatRange(0, min_open=True),
    help="Magnification, one of the store's.  [default: its highest]",
)
@click.option(
    "--format",
    "image_format",
    type=click.Choice(["png", "jpg"]),
    default="png",
    show_default=True,
    help="Image format: png is lossless, jpg is smaller.",
)
@click.option("--threads", type=click.IntRange(1), help="Encoding threads  [default: cores]")
@click.option("--overwrite", is_flag=True, help="Replace earlier files of these slides.")
def export(
    stores: tuple[Path, ...],
    kind: str,
    output: Path,
    magnification: float | None,
    image_format: str,
    threads: int | None,
    overwrite: bool,
) -> None:
    """Write tile stores, or folders of them, for CLAM, for TRIDENT, or as images.

    CLAM and TRIDENT use whole pixels: corners of patches are rounded to whole level-0 px, and
    CLAM's patch size to whole px of the level it reads. The line of each slide reports the result.
    """
    from wsikd.core.errors import OutputError
    from wsikd.slides.mpp import mpp_of_magnification
    from wsikd.slides.threads import use_threads
    from wsikd.slides.what_is import STORES, check_role
    from wsikd.tiles.exports import Options, find_export
    from wsikd.tiles.store import TileStore

    for store in stores:
        check_role(store, "wsikd export", STORES)
    chosen = find_export(kind)
    mpp = None if magnification is None else mpp_of_magnification(magnification)
    options = Options(mpp, image_format, use_threads(threads), overwrite)
    entries = _find_stores(stores)
    output.mkdir(parents=True, exist_ok=True)
    seen: dict[str, Path] = {}

    def work(entry: SlideEntry) -> str:
        store = TileStore.open(entry.path)
        if store.slide in seen:
            fault = f"is of slide '{store.slide}', and so is {seen[store.slide]}"
            raise OutputError(entry.path, fault, "export it with another -o")
        line = chosen.write(store, output, options)
        seen[store.slide] = entry.path
        return line

    batch = Batch(output)
    batch.run(entries, work)
    if seen:
        chosen.finish(output)
    batch.finish(f"{len(seen)} exported")


def _find_stores(paths: Sequence[Path]) -> list[SlideEntry]:
    """The stores named, and those in the folders named; raises NoSlidesError if there is none."""
    from wsikd.core.errors import NoSlidesError
    from wsikd.slides.listing.manifest import SlideEntry
    from wsikd.tiles.store import is_group

    found: dict[Path, None] = {}
    for path in paths:
        inside = [] if is_group(path) or not path.is_dir() else sorted(path.glob("*.zarr"))
        if path.is_dir() and not is_group(path) and not inside and path.suffix != ".zarr":
            raise NoSlidesError(path, "holds no tile stores", "make them with wsikd tile")
        found.update(dict.fromkeys(inside or [path]))
    return [SlideEntry(path, path.stem) for path in found]
