"""A trained bag network on disk: ``model.safetensors`` and a ``card.json`` of kind "mil"."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wsikd.core.errors import MALFORMED, BundleError, ConfigError
from wsikd.models.files.bundle import CARD
from wsikd.models.files.card import class_names, number, optional, whole
from wsikd.models.files.folder import check_shapes, read_network, write_network
from wsikd.models.names import card_entry, install_it
from wsikd.models.slide_level.mil import BagNetwork, build_mil

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

KIND = "mil"


@dataclass(frozen=True)
class BagBundle:
    """A bag network, read and checked.

    Attributes:
        path: its folder.
        card: all that was written of it.
        classes: names in the order of the logits.
        dim: width of the embeddings it takes.
        encoder: what made the embeddings that it was trained on.
        threshold: on the last class's probability, from which a slide is positive; None where
            none was chosen.
    """

    path: Path
    card: Mapping[str, Any]
    classes: tuple[str, ...]
    dim: int
    encoder: Mapping[str, Any]
    threshold: float | None
    weights: Mapping[str, Tensor] = field(repr=False)

    @property
    def arch(self) -> str:
        """Its entry in ``AGGREGATORS``."""
        return str(self.card["network"]["arch"])

    @property
    def sha256(self) -> str:
        """Digest of the weights file."""
        return str(self.card["sha256"])

    def network(self) -> BagNetwork:
        """The network in eval mode, on the CPU."""
        return _fitted(self.card, self.classes, self.dim, self.weights)


def save_bag_network(
    folder: Path, network: BagNetwork, *, arch: str, options: Mapping[str, float], dim: int,
    classes: tuple[str, ...], encoder: Mapping[str, Any], **card: Any,
) -> Path:  # fmt: skip
    """Write a bag network; the card comes last. Raises OutputError."""
    about = {
        "network": {"arch": arch, "options": dict(options), "dim": dim},
        "classes": list(classes), "encoder": dict(encoder), **card_entry(arch, "aggregators"),
        **card,
    }  # fmt: skip
    return write_network(folder, network.state_dict(), KIND, about)


def load_bag_network(path: Path) -> BagBundle:
    """Read a bag network from its folder or its run folder. Raises BundleError."""
    folder, card, weights = read_network(path, KIND)
    try:
        classes, dim = class_names(card["classes"]), whole(card["network"]["dim"], "dim", least=1)
        found = BagBundle(
            folder, card, classes, dim, dict(card["encoder"]),
            optional(card, "threshold", least=0.0, most=1.0), weights,
        )  # fmt: skip
        optional(card, "temperature", least=1e-6)
        _fitted(card, classes, dim, weights)
    except (*MALFORMED, RuntimeError, MemoryError, ConfigError) as error:
        fault = f"does not go with its weights ({str(error)[:200] or type(error).__name__})"
        remedy = install_it(card, "copy the whole folder again, or train it again")
        raise BundleError(folder / CARD, fault, remedy) from error
    return found


def _fitted(
    card: Mapping[str, Any], classes: tuple[str, ...], dim: int, weights: Mapping[str, Tensor]
) -> BagNetwork:
    about = card["network"]
    options = dict(about["options"])
    for name, value in options.items():
        least = 0.0 if name == "dropout" else 1.0
        number(value, name, least=least, most=1 << 20)

    def make() -> BagNetwork:
        return build_mil(str(about["arch"]), dim, len(classes), **options)

    check_shapes(make, weights)
    network = make()
    network.load_state_dict(dict(weights))
    return network.eval()
