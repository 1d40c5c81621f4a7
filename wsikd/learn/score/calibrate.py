"""How far a network's probabilities can be taken at their word.

C. Guo et al., "On calibration of modern neural networks", ICML 2017.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.core.softmax import softmax

if TYPE_CHECKING:
    from numpy.typing import NDArray

BINS = 15
RANGE = (0.05, 20.0)


def negative_log_likelihood(
    logits: NDArray[Any], truth: NDArray[np.int64], temperature: float = 1.0
) -> float:
    """Mean of -log softmax(logits / temperature)[truth].

    Args:
        logits: (N, C).
        truth: int64 (N,).
        temperature: divides the logits.
    """
    scaled = np.asarray(logits, np.float64) / temperature
    shifted = scaled - scaled.max(1, keepdims=True)
    chosen = np.take_along_axis(shifted, truth[:, None], 1)[:, 0]
    return float((np.log(np.exp(shifted).sum(1)) - chosen).mean())


def fit_temperature(logits: NDArray[Any], truth: NDArray[np.int64]) -> float:
    """The temperature of least negative log-likelihood (equation 9), within 0.05 to 20.

    Dividing logits by it changes no decision.

    Args:
        logits: (N, C), of patches that were not trained on.
        truth: int64 (N,).
    """
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        lambda power: negative_log_likelihood(logits, truth, float(np.exp(power))),
        bounds=tuple(np.log(RANGE)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(found.x))


def reliability(
    probability: NDArray[np.float64], truth: NDArray[np.int64], bins: int = BINS
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Patches, mean confidence and accuracy by equal bins of confidence.

    Args:
        probability: float64 (N, C).
        truth: int64 (N,).
        bins: how many between 0 and 1; each holds its upper edge.

    Returns:
        int64 (bins,) and twice float64 (bins,), NaN where a bin is empty.
    """
    confidence = probability.max(1)
    right = (probability.argmax(1) == truth).astype(np.float64)
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(place, v, bins) / count for v in (confidence, right)]
    return count, means[0], means[1]


def expected_calibration_error(
    probability: NDArray[np.float64], truth: NDArray[np.int64], bins: int = BINS
) -> float:
    """Mean of |accuracy - confidence| over patches by bin (equation 3): 0 to 1."""
    count, confidence, accuracy = reliability(probability, truth, bins)
    gap = np.abs(np.nan_to_num(accuracy - confidence))
    return float((count * gap).sum() / max(count.sum(), 1))


def calibration(
    logits: NDArray[Any], truth: NDArray[np.int64], temperature: float
) -> dict[str, float]:
    """ECE and negative log-likelihood before and after the temperature, as a record.

    Args:
        logits: (N, C).
        truth: int64 (N,).
        temperature: as :func:`fit_temperature` found it on validation patches.
    """
    record: dict[str, float] = {"temperature": temperature}
    for name, value in (("before", 1.0), ("after", temperature)):
        probability = softmax(logits, value)
        record[f"ece_{name}"] = expected_calibration_error(probability, truth)
        record[f"nll_{name}"] = negative_log_likelihood(logits, truth, value)
    return record
