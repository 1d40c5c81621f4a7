"""A trained region encoder on disk: ``model.safetensors`` and a ``card.json`` of kind "region"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wsikd.core.errors import MALFORMED, BundleError
from wsikd.models.files.card import CARD, REMEDY, RegionCard, reason
from wsikd.models.files.folder import check_shapes, read_network, write_network
from wsikd.models.slide_level.region_vit import RegionEncoder, RegionShape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import nn

_ENCODER = ("id", "sha256", "input_px", "mean", "std")


class LoadedRegionEncoder(RegionEncoder):
    """A region encoder with its card.

    Attributes:
        path: its folder.
        card: its card.
        encoder: the encoder of its training tiles: id, licence, transform, digest.
        mpp: um per pixel of these tiles; None if the grids did not state it.
        grid: number of tiles along a side of a region.
    """

    path: Path
    card: RegionCard
    encoder: Mapping[str, Any]
    mpp: float | None
    grid: int

    @property
    def sha256(self) -> str:
        """Digest of the weights file."""
        return self.card.sha256

    def check(
        self, encoder: Mapping[str, Any], shape: Sequence[int], mpp: float | None, *, what: object
    ) -> None:
        """Refuse regions that differ from those of the training.

        Args:
            encoder: the encoder of their tiles, as recorded in grids and bags.
            shape: shape of a region, (D, g, g).
            mpp: um per pixel of their tiles; None if unknown, which passes.
            what: name of the regions in messages.

        Raises:
            BundleError: encoder, transform, width, grid or resolution differs.
        """
        own = (self.shape.dim, self.grid, self.grid)
        if tuple(shape) != own:
            raise _refused(
                what, f"are {_shape_text(shape)} a region, {self.path} takes {_shape_text(own)}"
            )
        for key in _ENCODER:
            theirs, ours = encoder.get(key), self.encoder.get(key)
            if theirs != ours and key in encoder and key in self.encoder:
                raise _refused(
                    what, f"were embedded with {key} {_short(theirs)}, {self.path} was trained on "
                    f"{_short(ours)}",
                )  # fmt: skip
        if mpp is not None and self.mpp is not None and abs(mpp - self.mpp) > 0.02 * self.mpp:
            raise _refused(what, f"are at {mpp:g} um/px, {self.path} was trained at {self.mpp:g}")


def save_region_encoder(
    folder: Path, network: RegionEncoder, *, encoder: Mapping[str, Any], mpp: float | None,
    grid: int, **card: Any,
) -> Path:  # fmt: skip
    """Write a region encoder, without a last layer; the card comes last.

    Args:
        folder: the output folder.
        network: the encoder, or a student or teacher of the training.
        encoder: the record of the encoder of the tiles.
        mpp: um per pixel of the tiles, if known.
        grid: number of tiles along a side of a region.
        card: further entries, JSON values.

    Raises:
        OutputError: the folder cannot be written.
        ValueError: an entry of the card has the wrong type or is out of range.
    """
    state = {k: v for k, v in network.state_dict().items() if not k.startswith("last.")}
    about = {
        "network": network.shape.record(), "encoder": dict(encoder), "mpp": mpp, "grid": grid,
        **card,
    }  # fmt: skip
    return write_network(folder, state, RegionCard, about)


def load_region_encoder(path: Path) -> LoadedRegionEncoder:
    """Read a region encoder from its folder or its run folder, in eval mode, on the CPU.

    Raises:
        BundleError: there is none, or it is damaged.
    """
    folder, card, weights = read_network(path, RegionCard)
    try:
        shape = RegionShape(**card.network.record())
        check_shapes(lambda: LoadedRegionEncoder(shape), weights)
        found = LoadedRegionEncoder(shape)
        found.load_state_dict(weights)
        found.path, found.card, found.encoder = folder, card, dict(card.encoder)
        found.mpp = None if card.mpp is None else float(card.mpp)
        found.grid = int(card.grid)
    except (*MALFORMED, RuntimeError, MemoryError) as error:
        fault = f"does not match its weights ({reason(error):.200})"
        raise BundleError(folder / CARD, fault, REMEDY) from error
    frozen: nn.Module = found.requires_grad_(requires_grad=False).eval()
    assert frozen is found
    return found


def _refused(what: object, fault: str) -> BundleError:
    return BundleError(str(what), fault, "give regions that were embedded alike, or train again")


def _shape_text(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _short(value: object) -> str:
    return f"'{value[:16]}'" if isinstance(value, str) and len(value) > 40 else repr(value)
