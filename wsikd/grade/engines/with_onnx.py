"""ONNX Runtime on the CPU, in full precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wsikd.core.errors import ConfigError
from wsikd.grade.engines.graph import INPUT, graph_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsikd.grade.engines import Network, Place


class OnnxEngine:
    """The network's graph in an ONNX Runtime session."""

    name = "onnx"
    precision = "fp32"
    cpu_only = True

    def __init__(self, network: Network, place: Place) -> None:
        """Make the session.

        Raises:
            ConfigError: another device or precision is asked for, ONNX Runtime is not installed,
                or the network cannot be written as a graph.
        """
        try:
            import onnxruntime
        except ImportError:
            raise ConfigError(
                "--engine onnx", "ONNX Runtime is not installed", "pip install onnxruntime"
            ) from None
        if place.precision != "fp32":
            raise ConfigError(
                f"--precision {place.precision}", "--engine onnx computes in fp32", "give fp32"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = place.threads
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            graph_of(network), options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits of uint8 (B, patch_px, patch_px, 3)."""
        return np.asarray(self._session.run(None, {INPUT: patches})[0], np.float32)
