"""Compiles backbones with PyTorch's compiler during a training."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from wsikd.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wsikd.learn.methods.base import Method


@contextmanager
def compiled(method: Method, *, wanted: bool) -> Iterator[None]:
    """Compile the backbones of student and teacher while the block runs, if ``wanted``.

    Weights and their names do not change, nor do the networks after the block.

    Raises:
        ConfigError: the method needs second derivatives, which the compiler does not support.
    """
    backbones = _backbones(method) if wanted else []
    if wanted and method.differentiates_twice:
        raise ConfigError(
            "optim.compile", "these terms differentiate twice, which torch.compile does not",
            "set it to false",
        )  # fmt: skip
    for backbone in backbones:
        backbone.forward_taps = torch.compile(backbone.forward_taps)
    try:
        yield
    finally:
        for backbone in backbones:
            del backbone.forward_taps


def _backbones(method: Method) -> list[Any]:
    nets = (getattr(method, "student", None), getattr(method, "teacher", None))
    found = (getattr(net, "backbone", None) for net in nets)
    return [backbone for backbone in found if hasattr(backbone, "forward_taps")]
