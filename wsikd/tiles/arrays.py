"""Arrays and records of a Zarr group that somebody may have damaged."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Self

import numpy as np
import zarr
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from wsikd.core.errors import UNREADABLE, StoreError, WsikdError
from wsikd.tiles.completeness import REMEDY

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from wsikd.tiles.patch_table import PatchTable

MOST_COLUMN_BYTES = 1 << 27
"""Greatest size of a column of a table of patches: eight million rows."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what libraries raise at a damaged store into StoreError."""
    try:
        yield
    except WsikdError:
        raise
    except UNREADABLE as error:
        raise StoreError(path, f"damaged ({type(error).__name__}: {error})", REMEDY) from error


def member(group: zarr.Group, name: str) -> zarr.Array[Any]:
    """An array of a group. Raises KeyError where there is none."""
    found = group[name]
    if not isinstance(found, zarr.Array):
        raise KeyError(name)
    return found


def read_column(array: zarr.Array[Any], dtype: type, *, width: int | None = None) -> NDArray[Any]:
    """A column of numbers: (N,), or (N, width).

    Raises:
        ValueError: it has another shape, claims a size that no table has, or holds NaN or infinity.
    """
    name = array.basename
    size = math.prod(array.shape) * array.dtype.itemsize
    if array.ndim != (1 if width is None else 2) or (width and array.shape[1] != width):
        raise ValueError(f"column '{name}' has shape {array.shape}")
    if size > MOST_COLUMN_BYTES or array.dtype.kind not in "iuf":
        raise ValueError(f"column '{name}' claims {array.shape} values of {array.dtype}")
    found = np.asarray(array[...])
    if not np.isfinite(found).all():
        raise ValueError(f"column '{name}' holds NaN or infinity")
    with np.errstate(all="ignore"):
        return np.asarray(found, dtype)


def check_rgb(array: zarr.Array[Any]) -> None:
    """Raise ValueError unless an array is uint8 (3, height, width), in shards of whole chunks."""
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[0] != 3:
        raise ValueError(f"array '{array.basename}' is {array.dtype} {array.shape}, not RGB")
    if array.shards and any(s % c for s, c in zip(array.shards, array.chunks, strict=True)):
        raise ValueError(f"array '{array.basename}' has broken chunks")


def check_places(
    patches: PatchTable,
    classes: int,
    arrays: Sequence[zarr.Array[Any]],
    sizes: Sequence[tuple[int, int]],
) -> None:
    """Raise ValueError where a patch lies beyond the arrays, or has a class that is none.

    Args:
        patches: the table.
        classes: how many there are.
        arrays: uint8 (3, height, width), one a resolution.
        sizes: side and stride of a patch in px of each.
    """
    if not len(patches):
        return
    if patches.label.min() < -1 or patches.label.max() >= max(1, classes):
        raise ValueError("a label is of no class")
    if min(patches.row.min(), patches.column.min()) < 0:
        raise ValueError("a patch lies beyond the image")
    for array, (side, stride) in zip(arrays, sizes, strict=True):
        last = [int(place.max()) * stride for place in (patches.row, patches.column)]
        if side < 1 or last[0] >= array.shape[1] or last[1] >= array.shape[2]:
            raise ValueError("a patch lies beyond the image")


Name = Annotated[str, Field(min_length=1)]
Number = Annotated[float, Field(gt=1e-6, lt=2**40)]
Pair = Annotated[list[Number], Field(min_length=2, max_length=2)]


