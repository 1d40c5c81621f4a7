"""A trained bag network on disk: ``model.safetensors`` and a ``card.json`` of kind "mil"."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wsikd.core.errors import BundleError
from wsikd.models.bundle import CARD
from wsikd.models.card import class_names, number, whole
from wsikd.models.folder import read_network, write_network
from wsikd.models.mil import BagNetwork, build_mil

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
        "classes": list(classes), "encoder": dict(encoder), **card,
    }  # fmt: skip
    return write_network(folder, network.state_dict(), KIND, about)


def load_bag_network(path: Path) -> BagBundle:
    """Read a bag network from its folder or its run folder. Raises BundleError."""
    folder, card, weights = read_network(path, KIND)
    try:
        classes = class_names(card["classes"])
        dim = whole(card["network"]["dim"], "dim", least=1)
        threshold = card.get("threshold")
        found = BagBundle(
            folder, card, classes, dim, dict(card["encoder"]),
            None if threshold is None else number(threshold, "threshold", least=0.0), weights,
        )  # fmt: skip
        _fitted(card, classes, dim, weights)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        fault = f"does not go with its weights ({str(error)[:200] or type(error).__name__})"
        remedy = "copy the whole folder again, or train it again"
        raise BundleError(folder / CARD, fault, remedy) from error
    return found


def _fitted(
    card: Mapping[str, Any], classes: tuple[str, ...], dim: int, weights: Mapping[str, Tensor]
) -> BagNetwork:
    about = card["network"]
    network = build_mil(str(about["arch"]), dim, len(classes), **dict(about["options"]))
    network.load_state_dict(dict(weights))
    return network.eval()
