"""Open a network by name: torchvision's, timm's, or one of our own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsikd.core.errors import ConfigError
from wsikd.core.registry import resolve
from wsikd.models.backbones.base import drop_strides
from wsikd.models.backbones.timm import PREFIX, TimmBackbone
from wsikd.models.tables import BACKBONES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

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
