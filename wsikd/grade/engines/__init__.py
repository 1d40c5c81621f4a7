"""Engines that compute a network's logits: PyTorch, or a faster runtime.

Each engine is a file here and an entry of ``ENGINES``; ``choose.open_engine`` opens one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

ENGINES: dict[str, str] = {
    "torch": "wsikd.grade.engines.with_torch:TorchEngine",
    "compile": "wsikd.grade.engines.with_compile:CompileEngine",
    "onnx": "wsikd.grade.engines.with_onnx:OnnxEngine",
    "openvino": "wsikd.grade.engines.with_openvino:OpenVinoEngine",
}
"""Name -> ``(Network, Place) -> Engine``."""
AUTO = "auto"
PRECISIONS = (AUTO, "fp32", "bf16", "fp16")


class Engine(Protocol):
    """A network ready to run; made as ``Engine(Network, Place)``.

    A class may declare ``bf16 = True`` if it computes in bf16 on processors that support it,
    ``fp16 = True`` if it computes in fp16 on GPUs, and ``cpu_only = True`` if it needs the CPU. By
    default it must compute in fp32 on any device.
    """

    @property
    def name(self) -> str:
        """Its entry in ``ENGINES``."""

    @property
    def precision(self) -> str:
        """Its precision: fp32, bf16 or fp16."""

    def __call__(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Outputs (B, outputs) of patches (B, patch_px, patch_px, 3). Not thread-safe."""


def started(engine: Engine, patches: NDArray[np.uint8]) -> Callable[[], NDArray[np.float32]]:
    """What waits for the outputs of a batch; an engine without ``submit`` computes it here.

    An engine with ``in_flight`` of 2 or more has ``submit``, and computes so many batches while it
    is sent the next; ``in_flight`` counts that one too.

    Args:
        engine: that computes.
        patches: uint8 (B, patch_px, patch_px, 3), which may be overwritten afterwards.
    """
    submit = getattr(engine, "submit", None)
    if submit is not None:
        return submit(patches)  # type: ignore[no-any-return]
    found = engine(patches)
    return lambda: found


@dataclass(frozen=True)
class Network:
    """The input to build an engine.

    Attributes:
        build: makes the network, which maps uint8 (B, 3, patch_px, patch_px) to logits;
            called if an engine needs it.
        patch_px: side of its patches.
        key: digest of its weights and architecture, under which its graph is cached; empty: the
            graph is not cached.
        folder: of its bundle, which may hold its graph.
    """

    build: Callable[[], nn.Module]
    patch_px: int
    key: str = ""
    folder: Path | None = None


@dataclass(frozen=True)
class Place:
    """Device (a name of PyTorch's), CPU threads and precision (fp32, bf16 or fp16) of an engine."""

    device: str = "cpu"
    threads: int = 1
    precision: str = "fp32"
