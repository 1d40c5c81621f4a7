"""Frozen stages of a network, and running it from the map that they leave behind.

Which modules belong to the lower stages is found by running them, so that it holds for any
backbone. Frozen modules stay in eval mode: batch norm keeps its statistics, dropout is off.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from wsikd.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from wsikd.models.backbones.base import Backbone

_PX = 64  # of the patch that finds the modules


def frozen_taps(backbone: Backbone, wanted: int | Sequence[str]) -> tuple[str, ...]:
    """The names of the stages to freeze, input side first.

    Args:
        backbone: the network.
        wanted: a number of stages, counted from the input, or their names.

    Raises:
        ConfigError: there are fewer, a name is unknown, or a stage below one of them is left out.
    """
    names = list(backbone.taps)
    listed = ", ".join(names)
    if isinstance(wanted, int):
        if wanted > len(names):
            raise ConfigError(
                f"network.freeze {wanted}", f"this network has {len(names)} stages ({listed})",
                f"set it to {len(names)} at most",
            )  # fmt: skip
        return tuple(names[:wanted])
    for name in wanted:
        if name not in names:
            raise ConfigError(
                f"network.freeze {name}", "is not a stage of this network",
                f"choose among {listed}",
            )  # fmt: skip
    own = tuple(name for name in names if name in wanted)
    if own != tuple(names[: len(own)]):
        lower = next(n for n in names if n not in own)
        raise ConfigError(
            f"network.freeze {', '.join(own)}", f"leaves out the lower stage {lower}",
            "freeze it too: what it feeds changes otherwise",
        )  # fmt: skip
    return own


def freeze(backbone: Backbone, wanted: int | Sequence[str]) -> None:
    """Freeze the lower stages of a network, in place.

    Args:
        backbone: the network; its frozen stages stay in eval mode from now on.
        wanted: see :func:`frozen_taps`; nothing happens at 0.

    Raises:
        ConfigError: see :func:`frozen_taps`.
    """
    names = frozen_taps(backbone, wanted)
    if not names:
        return
    training = backbone.training
    backbone.eval()
    ran: list[nn.Module] = []
    with _each_call(backbone, lambda module, _: ran.append(module)), torch.enable_grad():
        empty = torch.zeros(1, 3, _PX, _PX, requires_grad=True)
        found = backbone.run_to(empty, names[-1])
    used = [p for p in backbone.parameters() if p.requires_grad]
    slopes = torch.autograd.grad(found.sum(), used, allow_unused=True)
    for parameter, slope in zip(used, slopes, strict=True):
        if slope is not None:
            parameter.requires_grad = False
    backbone.frozen = names
    backbone.frozen_modules = list(dict.fromkeys(ran))
    backbone.train(training)


@contextmanager
def _each_call(backbone: Backbone, note: Any) -> Iterator[None]:
    """Note every module that is called, with the number of calls that it is called within."""
    depth = 0

    def enter(module: nn.Module, _: Any) -> None:
        nonlocal depth
        note(module, depth)
        depth += 1

    def leave(*_: Any) -> None:
        nonlocal depth
        depth -= 1

    handles = []
    for module in backbone.modules():
        handles += [
            module.register_forward_pre_hook(enter),
            module.register_forward_hook(leave),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def enter_at_frozen(backbone: Backbone) -> bool:
    """Let the network take the map that its frozen stages leave behind instead of patches.

    The outermost frozen modules hand their input on. That fits networks whose stages are a chain;
    whether it does is tried.

    Returns:
        Whether it does; otherwise nothing has changed. :func:`leave_frozen` undoes it.
    """
    outer: list[nn.Module] = []
    training = backbone.training
    backbone.eval()

    def note(module: nn.Module, depth: int) -> None:
        if depth == 0:
            outer.append(module)

    device = next(backbone.parameters()).device
    patch = torch.linspace(-1, 1, 3 * _PX * _PX, device=device).reshape(1, 3, _PX, _PX)
    with torch.no_grad():
        with _each_call(backbone, note):
            middle = backbone.run_to(patch, backbone.frozen[-1])
        whole = backbone(patch)
        for module in outer:
            module.forward = _hand_on
        backbone.entered = True
        try:
            fits = torch.allclose(backbone(middle), whole, rtol=1e-4, atol=1e-5)
        except RuntimeError:  # the map does not pass through what is left
            fits = False
    backbone.train(training)
    if not fits:
        leave_frozen(backbone)
    return fits


def leave_frozen(backbone: Backbone) -> None:
    """Let the network take patches again."""
    for module in backbone.modules():
        if module.__dict__.get("forward") is _hand_on:
            del module.forward
    backbone.entered = False


def _hand_on(x: Tensor) -> Tensor:
    return x