class _StorePart(BaseModel):
    """A part of a store's record. Entries that this wsikd does not know are kept."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)


class StoreMadeWith(_StorePart):
    """Settings that decide the content of a store: those of ``wsikd tile``.

    Attributes:
        mpps: um per pixel of each resolution, finest first.
        patch_px: side of a patch in px at the finest resolution.
        stride_px: distance of patches in px at the finest resolution.
        tissue: how tissue was found.
        min_tissue: smallest share of tissue in a field.
        classes: names of the labels, in order.
        min_cover: share of a field that a class must cover to label it.
        min_purity: share of a field's annotated area that its class must have.
        label_map: pairs of a name in the annotation and its class.
        min_tissue_um2: pieces of tissue below this area in um2 were dropped.
        max_hole_um2: holes in tissue below this area in um2 were filled.
        route: "area", the average of the finest resolution, or "pyramid", the scanner's levels.
        codec: compression of the pixels.
        ome_version: version of OME-Zarr.
        tiler: version of the tiler; it increases when the same settings give other pixels.
    """

    mpps: Annotated[list[Number], Field(min_length=1)]
    patch_px: Number
    stride_px: Number
    tissue: str | None = None
    min_tissue: float | None = None
    classes: list[Name]
    min_cover: float | None = None
    min_purity: float | None = None
    label_map: list[list[str]] | None = None
    min_tissue_um2: float | None = None
    max_hole_um2: float | None = None
    route: str | None = None
    codec: str | None = None
    ome_version: str | None = None
    tiler: int | None = None

    @model_validator(mode="after")
    def _sizes(self) -> Self:
        largest = max(self.mpps) / min(self.mpps) * max(self.patch_px, self.stride_px)
        if largest > 2**20:
            raise ValueError("mpps are out of range")
        return self


class StoredSlide(_StorePart):
    """What a store keeps of its slide. The slide's own metadata are not copied.

    Attributes:
        name: name of the slide in results.
        file: name of the file, without its folder.
        vendor: vendor of the scanner, as the reader names it.
        reader: reader of the pixels.
        reader_note: why this reader was used.
        dimensions: level-0 width and height in px.
        level_downsamples: size of each level's pixel in level-0 px, x and y.
        mpp: um per level-0 pixel, x and y.
        mpp_source: where the resolution was found.
        objective_power: magnification of the scanner's objective.
        bounds: scanned box, level-0 x, y, width and height in px.
    """

    name: Name
    file: Name | None = None
    vendor: str | None = None
    reader: str | None = None
    reader_note: str | None = None
    dimensions: Pair | None = None
    level_downsamples: list[Pair] = []
    mpp: Pair | None = None
    mpp_source: str | None = None
    objective_power: float | None = None
    bounds: list[int] | None = None


class StoreMeta(_StorePart):
    """The attribute ``wsikd`` of a tile store: ``attributes`` in ``zarr.json``, or ``.zattrs``.

    Attributes:
        complete: false while the store is written. It is set to true last.
        digest: identity of the content, from settings and identity.
        settings: settings of ``wsikd tile``.
        identity: other inputs of the content: fingerprints of slide, annotation and mask.
        patient: keyed hash of the patient.
        split: "train", "val" or "test", if the manifest has it.
        label: class of the whole slide, if the manifest has it.
        slide: facts about the slide.
        software: versions of the programs.
        patches: number of fields.
        labelled: number of fields with a label.
        tissue_fraction: share of the scanned box covered by tissue.
        tissue_method: how tissue was found.
        source_levels: level of the slide that each resolution was read from.
        created: date and time in UTC.
    """

    complete: bool
    digest: Name
    settings: StoreMadeWith
    identity: dict[str, Any] = {}
    patient: Name | None
    split: Name | None
    label: str | None = None
    slide: StoredSlide
    software: dict[str, str] = {}
    patches: int | None = None
    labelled: int | None = None
    tissue_fraction: float | None = None
    tissue_method: str | None = None
    source_levels: list[int] | None = None
    created: str | None = None

    @classmethod
    def of(cls, meta: Mapping[str, Any]) -> Self:
        """The record of a store. Raises ValueError, of one line, where it cannot be used."""
        try:
            return cls.model_validate(meta)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"])) or "record"
            raise ValueError(f"{place}: {first['msg']}") from None
