"""Coordinates of patches in HDF5, as CLAM and TRIDENT keep them.

Both read a dataset ``coords``, whole level-0 (x, y) of the patches' corners, from
``DIR/patches``, and cut the pixels out of the slide themselves. Their numbers are whole:

- corners are rounded to the nearest level-0 pixel, at most half a pixel off;
- CLAM counts a patch in pixels of one pyramid level: ``patch_size`` is the field there, rounded. At
  0.499 um/px a field of 512 um is 1,026.05 level-0 px and becomes 1,026;
- TRIDENT counts it in pixels at the target magnification, which is exact, and reaches the field
  through the ratio of two magnifications. They are written as 10 / (um/px), not as the objective's
  nominal power, so that the field is right to half a level-0 pixel.

``coords`` also carries the exact field as ``wsikd_field_px``, level-0 (width, height), which
neither tool reads.

Sources: CLAM's ``Whole_Slide_Bag_FP`` and ``extract_features_fp.py``; TRIDENT's ``read_coords``,
``coords_to_h5`` and ``WSIPatcher`` (both github.com/mahmoodlab).
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from wsikd.core.errors import OutputError
from wsikd.core.output.cells import csv_text
from wsikd.core.output.files import aside, check_file
from wsikd.core.output.markers import FileKind, csv_header
from wsikd.tiles.exports import Export, field_px, refuse, resolution, slide_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from wsikd.tiles.exports import Options
    from wsikd.tiles.store import TileStore

log = logging.getLogger(__name__)

PROCESS_LIST = "process_list_autogen.csv"
_NEAR = 1.01  # a level 1 % coarser than asked is taken for the level asked


def clam_attributes(store: TileStore, mpp: float) -> dict[str, Any]:
    """The attributes of CLAM's ``coords``: how to read a patch of a store at ``mpp``.

    The level is the coarsest that is no coarser than ``mpp``; ``patch_size`` is in its pixels.
    """
    slide = store.provenance["slide"]
    own = slide["mpp"]
    wanted = mpp / own[0]
    downsamples: Sequence[Sequence[float]] = slide["level_downsamples"]
    fitting = [i for i, (x, _) in enumerate(downsamples) if x <= wanted * _NEAR]
    level = max(fitting, key=lambda i: downsamples[i][0], default=0)
    down = downsamples[level]
    exact = _field_on_level(store, down)
    _warn_of_oblong(store, exact)
    level_dim = [round(side / d) for side, d in zip(slide["dimensions"], down, strict=True)]
    return {
        "patch_size": round(sum(exact) / 2),
        "patch_level": level,
        "downsample": list(down),
        "downsampled_level_dim": level_dim,
        "level_dim": level_dim,
        "name": store.slide,
        "wsikd_file": slide["file"],
    }


def trident_attributes(store: TileStore, mpp: float) -> dict[str, Any]:
    """The attributes of TRIDENT's ``coords``: patch and overlap in px at the target magnification.

    Magnifications are 10 / (um/px), whole where that is whole.
    """
    slide = store.provenance["slide"]
    ratio = store.mpps[0] / mpp
    patch = store.patch_px(mpp)
    field = field_px(store)
    _warn_of_oblong(store, field)
    width, height = slide["dimensions"]
    return {
        "patch_size": patch,
        "patch_size_level0": round(sum(field) / 2),
        "level0_magnification": _magnification(sum(slide["mpp"]) / 2),
        "target_magnification": _magnification(mpp),
        "overlap": max(0, patch - round(store.settings["stride_px"] * ratio)),
        "name": store.slide,
        "savetodir": "",
        "level0_width": width,
        "level0_height": height,
    }


def whole_coords(store: TileStore) -> NDArray[np.int64]:
    """Corners of the patches in whole level-0 px, on the slide: int64 (N, 2), (x, y)."""
    last = np.asarray(store.provenance["slide"]["dimensions"]) - 1
    return np.clip(np.rint(store.patches.xy), 0, last).astype(np.int64).reshape(-1, 2)


def write_clam(store: TileStore, folder: Path, options: Options) -> str:
    """Write ``folder/patches/<slide>.h5`` for CLAM; raises OutputError, StoreError."""
    attributes = clam_attributes(store, resolution(store, options))
    file = folder / "patches" / f"{slide_name(store)}.h5"
    _write(file, store, attributes, overwrite=options.overwrite)
    exact = sum(_field_on_level(store, attributes["downsample"])) / 2
    return (
        f"{len(store.patches)} patches of {attributes['patch_size']} px "
        f"(exactly {exact:.2f}) on level {attributes['patch_level']}, in {file}"
    )


def list_clam(folder: Path) -> None:
    """Write the list of slides that CLAM's ``extract_features_fp.py --csv_path`` takes.

    It names every slide with a file in ``folder/patches``; raises OutputError.
    """
    names = [_slide_file(file) for file in sorted((folder / "patches").glob("*.h5"))]
    with (
        aside(folder / PROCESS_LIST, _LIST) as part,
        part.open("w", newline="", encoding="utf-8") as stream,
    ):
        stream.write(csv_text(["slide_id"], ([name] for name in names), line_end="\r\n"))


def write_trident(store: TileStore, folder: Path, options: Options) -> str:
    """Write ``folder/patches/<slide>_patches.h5`` for TRIDENT; raises OutputError, StoreError."""
    attributes = trident_attributes(store, resolution(store, options))
    file = folder / "patches" / f"{slide_name(store)}_patches.h5"
    _write(file, store, attributes, overwrite=options.overwrite)
    return (
        f"{len(store.patches)} patches of {attributes['patch_size']} px "
        f"at {attributes['target_magnification']:g}x, in {file}"
    )


def _is_our_h5(file: Path) -> bool:
    try:
        with h5py.File(file, "r") as h5:
            return "wsikd_field_px" in h5["coords"].attrs
    except (OSError, KeyError, ValueError, AttributeError):
        return False


_COORDS = FileKind("a file of coordinates", _is_our_h5)
_LIST = FileKind("a list of slides", lambda file: csv_header(file) == ["slide_id"])


def _nothing_more(folder: Path) -> None:
    """TRIDENT finds its files by their names."""


CLAM = Export(write_clam, list_clam)
TRIDENT = Export(write_trident, _nothing_more)


def _write(file: Path, store: TileStore, attributes: Mapping[str, Any], *, overwrite: bool) -> None:
    check_file(file, _COORDS)
    if file.exists() and not overwrite:
        raise refuse(file)
    with aside(file) as part, h5py.File(part, "w") as h5:
        coords = h5.create_dataset("coords", data=whole_coords(store))
        for key, value in {**attributes, "wsikd_field_px": list(field_px(store))}.items():
            coords.attrs[key] = value


def _field_on_level(store: TileStore, downsample: Sequence[float]) -> list[float]:
    return [side / d for side, d in zip(field_px(store), downsample, strict=True)]


def _slide_file(file: Path) -> str:
    """The slide's name as CLAM wants it: the stem of the h5 file, with the slide's own suffix."""
    try:
        with h5py.File(file, "r") as h5:
            suffix = Path(str(h5["coords"].attrs.get("wsikd_file", ""))).suffix
    except (OSError, KeyError) as error:
        fault = f"is not an h5 file of coordinates ({error})"
        raise OutputError(file, fault, "remove it, or choose another -o") from error
    return file.stem + suffix


def _magnification(mpp: float) -> float | int:
    power = 10 / mpp
    return round(power) if abs(power - round(power)) < 1e-6 else power


def _warn_of_oblong(store: TileStore, field: Sequence[float]) -> None:
    if abs(field[0] - field[1]) > 1:
        log.warning(
            "%s: its pixels are not square: a field is %.1f x %.1f px, and is given as a square",
            store.slide,
            *field,
        )
