"""Finds what makes the host wait for a device: operations whose result, or its size, it reads."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = {
    "_local_scalar_dense", "item", "is_nonzero", "nonzero", "masked_select", "equal",
    "unique_consecutive", "_unique2", "allclose",
}  # fmt: skip


class HostReads(TorchDispatchMode):
    """Records them while its block runs.

    Attributes:
        seen: their names.
    """

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in WAITING or (name.startswith("index") and _has_mask(args[1:])):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


def _has_mask(args):
    indices = args[0] if args and isinstance(args[0], (list, tuple)) else ()
    return any(isinstance(i, torch.Tensor) and i.dtype == torch.bool for i in indices)
