"""The baseline of colour alone: the least that a network must beat.

Where slides differ in stain and each slide has one grade, a classifier can score well on colour
without having seen a gland.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.core.agreement import confusion, kappa

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsikd.learn.data.patches import PatchSet

BINS = 32
MAX_FITTED = 20_000
BATCH_BYTES = 2**24


def colour_histograms(patches: PatchSet, indices: NDArray[np.int64]) -> NDArray[np.float32]:
    """Square root of the share of pixels in 32 equal bins of each channel.

    Args:
        patches: where they are.
        indices: which, int64 (M,).

    Returns:
        float32 (M, 96), red first.
    """
    size = max(1, BATCH_BYTES // (3 * patches.patch_px**2))
    shift = np.arange(3, dtype=np.int32)[:, None, None] * BINS
    found = np.zeros((len(indices), 3 * BINS), np.float32)
    row = 0
    for images, _ in patches.batches(indices, size):
        for image in images.numpy():
            place = (image // (256 // BINS)) + shift
            count = np.bincount(place.ravel(), minlength=3 * BINS)
            found[row] = np.sqrt(count / patches.patch_px**2)
            row += 1
    return found


def fit_histograms(histograms: NDArray[np.float32], label: NDArray[np.int64]) -> Any:
    """Logistic regression on standardised histograms in which classes weigh equally.

    Args:
        histograms: float32 (N, 96), see :func:`colour_histograms`.
        label: int64 (N,), two classes at least.

    Returns:
        A fitted scikit-learn pipeline.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=0.1, max_iter=500, class_weight="balanced")
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the last digits do not matter
        return model.fit(histograms, label)


def histogram_baseline(
    patches: PatchSet, train: NDArray[np.int64], test: NDArray[np.int64]
) -> NDArray[np.float64] | None:
    """Class probabilities that logistic regression on colour histograms gives.

    Classes weigh equally; at most 20 000 training patches count.

    Args:
        patches: where they are.
        train: indices to fit on.
        test: indices to predict.

    Returns:
        float64 (M, C); None where the training patches have fewer than two classes.
    """
    if len(train) > MAX_FITTED:
        train = np.sort(np.random.default_rng(0).choice(train, MAX_FITTED, replace=False))
    known = patches.label[train]
    if len(np.unique(known)) < 2:
        return None
    model = fit_histograms(colour_histograms(patches, train), known)
    found = np.zeros((len(test), len(patches.classes)))
    if len(test):
        found[:, model.classes_] = model.predict_proba(colour_histograms(patches, test))
    return found


def histogram_kappa(
    patches: PatchSet, train: NDArray[np.int64], test: NDArray[np.int64]
) -> float | None:
    """Quadratic kappa of :func:`histogram_baseline`. A network below it has learnt the stain.

    At most 20 000 patches of each part count.

    Args:
        patches: where they are.
        train: indices to fit on.
        test: indices to score on.

    Returns:
        Kappa; None where it is undefined.
    """
    if len(test) > MAX_FITTED:
        test = np.sort(np.random.default_rng(0).choice(test, MAX_FITTED, replace=False))
    found = histogram_baseline(patches, train, test) if len(test) else None
    if found is None:
        return None
    counts = confusion(patches.label[test], found.argmax(1), len(patches.classes))
    reached = kappa(counts, quadratic=True)
    return reached if math.isfinite(reached) else None
