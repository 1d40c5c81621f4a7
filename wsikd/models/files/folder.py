"""Files of networks that are not graders: ``model.safetensors`` and a ``card.json``.

Nothing in such a folder is ever executed. The card is written last: without it the folder is
unfinished.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from wsikd.core.errors import BundleError
from wsikd.core.output.markers import BUNDLE
from wsikd.core.output.place import Place
from wsikd.core.reading import read_json
from wsikd.core.run import write_json_atomic
from wsikd.models.device import without_memory
from wsikd.models.files.bundle import WEIGHTS
from wsikd.models.files.card import CARD, REMEDY, Card, name_in, read_content, reason
from wsikd.models.files.weights import write_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import Tensor, nn

OneCard = TypeVar("OneCard", bound=Card)


def write_network(
    folder: Path,
    state: Mapping[str, Tensor],
    card: type[Card],
    entries: Mapping[str, Any],
    more: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> Path:
    """Write weights and their card, which comes last; the same weights keep their name.

    Args:
        folder: made if missing. An older network in it is replaced when the new one is complete.
        state: weights by name.
        card: the pydantic model of its card.
        entries: entries of the card, JSON values.
        more: name of each further file -> its weights.

    Raises:
        OutputError: the folder cannot be written, or holds something that is not a network.
        ValueError: an entry of the card has the wrong type or is out of range.
    """
    with Place(folder, BUNDLE, folder, whole=True).made() as part:
        for name, weights in {WEIGHTS: state, **(more or {})}.items():
            # Cloned: safetensors refuses weights that layers share.
            own = {k: v.detach().cpu().clone().contiguous() for k, v in weights.items()}
            write_weights(part / name, own)
        sha256 = _sha256(part / WEIGHTS)
        made = card.made(sha256, {**name_in(folder, sha256), **entries})
        write_json_atomic(part / CARD, made.record())
    return folder


def kind_of(path: Path) -> str | None:
    """The kind that the card of a folder or run folder states; None without a card."""
    try:
        kind = read_json(_place(path) / CARD).get("kind")
    except (OSError, ValueError, AttributeError):
        return None
    return None if kind is None else str(kind)


def read_network(path: Path, card: type[OneCard]) -> tuple[Path, OneCard, dict[str, Tensor]]:
    """Read a folder of ``write_network``, or the one in a run folder.

    Args:
        path: the folder.
        card: the pydantic model of its card.

    Returns:
        The folder, its card, and its weights; floating point as float32.

    Raises:
        BundleError: there is none, it is of another kind, unfinished or damaged.
    """
    folder = _place(path)
    file = folder / CARD
    if not file.is_file():
        raise BundleError(
            path, f"holds no {CARD}", f"give a finished run of wsikd distill ({card.KIND})"
        )
    content = read_content(file)
    if content.get("kind") != card.KIND:
        have = content.get("kind", "student")
        fault = f"describes a network of kind '{have}', not '{card.KIND}'"
        raise BundleError(file, fault, "give another")
    try:
        found = card.model_validate(content)
    except ValueError as error:
        fault = f"does not match its weights ({reason(error):.200})"
        raise BundleError(file, fault, REMEDY) from error
    return folder, found, _weights(folder / WEIGHTS, found.sha256)


def _weights(file: Path, sha256: str) -> dict[str, Tensor]:
    """Read the tensors of a file, which must have the digest ``sha256``."""
    try:
        weights = load_file(file)
        digest = _sha256(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise BundleError(file, "is not a safetensors file", REMEDY) from error
    if digest != sha256:
        raise BundleError(file, f"is not the file that {CARD} describes", REMEDY)
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise BundleError(file, f"'{name}' holds NaN or infinity", "train it again")
    return {k: v.float() if v.is_floating_point() else v for k, v in weights.items()}


def check_shapes(make: Callable[[], nn.Module], weights: Mapping[str, Tensor]) -> None:
    """Compare weights with the network that a card describes, before memory is allocated for it.

    Raises:
        ValueError: names or shapes differ.
    """
    try:
        with without_memory():
            expected = {name: tensor.shape for name, tensor in make().state_dict().items()}
    except NotImplementedError:  # some networks compute with weights in __init__
        return
    if expected != {name: tensor.shape for name, tensor in weights.items()}:
        raise ValueError("the weights are of another network")


def _place(path: Path) -> Path:
    return path if (path / CARD).is_file() else path / "student"


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
