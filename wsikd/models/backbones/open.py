"""Open a network by name, and its ImageNet weights: torchvision's, timm's, or one of our own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wsikd.core.errors import ConfigError
from wsikd.core.registry import resolve
from wsikd.models.backbones.base import drop_strides
from wsikd.models.backbones.timm import PREFIX, TimmBackbone, timm_weights
from wsikd.models.backbones.torchvision import torchvision_weights
from wsikd.models.tables import BACKBONES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wsikd.models.backbones.base import Backbone


def build_backbone(
    arch: str,
    *,
    width: float = 1.0,
    weights: Mapping[str, Tensor] | None = None,
    drop_pools: int = 0,
) -> Backbone:
    """Make a network of ``BACKBONES``, or one of timm.

    Args:
        arch: its name; "timm:NAME" asks timm.
        width: factor on the channels, for those that scale (vgg_small, mobilenet_v3_large).
        weights: state dict in the names of torchvision or timm; None leaves it randomly
            initialised.
        drop_pools: halvings of the grid to leave out, see :func:`drop_strides`.

    Raises:
        ConfigError: the name is unknown, it does not scale, the weights do not fit, or it has
            fewer halvings.
    """
    try:
        return drop_strides(_make(arch, width, weights), drop_pools)
    except RuntimeError as error:  # how torch reports weights of another shape
        if weights is None:
            raise
        raise ConfigError(
            arch, "the weights do not match this network", str(error)[:200]
        ) from error


def _make(arch: str, width: float, weights: Mapping[str, Tensor] | None) -> Backbone:
    if arch.startswith(PREFIX):
        if width != 1:
            raise ConfigError(f"network.width {width:g}", f"{arch} has one width", "leave it at 1")
        return TimmBackbone(arch.removeprefix(PREFIX), weights)
    try:
        make = resolve(BACKBONES, arch, kind="backbones")
    except ConfigError as error:
        raise ConfigError(arch, error.fault, f"{error.remedy}, or {PREFIX}NAME") from None
    return make(width, weights)  # type: ignore[no-any-return]


def imagenet_weights(arch: str, file: str | None) -> Mapping[str, Tensor]:
    """Weights trained on ImageNet, in the names of torchvision, or of timm for its networks.

    Args:
        arch: name of the network.
        file: a local ``.safetensors`` or ``.pth`` file of theirs; None asks their hub, which needs
            the network.

    Raises:
        ConfigError: the file cannot be read as weights, the hub cannot be reached, or there are
            no ImageNet weights for this network.
    """
    if file is not None:
        return _weights_file(file)
    if arch.startswith(PREFIX):
        return timm_weights(arch.removeprefix(PREFIX))
    return torchvision_weights(arch)


def _weights_file(file: str) -> Mapping[str, Tensor]:
    from safetensors.torch import load_file

    try:
        if file.endswith(".safetensors"):
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)  # noqa: TID251
    except Exception as error:  # the unpickler fails in any way on another file
        raise ConfigError(
            file,
            "no file of network weights",
            "give a .pth file of torchvision or a .safetensors file",
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ConfigError(
            file, "holds no state dict", "give a .pth file of torchvision or a .safetensors file"
        )
    return state
