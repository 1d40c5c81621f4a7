"""The record of a bag as a pydantic model, with its JSON schema."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from wsikd.tiles.arrays import Name, Number, Pair  # noqa: TC001 (pydantic reads them)

if TYPE_CHECKING:
    from collections.abc import Mapping


class _BagPart(BaseModel):
    """A part of a bag's record. Entries that this wsikd does not know are kept."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)


class BagEncoder(_BagPart):
    """The encoder of the embeddings of a bag. All entries may be missing.

    Attributes:
        id: name of the network and its weights.
        licence: terms of the weights.
        dim: length of an embedding.
        sha256: digest of the weights.
        input_px: patches were resized to this side; null: they were not resized.
        mean: mean of each channel in the transform, for values of 0 to 1.
        std: standard deviation of each channel in the transform, for values of 0 to 1.
        mpp: um per pixel for which the encoder was made.
        patch_px: side of a patch in px for which it was made.
        patches: settings of ``wsikd embed``.
        tiles: the encoder of the tiles of a region encoder.
    """

    id: str | None = None
    licence: str | None = None
    dim: int | None = None
    sha256: str | None = None
    input_px: int | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    mpp: float | None = None
    patch_px: int | None = None
    patches: dict[str, Any] | None = None
    tiles: dict[str, Any] | None = None


class BagMeta(_BagPart):
    """The attribute ``wsikd_bag`` of a bag or region grid: ``attributes`` in ``zarr.json``.

    Attributes:
        format: version of the record.
        slide: name of the slide.
        encoder: encoder of the embeddings; empty if unknown.
        mpp: um per pixel of the patches.
        patch_px: side of a patch, or of a region, in px at that resolution.
        field_px: level-0 width and height of a patch or region.
        patient: keyed hash of the patient.
        split: "train", "val" or "test", if the manifest has it.
        label: class of the slide, if the manifest has it.
        source: identity of the store or slide of the patches.
        seconds: time of reading and computing, by stage.
        complete: true once the bag is complete. It is written last.
    """

    format: int = 1
    slide: Name
    encoder: BagEncoder | None = None
    mpp: Number | None = None
    patch_px: Number | None = None
    field_px: Pair | None = None
    patient: str | None = None
    split: str | None = None
    label: str | None = None
    source: str | None = None
    seconds: dict[str, float] | None = None
    complete: bool

    @classmethod
    def of(cls, about: Mapping[str, Any]) -> Self:
        """The record of a bag. Raises ValueError, of one line, where it cannot be used."""
        try:
            return cls.model_validate(about)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"])) or "record"
            raise ValueError(f"{place}: {first['msg']}") from None
