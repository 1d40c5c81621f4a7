"""Optimisers without the import of torch.compile, which takes seconds of each training's start."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Adam, AdamW, Optimizer

if TYPE_CHECKING:
    from collections.abc import Callable

_GUARDED = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")


def _eager(kind: type[Any]) -> Callable[..., Optimizer]:
    """The same optimiser, for training that is not compiled.

    Torch wraps these methods, to keep torch.compile out of them, and imports it at the first call.
    """
    own: dict[str, Any] = {name: inspect.unwrap(getattr(kind, name)) for name in _GUARDED}
    return type(kind.__name__, (kind,), own | {"step": torch.no_grad()(inspect.unwrap(kind.step))})


OPTIMIZERS = {"adam": _eager(Adam), "adamw": _eager(AdamW)}
