"""How good a grader is: agreement and recall."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.core.agreement import balanced_accuracy, confusion, kappa
from wsikd.core.classes import in_order
from wsikd.core.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from wsikd.learn.data.patches import PatchSet
    from wsikd.models.files.bundle import StudentBundle

__all__ = [
    "balanced_accuracy", "check_fit", "confusion",
    "evaluate_bundle", "f1_per_class", "predict", "quadratic_kappa", "summarise",
]  # fmt: skip

_NEARLY_WHOLE = 0.025


def quadratic_kappa(matrix: NDArray[np.int64]) -> float:
    """Cohen's kappa with quadratic weights; see ``wsikd.core.agreement.kappa``."""
    return kappa(matrix, quadratic=True)


def f1_per_class(matrix: NDArray[np.int64]) -> list[float]:
    """2 TP / (2 TP + FP + FN) of each class; 0 where it neither occurs nor is predicted."""
    both = matrix.sum(0) + matrix.sum(1)
    return [float(f) for f in 2 * np.diag(matrix) / np.maximum(both, 1)]


def summarise(
    matrix: NDArray[np.int64], classes: Sequence[str], *, ordered: bool | None = None
) -> dict[str, Any]:
    """Metrics of a confusion matrix as JSON values; undefined ones are None.

    ``kappa`` has quadratic weights where the classes are in order, else none: ``kappa_weights``.
    ``ordered`` None: found by their names.
    """
    quadratic = in_order(classes) if ordered is None else ordered
    count = int(matrix.sum())
    plain = float(np.trace(matrix) / count) if count else math.nan
    values = {
        "kappa": kappa(matrix, quadratic=quadratic),
        "balanced_accuracy": balanced_accuracy(matrix),
        "accuracy": plain,
    }
    return {
        **{k: v if math.isfinite(v) else None for k, v in values.items()},
        "kappa_weights": "quadratic" if quadratic else "none",
        "f1": dict(zip(classes, f1_per_class(matrix), strict=True)),
        "confusion": matrix.tolist(),
        "classes": list(classes),
        "patches": count,
    }


def predict(
    network: Callable[[Any], Any],
    patches: PatchSet,
    indices: NDArray[np.int64],
    *,
    mpp: float,
    batch_size: int = 64,
    device: str = "cpu",
) -> NDArray[np.float32]:
    """Logits of patches, brought to the network's resolution by area averaging.

    Args:
        network: float (B, 3, H, W) of 0 to 255 -> logits (B, C), on ``device``.
        patches: where they are.
        indices: which, int64 (M,).
        mpp: um per pixel that the network reads.
        batch_size: patches at a time.
        device: where the network is.

    Returns:
        float32 (M, C).
    """
    import torch

    from wsikd.learn.losses.maps import downsample

    parts = []
    with torch.inference_mode():
        for images, _ in patches.batches(indices, batch_size):
            low = downsample(images.to(device), factor(mpp / patches.mpp))
            low = low.contiguous(memory_format=torch.channels_last)
            parts.append(network(low).float().cpu().numpy())
    return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)


def factor(ratio: float) -> float:
    """The factor between two resolutions: a whole number, as in training, if it is nearly one."""
    whole = round(ratio)
    return float(whole) if whole and abs(ratio - whole) <= _NEARLY_WHOLE * ratio else ratio


def check_fit(bundle: StudentBundle, patches: PatchSet) -> None:
    """Refuse patches of other classes than a network's, or coarser ones. Raises DataError."""
    if tuple(patches.classes) != tuple(bundle.spec.classes):
        ours, theirs = ", ".join(patches.classes), ", ".join(bundle.spec.classes)
        raise DataError("data.classes", f"are {ours}; the network's are {theirs}", "set them alike")
    if patches.mpp > bundle.spec.mpp * 1.02:
        raise DataError(
            "data.mpp", f"{patches.mpp:g} is coarser than the network's {bundle.spec.mpp:g}",
            "read finer patches",
        )  # fmt: skip


def evaluate_bundle(
    bundle: StudentBundle,
    patches: PatchSet,
    *,
    split: str | None = None,
    batch_size: int = 64,
    device: str = "cpu",
) -> dict[str, Any]:
    """Score a bundle on labelled patches.

    Args:
        bundle: a student or teacher.
        patches: at the bundle's resolution or a finer one; the same classes in the same order.
        split: "train", "val" or "test"; None takes all.
        batch_size: patches at a time.
        device: where to compute.

    Returns:
        kappa, kappa_weights, balanced_accuracy, accuracy, f1, confusion, classes, patches.

    Raises:
        DataError: the classes differ, the patches are coarser, or there are none.
    """
    check_fit(bundle, patches)
    chosen = np.arange(len(patches)) if split is None else patches.indices(split)
    if not len(chosen):
        raise DataError("split", f"there are no {split} patches", "choose another split")
    network = bundle.network().to(device)
    logits = predict(
        network, patches, chosen, mpp=bundle.spec.mpp, batch_size=batch_size, device=device
    )
    matrix = confusion(patches.label[chosen], logits.argmax(1), len(patches.classes))
    return summarise(matrix, patches.classes, ordered=patches.ordered)
