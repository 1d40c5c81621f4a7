"""``wsikd attend``: where on its slides a slide classifier looks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .common import Batch, input_option, slide_options

if TYPE_CHECKING:
    from wsikd.bags.bag import Bag
    from wsikd.grade.grademap import GradeMap
    from wsikd.slides.base import Slide
    from wsikd.slides.listing.manifest import SlideEntry


@click.command(short_help="Draw where a slide classifier looks (method: mil).")
@click.argument("run", type=click.Path(path_type=Path))
@input_option
@click.option(
    "--bags",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    metavar="BAGS",
    help="Bags of wsikd embed of these slides. May be given again.",
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
    help="What to write of each slide, as for wsikd infer. May be given again.",
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
    slide's highest, of which heat.png makes a heat map. It tells what decided the slide's class,
    not what a field is.
    """
    from wsikd.bags.bag import find_bags, open_bag
    from wsikd.bags.made import bags_made
    from wsikd.core.errors import DataError
    from wsikd.core.output.lock import locked
    from wsikd.core.output.markers import ATTENTION, ATTENTION_FILE
    from wsikd.core.output.place import Place
    from wsikd.core.run import write_json_atomic
    from wsikd.grade.exports import formats_for, write_all
    from wsikd.grade.runs.folder import formats_of
    from wsikd.models.files.peek import check_network
    from wsikd.slides.listing.inputs import check_slides, existing
    from wsikd.slides.listing.manifest import find_slides, open_entry
    from wsikd.slides.listing.once import settle_names
    from wsikd.slides.what_is import BAGS, CLASSIFIER, check_role

    check_network(run, "RUN", CLASSIFIER)
    for place in bags:
        check_role(place, "--bags", BAGS)
    asked = formats_of(formats)
    found = {path.stem: path for path in find_bags(bags)}
    check_slides(inputs)
    batch = Batch(output)
    entries = find_slides(
        inputs, slide_mpp=slide_mpp, reader=reader, series=series, accept_grey=accept_grey
    )
    entries = existing(entries, batch)
    if not entries:
        batch.finish("0 drawn")
    for folder in dict.fromkeys(path.parent for path in found.values()):
        entries = settle_names(entries, bags_made(folder))

    import torch

    from wsikd.learn.mil.evaluate import BagReader
    from wsikd.models.files.bag_bundle import load_bag_network

    bundle = load_bag_network(run)
    reads = BagReader(bundle)
    if threads is not None:
        torch.set_num_threads(threads)

    def work(entry: SlideEntry) -> str:
        path = found.get(entry.name)
        if path is None:
            raise DataError(entry.name, "has no bag", "make it with wsikd embed")
        bag = open_bag(path)
        if bag.dim != bundle.dim:
            fault = f"has embeddings of {bag.dim} numbers, the network takes {bundle.dim}"
            raise DataError(bag.path, fault, "give bags of the encoder that it was trained on")
        if not len(bag):
            raise DataError(bag.path, "is empty: its slide has no tissue", "leave it out")
        probability, attention = reads(torch.from_numpy(bag.features()))
        with open_entry(entry) as slide:
            made = attention_map(slide, bag, attention)
            read = [bag.path, run, *(f for f in (entry.path, entry.mask) if f)]
            place = Place(output / entry.name, ATTENTION, output, read)
            place.check()
            with locked(place.path):
                place.recover()
                with place.made() as part:
                    write_json_atomic(part / ATTENTION_FILE, {"kind": ATTENTION.name})
                    write_all(made, part, formats_for(asked, slide), slide=slide)
        best = int(probability.argmax())
        return f"{bundle.classes[best]} {probability[best]:.0%}, in {output / entry.name}"

    lost = len(batch.failures)
    batch.run(entries, work)
    batch.finish(f"{len(entries) - len(batch.failures) + lost} drawn")


def attention_map(slide: Slide, bag: Bag, attention: Any) -> GradeMap:
    """The attention of a bag's patches on their slide's grid.

    Args:
        slide: the open slide.
        bag: whose patches lie on a regular grid from the slide's bounds on.
        attention: float32 (N,).

    Raises:
        DataError: the bag does not tell the size of its patches, or they lie on no such grid.
    """
    import numpy as np

    from wsikd.core.errors import DataError
    from wsikd.grade.grademap import GradeMap

    info = bag.info
    if info.field_px is None or info.mpp is None or info.patch_px is None:
        raise DataError(bag.path, "does not tell the size of its patches", "use wsikd embed")
    stride = (info.encoder.get("patches") or {}).get("stride_px") or info.patch_px
    cell = np.asarray(info.field_px) * stride / info.patch_px
    origin = np.asarray(slide.info.bounds[:2], np.float64)
    place = (bag.coords() - origin) / cell
    whole = np.rint(place).astype(int)
    if (whole < 0).any() or np.abs((place - whole) * cell).max() > 1:
        raise DataError(bag.path, "its patches lie on no grid of this slide", "embed this slide")
    columns, rows = whole.T
    shape = (int(rows.max()) + 1, int(columns.max()) + 1)
    valid = np.zeros(shape, bool)
    valid[rows, columns] = True
    share = np.full(shape, np.nan, np.float32)
    share[rows, columns] = attention / max(float(attention.max()), 1e-12)
    return GradeMap(
        probability_khw=np.stack([1 - share, share]),
        valid_hw=valid,
        tissue_hw=valid.astype(np.float32),
        mpp=info.mpp * stride,
        origin_xy=(float(origin[0]), float(origin[1])),
        cell_px=(float(cell[0]), float(cell[1])),
        classes=("rest", "attention"),
        slide=slide.info,
    )
