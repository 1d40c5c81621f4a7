"""Which device to compute on."""

from __future__ import annotations

import torch

from wsikd.core.errors import ConfigError


def pick_device(name: str = "auto") -> torch.device:
    """Find the device of a name.

    Args:
        name: ``auto`` (the first GPU where there is one, else the CPU), ``cpu``, ``cuda``,
            ``cuda:N``, or ``mps`` on a Mac that has it.

    Raises:
        ConfigError: there is no such device here, or it is of another kind.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(
            "--device", f"'{name}' is no device", "give auto, cpu or cuda:0"
        ) from None
    if device.type not in ("cpu", "cuda", "mps"):
        raise ConfigError("--device", f"'{name}' is not supported", "give auto, cpu or cuda:0")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("--device", f"{name} is not there", "give cpu or auto")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise ConfigError(
            "--device", f"{name} is not there ({found} GPUs seen)", "give cpu or auto"
        )
    return device
