"""Which device to compute on."""

from __future__ import annotations

import torch

from wsikd.core.errors import ConfigError


def pick_device(name: str = "auto") -> torch.device:
    """``auto`` takes the first GPU where there is one, else the CPU; other names are PyTorch's.

    Raises:
        ConfigError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(
            "--device", f"'{name}' is no device", "give auto, cpu or cuda:0"
        ) from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise ConfigError(
            "--device", f"{name} is not there ({found} GPUs seen)", "give cpu or auto"
        )
    return device
