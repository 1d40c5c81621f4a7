"""OpenVINO on the CPU: the fastest engine there, and the quickest to start."""

from __future__ import annotations

import sys
from collections import deque
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.core.errors import ConfigError
from wsikd.grade.engines.graph import graph_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from wsikd.grade.engines import Network, Place

_CONVERTER = "openvino.tools.ovc"
_PRECISION = {"fp32": "f32", "bf16": "bf16"}
_PART_PX = {"fp32": 8 * 128**2, "bf16": 16 * 128**2}
"""Pixels of patches in one request: the output of a layer fits in a core's own cache."""
_FILLED_GMAC = 2.0
"""Work of a part up to which an incomplete last part is padded: some 40 ms of a core."""


class OpenVinoEngine:
    """The network's graph, compiled for this processor.

    A batch is split into parts, and each CPU thread computes its own parts: threads that share a
    part wait for each other at every layer. A light network is compiled for parts of one size,
    which is 7 % faster, and the last part is padded. A heavy network is compiled for any size.
    """

    name = "openvino"
    bf16, cpu_only = True, True
    in_flight: int

    def __init__(self, network: Network, place: Place) -> None:
        """Compile the graph, which takes 0.1 s per thread.

        Raises:
            ConfigError: OpenVINO is not installed, or the network cannot be written as a graph.
        """
        openvino = _openvino()
        self.precision = place.precision
        settings = {
            "INFERENCE_PRECISION_HINT": _PRECISION[place.precision],
            "INFERENCE_NUM_THREADS": place.threads,
            "NUM_STREAMS": place.threads,
            "ENABLE_CPU_PINNING": False,
        }
        side = network.patch_px
        part = max(1, _PART_PX[place.precision] // side**2)
        core: Any = openvino.Core()
        model = core.read_model(graph_of(network))
        model.reshape([part, side, side, 3])
        self._filled = _multiply_accumulates(model) <= _FILLED_GMAC * 1e9
        if not self._filled:
            model.reshape([openvino.Dimension(1, part), side, side, 3])
        compiled = core.compile_model(model, "CPU", settings)
        whole = part if self._filled else 0
        self._free = [_Request(compiled, whole) for _ in range(place.threads)]
        self._busy: deque[tuple[_Request, list[NDArray[np.float32]]]] = deque()
        self._part, self.in_flight = part, place.threads + 1

    def __call__(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits of uint8 (B, patch_px, patch_px, 3)."""
        return self._begun(np.ascontiguousarray(patches))()

    def submit(self, patches: NDArray[np.uint8]) -> Callable[[], NDArray[np.float32]]:
        """The same, started: threads of OpenVINO compute while the caller continues."""
        return self._begun(np.array(patches, np.uint8, order="C"))

    def _begun(self, patches: NDArray[np.uint8]) -> Callable[[], NDArray[np.float32]]:
        """Start all parts of a batch; a part waits until a request is free."""
        found: list[NDArray[np.float32]] = []
        parts = self._cut(patches)
        for part in parts:
            request = self._free.pop() if self._free else self._oldest()
            request.begin(part)
            self._busy.append((request, found))

        def wait() -> NDArray[np.float32]:
            while len(found) < len(parts):
                self._free.append(self._oldest())
            return np.concatenate(found)

        return wait

    def _oldest(self) -> _Request:
        """The request that was started first, once its logits are where they belong."""
        request, found = self._busy.popleft()
        try:
            found.append(request.take())
        except BaseException:
            self._free.append(request)
            raise
        return request

    def _cut(self, patches: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
        """Parts of a batch; for a heavy network, of equal size, to keep all threads busy."""
        if self._filled:
            return [patches[i : i + self._part] for i in range(0, len(patches), self._part)]
        threads = self.in_flight - 1
        rounds = -(-len(patches) // (self._part * threads))
        return np.array_split(patches, min(rounds * threads, len(patches)))


def _openvino() -> Any:
    """The module without its converter of models, which takes longer to import than the rest.

    ``openvino.convert_model`` is imported at its first call. Raises ConfigError without OpenVINO.
    """
    if loaded := sys.modules.get("openvino"):
        return loaded
    absent: Any = None
    sys.modules[_CONVERTER] = absent  # to import it is then an ImportError, which OpenVINO expects
    try:
        import openvino
    except ImportError:
        raise ConfigError(
            "--engine openvino", "OpenVINO is not installed", "pip install openvino"
        ) from None
    finally:
        sys.modules.pop(_CONVERTER, None)
    if not hasattr(openvino, "convert_model"):
        openvino.convert_model = _convert_model
    return openvino


def _convert_model(*arguments: Any, **named: Any) -> Any:
    import openvino

    openvino.convert_model = import_module(_CONVERTER).convert_model
    return openvino.convert_model(*arguments, **named)


def _multiply_accumulates(model: Any) -> float:
    """Multiply-accumulates of the convolutions and matrix products of a graph of fixed shapes."""
    total = 0.0
    for node in model.get_ops():
        kind = node.get_type_name()
        if kind in ("Convolution", "GroupConvolution"):
            weights = node.input(1).get_shape()
            each = np.prod(weights[1 if kind == "Convolution" else 2 :])
        elif kind == "MatMul":
            each = node.input(0).get_shape()[-1]
        else:
            continue
        total += float(each) * float(np.prod(node.output(0).get_shape()))
    return total


class _Request:
    """A part that a thread of OpenVINO computes."""

    def __init__(self, compiled: Any, whole: int) -> None:
        """Parts are padded to ``whole`` patches; 0: they are not padded."""
        self._request, self._whole = compiled.create_infer_request(), whole
        self._patches: NDArray[np.uint8]

    def begin(self, patches: NDArray[np.uint8]) -> None:
        """Start a part; missing patches are black."""
        self._count = len(patches)
        if self._count < self._whole:
            whole = np.zeros((self._whole, *patches.shape[1:]), np.uint8)
            whole[: self._count] = patches
            patches = whole
        self._patches = patches  # OpenVINO reads this memory without a copy
        self._request.start_async({0: patches}, share_inputs=True)

    def take(self) -> NDArray[np.float32]:
        """Wait for the logits."""
        self._request.wait()
        return np.array(self._request.get_output_tensor(0).data[: self._count], np.float32)
