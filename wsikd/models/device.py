"""Choice of the device, deterministic algorithms, and networks without memory."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

from wsikd.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def without_memory() -> Iterator[None]:
    """Networks that are made in the block have shapes, but neither memory nor weights."""
    with torch.device("meta"), _Undrawn():
        yield


class _Undrawn(TorchFunctionMode):
    """Skips random weights, for which PyTorch would import its compiler for seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.Tensor.normal_, torch.Tensor.uniform_):
            return args[0]
        return func(*args, **(kwargs or {}))


@contextmanager
def deterministic(*, wanted: bool) -> Iterator[None]:
    """Use only bit-reproducible algorithms while the block runs, if ``wanted``.

    If PyTorch has none for an operation on a GPU, it warns and takes another. If not ``wanted``,
    cuDNN times its algorithms and takes the fastest.
    """
    if not wanted:
        before = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = True
        try:
            yield
        finally:
            torch.backends.cudnn.benchmark = before
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True, warn_only=True)  # noqa: FBT003
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn


def computes_bf16(device: torch.device) -> bool:
    """Whether a GPU computes in bf16 itself; others emulate it, slower than fp32."""
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def computes_fp16(device: torch.device) -> bool:
    """Whether a GPU multiplies matrices in fp16 faster than in fp32: from Volta on, and AMD's."""
    if device.type != "cuda":
        return False
    return bool(torch.version.hip) or torch.cuda.get_device_capability(device) >= (7, 0)


def half_precision(device: torch.device) -> str:
    """The low precision that a GPU computes in itself: bf16, else fp16; fp32 where neither."""
    if computes_bf16(device):
        return "bf16"
    return "fp16" if computes_fp16(device) else "fp32"


def upload(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The same values on a device; the host does not wait for a GPU.

    A copy to a GPU starts from pinned memory, whose allocator keeps a block until the copy has
    ended.
    """
    if device.type != "cuda" or values.device.type != "cpu":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def pick_device(name: str = "auto") -> torch.device:
    """Find the device of a name.

    Args:
        name: ``auto`` (the first GPU where there is one, else the CPU), ``cpu``, ``cuda``,
            ``cuda:N``, or ``mps`` on a Mac that has it.

    Raises:
        ConfigError: this machine has no such device, or the kind is not supported.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(
            "--device", f"'{name}' is not a device", "give auto, cpu or cuda:0"
        ) from None
    if device.type not in ("cpu", "cuda", "mps"):
        raise ConfigError("--device", f"'{name}' is not supported", "give auto, cpu or cuda:0")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("--device", f"{name} is not available", "give cpu or auto")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise ConfigError(
            "--device", f"{name} is not available ({found} GPUs seen)", "give cpu or auto"
        )
    return device
