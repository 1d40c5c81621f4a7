"""Choice of engine and precision; the measurements are in docs/decisions/0007-engines.md."""

from __future__ import annotations

import hashlib
import logging
import platform
from dataclasses import replace
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsikd.core.errors import ConfigError
from wsikd.core.registry import resolve, source_of
from wsikd.grade.engines import AUTO, ENGINES, PRECISIONS, Place
from wsikd.grade.engines.check import Checked
from wsikd.grade.engines.graph import cache_folder, is_kept, keep, read_sealed

if TYPE_CHECKING:
    from wsikd.grade.engines import Engine, Network

log = logging.getLogger(__name__)

FEW_MP = 8.0
"""Megapixels of patches (500 of 128 px) below which an uncached graph costs more than it saves."""
_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
_GPU_SIGNS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")


def check_names(engine: str, precision: str) -> None:
    """Refuse an unknown engine or precision. Raises ConfigError."""
    if engine != AUTO and engine not in ENGINES:
        resolve(ENGINES, engine, kind="engines")
    if precision not in PRECISIONS:
        raise ConfigError(
            f"--precision {precision}", "is not known", f"give one of {', '.join(PRECISIONS)}"
        )


def open_engine(
    network: Network,
    engine: str = AUTO,
    precision: str = "fp32",
    *,
    device: str = "auto",
    threads: int = 1,
    fields: int = 0,
    check: bool = True,
) -> Engine:
    """Open an engine for a network.

    Args:
        network: the network.
        engine: an entry of ``ENGINES``; auto takes OpenVINO on a CPU and PyTorch on a GPU, and
            PyTorch also if no graph is cached and there are few fields.
        precision: fp32, bf16, fp16 or auto, see :func:`default_precision`. bf16 and fp16 are
            compared with fp32 on the first fields, see ``check.Checked``.
        device: auto, cpu, cuda:0.
        threads: number of CPU threads.
        fields: approximate number of fields to compute.
        check: whether to compare bf16 or fp16 with fp32. If False, it has passed before, and is
            refused only if the processor does not support it.

    Raises:
        ConfigError: a name is unknown, or the engine is not installed or does not support the
            network, the device or the precision.
    """
    check_names(engine, precision)
    where = device_name(device)
    name = engine if engine != AUTO else _fastest(network, where, fields)
    kind = resolve(ENGINES, name, kind="engines")
    if where != "cpu" and getattr(kind, "cpu_only", False):
        raise ConfigError(f"--engine {name}", f"runs on the CPU, not on {where}",
                          "give --device cpu, or --engine torch")  # fmt: skip
    place = Place(where, threads, "fp32")
    full = partial(kind, network, place)
    wanted = precision if precision != AUTO else default_precision(name, where)
    if wanted == "fp32":
        return full()  # type: ignore[no-any-return]
    if not _computes(kind, name, where, wanted, passed=not check):
        raise ConfigError(f"--precision {wanted}", f"is not supported by {name} on {where}",
                          "give --precision fp32")  # fmt: skip
    low = kind(network, replace(place, precision=wanted))
    if not check:
        return low  # type: ignore[no-any-return]
    verdict = _verdict(network, name, where, wanted)
    if verdict and read_sealed(verdict):
        return low  # type: ignore[no-any-return]
    on_pass = partial(keep, verdict, _passed()) if verdict else None
    return Checked(low, full, on_pass=on_pass)


def _computes(kind: Any, name: str, device: str, precision: str, *, passed: bool) -> bool:
    """Whether an engine computes in bf16 or fp16; a bf16 that is to be compared may be emulated."""
    if precision == "bf16":
        return not passed or default_precision(name, device) == precision
    if device == "cpu" or not getattr(kind, "fp16", False):
        return False
    import torch

    from wsikd.models.device import computes_fp16

    return computes_fp16(torch.device(device))


def _passed() -> bytes:
    return b"same decisions as fp32"


def starts_from_graph(network: Network, engine: str, device: str) -> bool:
    """Whether an engine will run a graph that an earlier run has cached."""
    name = engine if engine != AUTO else _fastest(network, device, 0)
    return device == "cpu" and name in ("onnx", "openvino") and is_kept(network)


def device_name(name: str) -> str:
    """The device of a name; PyTorch is imported only if there may be a GPU, or one is named.

    Raises:
        ConfigError: there is no such device.
    """
    if name == "cpu" or (name == AUTO and (not _may_have_gpu() or find_spec("torch") is None)):
        return "cpu"
    from wsikd.models.device import pick_device

    return str(pick_device(name))


def _may_have_gpu() -> bool:
    return platform.system() == "Windows" or any(Path(sign).exists() for sign in _GPU_SIGNS)


def _fastest(network: Network, device: str, fields: int) -> str:
    if device != "cpu" or find_spec("openvino") is None:
        return "torch"
    few = fields * network.patch_px**2 < FEW_MP * 1e6
    return "torch" if few and not network.key else "openvino"


def default_precision(engine: str, device: str) -> str:
    """The meaning of ``auto``: bf16, or on a GPU that emulates it fp16, else fp32.

    It is one that the engine supports and the processor computes in itself.
    """
    kind = resolve(ENGINES, engine, kind="engines")
    if device == "cpu":
        native = getattr(kind, "bf16", False) and _processor()[1] & _BF16_FLAGS
        return "bf16" if native else "fp32"
    import torch

    from wsikd.models.device import half_precision

    half = half_precision(torch.device(device))
    return half if getattr(kind, half, False) else "fp32"


@lru_cache(maxsize=1)
def _processor() -> tuple[str, frozenset[str]]:
    """Name of the processor and its flags; empty if the system does not report them."""
    name, flags = "", frozenset[str]()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("flags", "Features"):
                return name, frozenset(value.split())
            if key.strip() == "model name":
                name = value.strip()
    except OSError:
        pass
    return name, flags


def _verdict(network: Network, engine: str, device: str, precision: str) -> Path | None:
    """The file that records that a network passed on this version of an engine and this device."""
    if not network.key:
        return None
    from importlib.metadata import version

    made_by = source_of(ENGINES, engine, kind="engines") or version(
        "openvino" if engine == "openvino" else "torch"
    )
    what = (network.key, network.patch_px, engine, made_by, *map(str, _machine(device)))
    digest = hashlib.sha256(repr(what).encode()).hexdigest()
    return cache_folder() / f"{digest[:40]}.{precision}"


def _machine(device: str) -> tuple[Any, ...]:
    if device != "cpu":
        import torch

        model = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
        return (model, torch.version.cuda)
    name, flags = _processor()
    return (name, sorted(flags & _BF16_FLAGS))
