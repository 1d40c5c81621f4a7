"""Networks with named taps.

A backbone is a chain of stages; the output of each is a *tap*; ``F4`` is the deepest. In-place
activations are turned off: a later ReLU would otherwise overwrite the tap in front of it.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from wsikd.core.errors import ConfigError
from wsikd.core.tables import resolve

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

BACKBONES: dict[str, str] = {
    "vgg_small": "wsikd.models.families:vgg_small",
    "vgg16": "wsikd.models.families:vgg16",
    "resnet18": "wsikd.models.families:resnet18",
    "mobilenet_v3_large": "wsikd.models.families:mobilenet_v3_large",
    "efficientnet_b0": "wsikd.models.families:efficientnet_b0",
}


@dataclass(frozen=True)
class Tap:
    """Channels of a feature map, and how many input pixels one of its cells spans."""

    channels: int
    stride: int


class Backbone(nn.Module):
    """A chain of stages whose outputs can be read by name.

    Attributes:
        taps: name -> Tap, in the order of the chain.
        deepest: name of the last tap, which the head pools.
    """

    def __init__(self, stages: Sequence[tuple[str, nn.Module, Tap]]) -> None:
        """Chain ``(name, module, tap)`` triples, input side first."""
        super().__init__()
        self.stages = nn.ModuleDict({name: module for name, module, _ in stages})
        self.taps = {name: tap for name, _, tap in stages}
        self.deepest = stages[-1][0]
        for module in self.modules():
            if getattr(module, "inplace", False):
                module.inplace = False  # type: ignore[assignment]

    def forward_taps(self, x: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
        """Run the chain as far as it is needed.

        Args:
            x: float (B, 3, H, W), normalised.
            names: taps to return.

        Returns:
            name -> (B, channels, about H / stride, about W / stride).

        Raises:
            ConfigError: a name is no tap of this network.
        """
        wanted = set(names)
        if unknown := wanted - set(self.taps):
            raise ConfigError(
                sorted(unknown)[0], "no tap of this network", f"choose among {', '.join(self.taps)}"
            )
        found: dict[str, Tensor] = {}
        for name, stage in self.stages.items():
            if wanted <= set(found):
                break
            x = stage(x)
            if name in wanted:
                found[name] = x
        return found

    def forward(self, x: Tensor) -> Tensor:
        """The deepest tap: float (B, 3, H, W) -> (B, channels, h, w)."""
        return self.forward_taps(x, [self.deepest])[self.deepest]


def build_backbone(
    arch: str, *, width: float = 1.0, weights: Mapping[str, Tensor] | None = None
) -> Backbone:
    """Make a network of ``BACKBONES``.

    Args:
        arch: its name.
        width: factor on the channels, for those that scale (vgg_small, mobilenet_v3_large).
        weights: state dict in torchvision's own names; None leaves it randomly initialised.

    Raises:
        ConfigError: the name is unknown, it does not scale, or the weights do not fit.
    """
    make = resolve(BACKBONES, arch, kind="backbones")
    try:
        return make(width, weights)  # type: ignore[no-any-return]
    except RuntimeError as error:  # how torch reports weights of another shape
        raise ConfigError(arch, "the weights do not fit this network", str(error)[:200]) from error


def macs(module: nn.Module, input_px: int) -> int:
    """Multiply-accumulates for one patch, counted on tensors without data.

    Args:
        module: a network that takes (1, 3, H, W).
        input_px: side of the patch it is given, before any up-sampling of its own.
    """
    from torch.utils.flop_counter import FlopCounterMode

    empty = deepcopy(module).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        empty(torch.zeros(1, 3, input_px, input_px, device="meta"))
    return int(counter.get_total_flops() // 2)
