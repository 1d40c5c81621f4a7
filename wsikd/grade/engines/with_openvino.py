"""OpenVINO on the CPU: the fastest found there, and the quickest to start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.core.errors import ConfigError
from wsikd.grade.engines.graph import graph_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsikd.grade.engines import Network, Place

_PRECISION = {"fp32": "f32", "bf16": "bf16"}
_PART_PX = {"fp32": 8 * 128**2, "bf16": 16 * 128**2}
"""Pixels of patches in one request: what a layer of it makes stays in a core's own cache."""


class OpenVinoEngine:
    """The network's graph, compiled for this processor.

    A batch is cut into parts of one size, for which the graph is compiled. Each CPU thread computes
    parts of its own: threads that share one wait for each other at every layer.
    """

    name = "openvino"

    def __init__(self, network: Network, place: Place) -> None:
        """Compile the graph: a tenth of a second a thread.

        Raises:
            ConfigError: OpenVINO is not installed, or the network cannot be written as a graph.
        """
        try:
            import openvino
        except ImportError:
            raise ConfigError(
                "--engine openvino", "OpenVINO is not installed", "pip install openvino"
            ) from None
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
        compiled = core.compile_model(model, "CPU", settings)
        self._requests = [_Request(compiled, part) for _ in range(place.threads)]
        self._part = part

    def __call__(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits of uint8 (B, patch_px, patch_px, 3)."""
        patches = np.ascontiguousarray(patches)
        requests, found = self._requests, []
        for number, first in enumerate(range(0, len(patches), self._part)):
            request = requests[number % len(requests)]
            if number >= len(requests):
                found.append(request.take())
            request.begin(patches[first : first + self._part])
        parts = -(-len(patches) // self._part)
        found += [requests[n % len(requests)].take() for n in range(len(found), parts)]
        return np.concatenate(found)


class _Request:
    """One part being computed in a thread of OpenVINO's."""

    def __init__(self, compiled: Any, part: int) -> None:
        self._request, self._part = compiled.create_infer_request(), part
        self._patches: NDArray[np.uint8]

    def begin(self, patches: NDArray[np.uint8]) -> None:
        """Start; what is missing to a whole part is filled with black."""
        self._count = len(patches)
        if self._count < self._part:
            whole = np.zeros((self._part, *patches.shape[1:]), np.uint8)
            whole[: self._count] = patches
            patches = whole
        self._patches = patches  # OpenVINO reads this very memory
        self._request.start_async({0: patches}, share_inputs=True)

    def take(self) -> NDArray[np.float32]:
        """The logits, when they are there."""
        self._request.wait()
        return np.array(self._request.get_output_tensor(0).data[: self._count], np.float32)
