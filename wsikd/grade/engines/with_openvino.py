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


class OpenVinoEngine:
    """The network's graph, compiled for this processor."""

    name = "openvino"

    def __init__(self, network: Network, place: Place) -> None:
        """Compile the graph: a tenth of a second.

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
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,
        }
        core: Any = openvino.Core()
        compiled = core.compile_model(core.read_model(graph_of(network)), "CPU", settings)
        self._request = compiled.create_infer_request()

    def __call__(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits of uint8 (B, patch_px, patch_px, 3)."""
        found = self._request.infer({0: np.ascontiguousarray(patches)}, share_inputs=True)
        return np.array(found[0], np.float32)
