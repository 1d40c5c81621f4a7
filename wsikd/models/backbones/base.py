"""Networks with named taps.

A backbone is a chain of stages; the output of each is a *tap*; ``F4`` is the deepest. In-place
activations are turned off: a later ReLU would otherwise overwrite the tap in front of it.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from wsikd.core.errors import ConfigError
from wsikd.models.backbones.operations import Products, UnknownOperationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Self


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
        drop_pools: halvings of the grid that were left out, see :func:`drop_strides`.
        frozen: names of the stages that are not trained, see ``wsikd.models.backbones.freeze``.
        frozen_modules: their modules, which stay in eval mode.
        entered: it takes the map of its last frozen stage instead of patches.
    """

    drop_pools = 0
    frozen: tuple[str, ...] = ()
    frozen_modules: Sequence[nn.Module] = ()
    entered = False

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
        """Run the chain as far as it is required.

        Args:
            x: float (B, 3, H, W), normalised.
            names: taps to return.

        Returns:
            name -> (B, channels, about H / stride, about W / stride).

        Raises:
            ConfigError: a name is not a tap of this network.
        """
        wanted = set(names)
        if unknown := wanted - set(self.taps):
            raise ConfigError(
                sorted(unknown)[0], "no tap of this network", f"choose among {', '.join(self.taps)}"
            )
        return {name: tap for name, tap in self._run(x, wanted).items() if name in wanted}

    def run_to(self, x: Tensor, name: str) -> Tensor:
        """One tap, and no stage behind it."""
        return self._run(x, {name})[name]

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002 (torch's signature)
        """Set the mode; frozen stages stay in eval."""
        super().train(mode)
        for module in self.frozen_modules:
            module.training = False
        return self

    def _run(self, x: Tensor, wanted: set[str]) -> dict[str, Tensor]:
        """At least the wanted taps."""
        found: dict[str, Tensor] = {}
        for name, stage in self.stages.items():
            if wanted <= set(found):
                break
            found[name] = x = stage(x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        """The deepest tap: float (B, 3, H, W) -> (B, channels, h, w)."""
        return self.forward_taps(x, [self.deepest])[self.deepest]


def drop_strides(backbone: Backbone, count: int) -> Backbone:
    """Leave out the last halvings of the grid, so that small patches keep a fine map.

    A strided convolution or pooling moves by one pixel instead, and what follows is dilated (the
    "algorithme a trous", F. Yu and V. Koltun, ICLR 2016): the weights keep their meaning, and every
    second cell of the finer map is a cell of the coarser one, or nearly so with
    squeeze-and-excitation, which averages over more cells. The first stage keeps its strides.

    Args:
        backbone: a chain of stages whose modules are registered in the order in which they run;
            changed in place.
        count: how many; each makes the maps behind it four times as large.

    Raises:
        ConfigError: the network has fewer.
    """
    if count == 0:
        return backbone
    stages = list(backbone.stages.values())
    strided = [m for s in stages[1:] for m in s.modules() if _halves(m)]
    if not isinstance(stages[0], nn.Sequential) or count > len(strided):
        raise ConfigError(
            f"network.drop_pools {count}",
            f"this network has {len(strided)} halvings that can be left out",
            f"set it to {len(strided)} at most",
        )
    dropped, dilation = {id(m) for m in strided[-count:]}, 1
    for stage in stages[1:]:
        for parent, name, module in _leaves(stage):
            if dilation > 1 or id(module) in dropped:
                setattr(parent, name, _dilated(module, dilation, halving=id(module) in dropped))
            if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and dilation > 1:
                module.stride = (1, 1)
            dilation *= 2 if id(module) in dropped else 1
    coarsest = backbone.taps[backbone.deepest].stride >> count
    backbone.taps = {
        name: Tap(tap.channels, min(tap.stride, coarsest)) for name, tap in backbone.taps.items()
    }
    backbone.drop_pools = count
    return backbone


def _leaves(stage: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    """Convolutions and poolings of a stage with their parents, in the order of registration."""
    kinds = (nn.Conv2d, nn.MaxPool2d)
    return [
        (parent, name, child)
        for parent in stage.modules()
        for name, child in parent.named_children()
        if isinstance(child, kinds)
    ]


def _halves(module: nn.Module) -> bool:
    """Whether it halves the grid; strided 1x1 convolutions run beside one that does."""
    if isinstance(module, nn.Conv2d):
        return module.stride == (2, 2) and module.kernel_size != (1, 1)
    return isinstance(module, nn.MaxPool2d) and module.stride == 2


def _dilated(module: nn.Module, dilation: int, *, halving: bool) -> nn.Module:
    """The module for a grid finer by ``dilation``; with ``halving`` without its own stride."""
    if isinstance(module, nn.Conv2d):
        side = int(module.kernel_size[0])
        if side > 1:
            module.dilation = (dilation, dilation)
            module.padding = (side // 2 * dilation,) * 2
        if halving:
            module.stride = (1, 1)
        return module
    side = cast("int", module.kernel_size)
    reach = (side - 1) * dilation  # the last cells see themselves again
    return nn.Sequential(
        nn.ReplicationPad2d((0, reach, 0, reach)), nn.MaxPool2d(side, 1, dilation=dilation)
    )


def macs(module: nn.Module, input_px: int) -> int:
    """Multiply-accumulates for one patch; no product is computed.

    Args:
        module: a network that takes (1, 3, H, W).
        input_px: side of the patch it is given, before any up-sampling of its own.
    """
    device = next((p.device for p in module.parameters()), None)
    patch = torch.zeros(1, 3, input_px, input_px, device=device)
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        with torch.no_grad(), Products() as counter:
            module(patch)
        return int(counter.total)
    except UnknownOperationError:
        return _macs_by_torch(module, input_px)
    finally:
        for part in training:
            part.training = True


def _macs_by_torch(module: nn.Module, input_px: int) -> int:
    """Multiply-accumulates of any network, counted by PyTorch on tensors without data."""
    from torch.utils.flop_counter import FlopCounterMode

    empty = deepcopy(module).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        empty(torch.zeros(1, 3, input_px, input_px, device="meta"))
    return int(counter.get_total_flops() // 2)
