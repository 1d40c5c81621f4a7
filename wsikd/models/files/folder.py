"""Networks that are no graders, on disk: ``model.safetensors`` and a ``card.json`` of their kind.

Nothing in such a folder is ever executed. The card is written last: without it the folder is
unfinished.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from wsikd import RESEARCH_USE, __version__
from wsikd.core.errors import BundleError
from wsikd.core.output.markers import BUNDLE
from wsikd.core.output.place import Place
from wsikd.core.reading import read_json
from wsikd.core.run import write_json_atomic
from wsikd.models.device import without_memory
from wsikd.models.files.bundle import CARD, FORMAT, WEIGHTS
from wsikd.models.files.card import check_finite
from wsikd.models.files.weights import write_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import Tensor, nn

_AGAIN = "copy the whole folder anew, or train it again"


def write_network(
    folder: Path,
    state: Mapping[str, Tensor],
    kind: str,
    card: Mapping[str, Any],
    more: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> Path:
    """Write weights and their card, which comes last.

    Args:
        folder: made if missing. An older network stays there until the new one is whole.
        state: weights by name.
        kind: what the network is.
        card: JSON values.
        more: further files of weights, by name.

    Raises:
        OutputError: the folder cannot be written, or holds something else than a network.
    """
    content = {
        "format": FORMAT, "kind": kind, "wsikd": __version__, "use": RESEARCH_USE, **card,
    }  # fmt: skip
    with Place(folder, BUNDLE, folder, whole=True).made() as part:
        for name, weights in {WEIGHTS: state, **(more or {})}.items():
            # cloned, since some networks of other libraries share weights between layers
            own = {k: v.detach().cpu().clone().contiguous() for k, v in weights.items()}
            write_weights(part / name, own)
        write_json_atomic(part / CARD, content | {"sha256": _sha256(part / WEIGHTS)})
    return folder


def kind_of(path: Path) -> str | None:
    """What a folder, or the ``student/`` of a run folder, says it holds; None where it does not."""
    try:
        kind = read_json(_place(path) / CARD).get("kind")
    except (OSError, ValueError, AttributeError):
        return None
    return None if kind is None else str(kind)


def read_network(path: Path, kind: str) -> tuple[Path, dict[str, Any], dict[str, Tensor]]:
    """Read a folder of ``write_network``, or the one in a run folder.

    Returns:
        Where it is, the card, and the weights, which are the card's; floating point as float32.

    Raises:
        BundleError: there is none, it is of another kind, unfinished or damaged.
    """
    folder = _place(path)
    file = folder / CARD
    if not file.is_file():
        raise BundleError(
            path, f"holds no {CARD}", f"give a finished run of wsikd distill ({kind})"
        )
    try:
        card = read_json(file)
    except (OSError, ValueError) as error:
        raise BundleError(file, "is no JSON", _AGAIN) from error
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise BundleError(file, "is not a card that this wsikd knows", _AGAIN)
    if card.get("kind") != kind:
        have = card.get("kind", "student")
        raise BundleError(
            file, f"describes a network of kind '{have}', not '{kind}'", "give another"
        )
    weights_file = folder / WEIGHTS
    try:
        weights = load_file(weights_file)
        digest = _sha256(weights_file)
    except (SafetensorError, OSError, ValueError) as error:
        raise BundleError(weights_file, "is no safetensors file", _AGAIN) from error
    if digest != card.get("sha256"):
        raise BundleError(weights_file, f"is not the file that {CARD} describes", _AGAIN)
    check_finite(file, card)
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise BundleError(weights_file, f"'{name}' holds NaN or infinity", "train it again")
    return folder, card, {k: v.float() if v.is_floating_point() else v for k, v in weights.items()}


def check_shapes(make: Callable[[], nn.Module], weights: Mapping[str, Tensor]) -> None:
    """Hold weights against the network that a card describes, before memory is taken for it.

    Raises:
        ValueError: they are of another network.
    """
    try:
        with without_memory():
            expected = {name: tensor.shape for name, tensor in make().state_dict().items()}
    except NotImplementedError:  # some compute with weights while they are made
        return
    if expected != {name: tensor.shape for name, tensor in weights.items()}:
        raise ValueError("the weights are of another network")


def _place(path: Path) -> Path:
    return path if (path / CARD).is_file() else path / "student"


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
