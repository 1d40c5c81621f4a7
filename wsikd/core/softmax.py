"""Probabilities of logits: the only softmax in NumPy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def softmax(
    logits: NDArray[Any],
    temperature: float | NDArray[np.float64] = 1.0,
    *,
    axis: int = -1,
    dtype: type[np.floating[Any]] = np.float64,
) -> NDArray[Any]:
    """Probabilities of logits over a temperature.

    Args:
        logits: any shape, or logarithms of probabilities.
        temperature: divides the logits; an array is broadcast over them.
        axis: axis of the classes.
        dtype: in which to compute.

    Returns:
        The same shape, of ``dtype``.
    """
    scaled = np.asarray(logits, dtype) / temperature
    powers = np.exp(scaled - scaled.max(axis, keepdims=True))
    return np.asarray(powers / powers.sum(axis, keepdims=True), dtype)
