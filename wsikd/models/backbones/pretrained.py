"""Weights that a training starts from: of a hub, a local file or an installed package."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wsikd.core.errors import ConfigError
from wsikd.models.backbones.timm import PREFIX as TIMM
from wsikd.models.backbones.timm import timm_names, timm_weights
from wsikd.models.backbones.torchvision import torchvision_weights
from wsikd.models.backbones.weights_package import HUB, KEY, NOT_STATED, PREFIX, find_package
from wsikd.models.files.card_origin import InitWeights
from wsikd.models.files.weights import digest_of

if TYPE_CHECKING:
    from collections.abc import Mapping

AS_NAMED, BY_ORDER = "as named", "by order"


@dataclass(frozen=True)
class Pretrained:
    """A state dict in the names of torchvision or timm, and what the card says of it."""

    state: Mapping[str, Tensor]
    origin: InitWeights


def open_weights(
    arch: str, source: str | None, *, licence: str | None = None, key: str = KEY
) -> Pretrained:
    """Pretrained weights for a network.

    Args:
        arch: name of the network.
        source: "package:NAME", "timm" for a network of timm's hub, or a local ``.safetensors`` or
            ``.pth`` file; None asks the hub that the network comes from. Hubs need the internet,
            the others do not.
        licence: terms of the weights, where the source does not state them.
        key: setting that named the source, for messages.

    Raises:
        ConfigError: the file cannot be read as weights, the package or the hub is not available,
            or there are no weights for this network.
    """
    if source is None or source == HUB:
        return _of_hub(arch, source, licence, key)
    if source.startswith(PREFIX):
        found = find_package(source.removeprefix(PREFIX), key=key)
        state, keys = _named(arch, read_state_dict(str(found.file)), source)
        about = {"source": found.source, "licence": licence or found.licence}
        return Pretrained(
            state, InitWeights(**about, file=found.file.name, sha256=found.sha256, keys=keys)
        )
    state, keys = _named(arch, read_state_dict(source), source)
    file = Path(source)
    origin = InitWeights(
        source="file", file=file.name, sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        licence=licence or NOT_STATED, keys=keys,
    )  # fmt: skip
    return Pretrained(state, origin)


def _of_hub(arch: str, source: str | None, licence: str | None, key: str) -> Pretrained:
    if arch.startswith(TIMM):
        state, stated = timm_weights(arch.removeprefix(TIMM))
    elif source is None:
        state, stated = torchvision_weights(arch), None
    else:
        raise ConfigError(
            f"{key} {source}", f"timm's hub has no weights for {arch}",
            f"set {key.partition('.')[0]}.arch to {TIMM}NAME, or leave {key} out",
        )  # fmt: skip
    where = arch if arch.startswith(TIMM) else f"torchvision:{arch}"
    origin = InitWeights(
        source=where, sha256=digest_of(state), licence=licence or stated or NOT_STATED,
        keys=AS_NAMED,
    )  # fmt: skip
    return Pretrained(state, origin)


def read_state_dict(file: str) -> Mapping[str, Tensor]:
    """The tensors in a file; no code in it is executed. Raises ConfigError."""
    from safetensors.torch import load_file

    remedy = "give a .pth file of torchvision or a .safetensors file"
    try:
        if file.endswith(".safetensors"):
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)  # noqa: TID251
    except Exception as error:  # the unpickler fails in any way on another file
        raise ConfigError(file, "no file of network weights", remedy) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ConfigError(file, "holds no state dict", remedy)
    return state


def _named(arch: str, state: Mapping[str, Tensor], source: str) -> tuple[Mapping[str, Tensor], str]:
    """The weights in the network's own names, and how they were recognised."""
    if not arch.startswith(TIMM):
        return state, AS_NAMED
    names = timm_names(arch.removeprefix(TIMM))
    if not state or set(names) & set(state):
        return state, AS_NAMED
    return in_order(state, names, subject=f"{source} for {arch}"), BY_ORDER


def in_order(
    state: Mapping[str, Tensor], names: Mapping[str, tuple[int, ...]], *, subject: str
) -> dict[str, Tensor]:
    """Tensors under the names of another implementation of the same network.

    Args:
        state: state of the other implementation, in the order of its layers.
        names: name -> shape of every tensor, in the same order.
        subject: named in errors.

    Raises:
        ConfigError: number, shape or last name ("weight", "running_mean") of a tensor differ.
    """
    pairs = list(zip(names.items(), state.items(), strict=False))
    fits = len(state) == len(names) and all(
        shape == tuple(value.shape) and own.rpartition(".")[2] == theirs.rpartition(".")[2]
        for (own, shape), (theirs, value) in pairs
    )
    if not fits:
        raise ConfigError(
            subject, "the weights do not match this network",
            "name the network that they were trained for",
        )  # fmt: skip
    return {own: value for (own, _), (_, value) in pairs}
