"""Fit a student's guard at the end of its training."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from wsikd.learn.score.predict_patches import predict
from wsikd.models.guard import ENOUGH, fit_guard

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsikd.learn.data.patches import PatchSet
    from wsikd.models.graders.pooled import Grader
    from wsikd.models.guard import Guard

logger = logging.getLogger(__name__)
LOOKED_AT = 2000
"""Fields of training, and of validation, at most; of every slide about as many."""


def student_guard(student: Grader, patches: PatchSet, *, mpp: float, device: str) -> Guard:
    """The guard of a student: fitted on training slides, its threshold on validation slides.

    Args:
        student: on ``device``, in eval mode.
        patches: that it was trained on and is judged by.
        mpp: that it reads.
        device: where it is.
    """
    found = {}
    for part in ("train", "val"):
        chosen = evenly(patches, patches.indices(part))
        features = predict(
            lambda x: student.with_features(x)[1], patches, chosen, mpp=mpp, device=device
        )
        found[part] = features, [patches.slide[i] for i in chosen]
    guard = fit_guard(*found["train"], *found["val"])
    if guard.weak:
        logger.warning(
            "the guard against slides unlike the training is weak: %d validation slide(s), it "
            "takes %d", guard.val_slides, ENOUGH,
        )  # fmt: skip
    return guard


def evenly(
    patches: PatchSet, indices: NDArray[np.int64], most: int = LOOKED_AT
) -> NDArray[np.int64]:
    """About as many patches of every slide, ``most`` or one a slide: int64 (M,)."""
    by_slide: dict[str, list[int]] = {}
    for index in indices.tolist():
        by_slide.setdefault(patches.slide[index], []).append(index)
    each = max(1, most // max(len(by_slide), 1))
    chosen: list[int] = []
    for own in by_slide.values():
        places = np.linspace(0, len(own) - 1, min(each, len(own))).round().astype(int)
        chosen += [own[i] for i in places]
    return np.array(chosen, np.int64)
