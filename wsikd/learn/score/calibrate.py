"""How far a network's probabilities can be taken at their word.

C. Guo et al., "On calibration of modern neural networks", ICML 2017; by class: M. Kull et al.,
"Beyond temperature scaling", NeurIPS 2019. Fields of one slide are alike, so every slide weighs the
same.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.core.softmax import softmax

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

logger = logging.getLogger(__name__)
BINS = 15
RANGE = (0.05, 20.0)
FEW_SLIDES = 10
"""Below so many slides a temperature does not make probabilities more certain."""
_FOLDS = 5
_NEAR = 1e-3


def negative_log_likelihood(
    logits: NDArray[Any],
    truth: NDArray[np.int64],
    temperature: float = 1.0,
    weight: NDArray[np.float64] | None = None,
) -> float:
    """Mean of -log softmax(logits / temperature)[truth].

    Args:
        logits: (N, C).
        truth: int64 (N,).
        temperature: divides the logits.
        weight: float64 (N,), of sum 1; all alike by default.
    """
    scaled = np.asarray(logits, np.float64) / temperature
    shifted = scaled - scaled.max(1, keepdims=True)
    chosen = np.take_along_axis(shifted, truth[:, None], 1)[:, 0]
    lost = np.log(np.exp(shifted).sum(1)) - chosen
    return float(lost.mean() if weight is None else lost @ weight)


def slide_weights(slides: Sequence[str]) -> NDArray[np.float64]:
    """Weights of fields (N,), of sum 1, with which every slide weighs the same."""
    _, slide, count = np.unique(np.asarray(slides), return_inverse=True, return_counts=True)
    return np.asarray(1 / (count[slide] * len(count)))


def fit_temperature(
    logits: NDArray[Any], truth: NDArray[np.int64], slides: Sequence[str]
) -> float | None:
    """The temperature of least negative log-likelihood (equation 9), within 0.05 to 20.

    Dividing logits by it changes no decision. On fewer than ten slides it is at least 1: so few
    do not show that the network is surer than it says.

    Args:
        logits: (N, C), of patches that were not trained on.
        truth: int64 (N,).
        slides: slide of each, (N,).

    Returns:
        None, and a warning, where the best lies at an end of the range: the patches do not
        determine it.
    """
    from scipy.optimize import minimize_scalar

    weight, few = slide_weights(slides), len(set(slides)) < FEW_SLIDES
    low, high = np.log((1.0 if few else RANGE[0], RANGE[1]))
    found = minimize_scalar(
        lambda power: negative_log_likelihood(logits, truth, float(np.exp(power)), weight),
        bounds=(low, high),
        method="bounded",
        options={"xatol": 1e-6},
    ).x
    if found < low + _NEAR and few:
        return 1.0
    if not low + _NEAR <= found <= high - _NEAR:
        logger.warning(
            "no temperature: the best on validation lies at the end of its range, %.3g; the "
            "probabilities stay as they are, uncalibrated", np.exp(found),
        )  # fmt: skip
        return None
    return float(np.exp(found))


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
    probability: NDArray[np.float64],
    truth: NDArray[np.int64],
    bins: int = BINS,
    weight: NDArray[np.float64] | None = None,
) -> float:
    """Mean of |accuracy - confidence| over patches by bin (equation 3): 0 to 1."""
    right = probability.argmax(1) == truth
    return _binned(probability.max(1), right, bins, weight)


def classwise_error(
    probability: NDArray[np.float64],
    truth: NDArray[np.int64],
    bins: int = BINS,
    weight: NDArray[np.float64] | None = None,
) -> list[float]:
    """Mean of |frequency - probability| of each class, over patches by bin (Kull et al.)."""
    classes = range(probability.shape[1])
    return [_binned(probability[:, c], truth == c, bins, weight) for c in classes]


def _binned(
    said: NDArray[np.float64],
    true: NDArray[np.bool_],
    bins: int,
    weight: NDArray[np.float64] | None,
) -> float:
    weight = np.full(len(said), 1 / max(len(said), 1)) if weight is None else weight
    place = np.clip(np.ceil(said * bins).astype(np.int64) - 1, 0, bins - 1)
    return float(np.abs(np.bincount(place, weight * (true - said), bins)).sum())


def calibration(
    logits: NDArray[Any],
    truth: NDArray[np.int64],
    temperature: float,
    slides: Sequence[str],
    *,
    cross_fit: bool,
) -> dict[str, Any]:
    """Errors of the probabilities before and after the temperature, as a record.

    Args:
        logits: (N, C).
        truth: int64 (N,).
        temperature: as :func:`fit_temperature` found it on validation patches.
        slides: slide of each, (N,).
        cross_fit: it was found on these very patches. What is then reported for "after" has for
            each slide a temperature that was found on others.

    Returns:
        ``temperature``; ``ece``, ``nll`` and ``ece_by_class``, each ``_before`` and ``_after``
        (None where a single slide leaves no others); ``cross_fitted``.
    """
    weight = slide_weights(slides)
    record: dict[str, Any] = {"temperature": temperature, "cross_fitted": cross_fit}
    own = _cross_fitted(truth, logits, slides) if cross_fit else np.asarray(logits) / temperature
    for name, scaled in (("before", np.asarray(logits)), ("after", own)):
        if scaled is None:
            record |= {f"{k}_{name}": None for k in ("ece", "nll", "ece_by_class")}
            continue
        probability = softmax(scaled)
        record |= {
            f"ece_{name}": expected_calibration_error(probability, truth, weight=weight),
            f"nll_{name}": negative_log_likelihood(scaled, truth, weight=weight),
            f"ece_by_class_{name}": classwise_error(probability, truth, weight=weight),
        }
    return record


def _cross_fitted(
    truth: NDArray[np.int64], logits: NDArray[Any], slides: Sequence[str]
) -> NDArray[np.float64] | None:
    """Logits, each divided by the temperature of other slides."""
    names, slide = np.unique(np.asarray(slides), return_inverse=True)
    if len(names) < 2:
        return None
    fold = slide % min(_FOLDS, len(names))
    found = np.array(logits, np.float64)
    for f in range(int(fold.max()) + 1):
        others = fold != f
        own = fit_temperature(logits[others], truth[others], np.asarray(slides)[others].tolist())
        found[~others] /= own or 1.0
    return found
