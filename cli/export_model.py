"""``wsikd export-model``: a student for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    from numpy.typing import NDArray

    from wsikd.models.files.bundle import InputSpec
    from wsikd.slides.listing.manifest import SlideEntry

_FIELDS = 32
BUNDLE = "bundle"


@click.command(
    "export-model", short_help="Export a student as ONNX, as TorchScript or for WSInfer."
)
@click.argument("student", type=click.Path(path_type=Path))
@click.option(
    "--to",
    "kind",
    required=True,
    metavar="KIND",
    help="onnx; torchscript; wsinfer: TorchScript and config.json, for WSInfer and QuPath; "
    "bundle: a copy with its graph, for wsikd infer without PyTorch.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    metavar="DIR",
    help="Folder for the files.",
)
@click.option(
    "-i",
    "--input",
    "inputs",
    multiple=True,
    metavar="SLIDES",
    help="Slides whose fields are checked as well as random patches. As for wsikd infer.",
)
@click.option(
    "--slide-mpp",
    type=click.FloatRange(0, min_open=True),
    metavar="UM",
    help="um per level-0 pixel, for slides without a resolution in manifest or file.",
)
@click.option("--overwrite", is_flag=True, help="Replace an earlier export in DIR.")
def export_model(
    student: Path,
    kind: str,
    output: Path,
    inputs: tuple[str, ...],
    slide_mpp: float | None,
    overwrite: bool,
) -> None:
    """Export STUDENT, a run folder or bundle, to other programs or to computers without PyTorch.

    The export is loaded in its own runtime and must give the student's logits, within 1e-4 of the
    greatest one; otherwise it is removed. export.json describes its use and the agreement.
    """
    from wsikd.core.errors import ConfigError
    from wsikd.models.files.bundle import load_bundle
    from wsikd.models.files.peek import peek_grader
    from wsikd.models.tables import FILES
    from wsikd.slides.listing.inputs import check_slides
    from wsikd.slides.listing.manifest import find_slides
    from wsikd.slides.threads import use_threads

    peek_grader(student, "STUDENT")
    if kind == BUNDLE:
        if inputs:
            raise ConfigError("-i", "is not for --to bundle", "leave it out")
        _carry(student, output, overwrite=overwrite)
        return
    if kind not in FILES:
        known = ", ".join((*FILES, BUNDLE))
        raise ConfigError(f"--to {kind}", "is not known", f"choose one of {known}")
    check_slides(inputs)
    entries = find_slides(inputs, slide_mpp=slide_mpp) if inputs else []

    from wsikd.models.files.export import export_model as write

    use_threads(1)
    bundle = load_bundle(student)
    patches = _fields(entries, bundle.spec) if entries else None
    record = write(bundle, kind, output, patches=patches, overwrite=overwrite)
    spec, found = bundle.spec, record["parity"]
    click.echo(
        f"{output}: {kind}, {len(spec.classes)} classes, {spec.patch_px} px at {spec.mpp:g} um/px; "
        f"greatest difference of a logit {found['max_difference']:.2g} "
        f"(allowed {found['limit']:.2g}) over {found['random_patches']} random patches and "
        f"{found['slide_patches']} of slides"
    )


def _carry(student: Path, output: Path, *, overwrite: bool) -> None:
    from wsikd.grade.engines.carry import LIMIT, carry
    from wsikd.models.files.bundle import load_bundle

    found = carry(load_bundle(student), output, overwrite=overwrite)
    click.echo(
        f"{output}: a network with its graph; greatest difference of a logit {found:.2g} "
        f"(allowed {LIMIT:g}) over random patches"
    )


def _fields(entries: Iterable[SlideEntry], spec: InputSpec) -> NDArray[np.uint8]:
    """Fields of tissue, evenly over each slide, ``_FIELDS`` at most: (N, patch_px, patch_px, 3)."""
    import numpy as np

    from wsikd.core.errors import NoSlidesError
    from wsikd.slides.listing.manifest import open_entry
    from wsikd.slides.scaled_view import Canvas
    from wsikd.slides.tissue.find import find_tissue
    from wsikd.tiles.grid import TileGrid

    read, side = [], spec.patch_px
    for entry in entries:
        with open_entry(entry) as slide:
            canvas = Canvas.plan(slide, spec.mpp)
            rows, columns = np.nonzero(
                TileGrid.plan(slide, spec.mpp, side).cover(find_tissue(slide)) >= 0.1
            )
            chosen = np.linspace(0, len(rows) - 1, min(len(rows), _FIELDS)).round().astype(int)
            read += [
                canvas.read(int(columns[i]) * side, int(rows[i]) * side, side, side) for i in chosen
            ]
    if not read:
        raise NoSlidesError("-i", "no tissue on these slides", "give others, or leave -i out")
    kept = np.linspace(0, len(read) - 1, min(len(read), _FIELDS)).round().astype(int)
    return np.stack([read[i] for i in kept])
