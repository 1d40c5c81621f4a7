"""A trained bag network on disk: ``model.safetensors`` and a ``card.json`` of kind "mil"."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wsikd.core.errors import MALFORMED, BundleError, ConfigError
from wsikd.models.files.card import CARD, REMEDY, BagCard, reason
from wsikd.models.files.folder import check_shapes, read_network, write_network
from wsikd.models.names import card_entry, install_it
from wsikd.models.slide_level.mil import BagNetwork, build_mil

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor


@dataclass(frozen=True)
class BagBundle:
    """A bag network, read and checked.

    Attributes:
        path: its folder.
        card: its card.
    """

    path: Path
    card: BagCard
    weights: Mapping[str, Tensor] = field(repr=False)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names in the order of the logits."""
        return tuple(self.card.classes)

    @property
    def dim(self) -> int:
        """Width of its input embeddings."""
        return int(self.card.network.dim)

    @property
    def encoder(self) -> Mapping[str, Any]:
        """The record of the encoder of its training embeddings."""
        return self.card.encoder

    @property
    def threshold(self) -> float | None:
        """Least probability of the last class for a positive slide; None: none was chosen."""
        value = self.card.threshold
        return None if value is None else float(value)

    @property
    def arch(self) -> str:
        """Its entry in ``AGGREGATORS``."""
        return self.card.network.arch

    @property
    def sha256(self) -> str:
        """Digest of the weights file."""
        return self.card.sha256

    def network(self) -> BagNetwork:
        """The network in eval mode, on the CPU."""

        def make() -> BagNetwork:
            return build_mil(self.arch, self.dim, len(self.classes), **self.card.network.options)

        check_shapes(make, self.weights)
        network = make()
        network.load_state_dict(dict(self.weights))
        return network.eval()


def save_bag_network(
    folder: Path, network: BagNetwork, *, arch: str, options: Mapping[str, float], dim: int,
    classes: tuple[str, ...], encoder: Mapping[str, Any], **card: Any,
) -> Path:  # fmt: skip
    """Write a bag network; the card comes last. Raises OutputError, ValueError."""
    about = {
        "network": {"arch": arch, "options": dict(options), "dim": dim},
        "classes": list(classes), "encoder": dict(encoder), **card_entry(arch, "aggregators"),
        **card,
    }  # fmt: skip
    return write_network(folder, network.state_dict(), BagCard, about)


def load_bag_network(path: Path) -> BagBundle:
    """Read a bag network from its folder or its run folder. Raises BundleError."""
    found = BagBundle(*read_network(path, BagCard))
    try:
        found.network()
    except (*MALFORMED, RuntimeError, MemoryError, ConfigError) as error:
        fault = f"does not match its weights ({reason(error):.200})"
        remedy = install_it(found.card.package, REMEDY)
        raise BundleError(found.path / CARD, fault, remedy) from error
    return found
