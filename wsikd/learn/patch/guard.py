"""Fit a student's guard at the end of its training."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from wsikd.learn.losses.maps import downsample
from wsikd.learn.score.predict_patches import factor
from wsikd.models.guard import ENOUGH, Sample, fit_guard
from wsikd.slides.altered import blurred, compressed, from_coarser, stained
from wsikd.slides.texture import look

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from wsikd.learn.data.patches import PatchSet
    from wsikd.models.files.bundle import InputSpec
    from wsikd.models.guard import Guard

    Image = NDArray[np.uint8]

logger = logging.getLogger(__name__)
LOOKED_AT, ALTERED = 2000, 240
"""Fields of training, and of validation, at most; of those that are altered. Of every slide about
as many. Larger fields than ``FULL_PX`` count by their area: a network at 10x takes no longer.
"""
FULL_PX = 128
BLUR_UM, QUALITY, LEVEL_QUALITY = 1.0, 30, 80
STAINS = ((1.25, 1.0, 0.75), (0.75, 1.0, 1.25), (1.0, 1.15, 1.0), (1.0, 0.85, 1.0))
"""Gains of the optical density in red, green and blue."""
_BATCH = 64


def student_guard(patches: PatchSet, spec: InputSpec) -> Guard:
    """The guard of a student: fitted on training slides, its threshold on validation slides too.

    Args:
        patches: patches that it was trained on and is scored on.
        spec: what it reads.
    """
    of = partial(field_numbers, patches, mpp=spec.mpp, colour=spec.colour == "rgb")
    looked_at, altered = (round(n * min(1, FULL_PX / spec.patch_px) ** 2)
                          for n in (LOOKED_AT, ALTERED))  # fmt: skip
    train, val = (of(evenly(patches, patches.indices(p), looked_at)) for p in ("train", "val"))
    chosen = evenly(patches, patches.indices("train"), altered)
    plain = of(chosen, every=True).numbers
    changes = alterations(patches.mpp)
    added = [of(chosen, every=True, change=change).numbers - plain for change in changes]
    slides = [patches.slide[i] for i in chosen] * len(changes)
    guard = fit_guard(
        train, val, Sample(np.concatenate(added), slides), copies=len(changes),
        colour=spec.colour == "rgb",
    )  # fmt: skip
    if guard.weak:
        logger.warning(
            "the guard against slides unlike the training is weak: %d validation slide(s), it "
            "takes %d", guard.val_slides, ENOUGH,
        )  # fmt: skip
    return guard


def alterations(mpp: float) -> tuple[Callable[[Image], Image], ...]:
    """What a guard is not to take for another tissue: slight blur, another stain, compression.

    The last is how patches of a store, reduced, differ from a slide's coarser level.

    Args:
        mpp: um per pixel of the patches.
    """
    return (
        partial(blurred, sigma_px=BLUR_UM / mpp),
        *(partial(stained, gains=gains) for gains in STAINS),
        partial(compressed, quality=QUALITY),
        partial(from_coarser, quality=LEVEL_QUALITY),
    )


def field_numbers(
    patches: PatchSet,
    indices: NDArray[np.int64],
    *,
    mpp: float,
    colour: bool,
    every: bool = False,
    change: Callable[[Image], Image] | None = None,
) -> Sample:
    """What patches look like at the student's resolution.

    Args:
        patches: where they are.
        indices: which, int64 (M,).
        mpp: mpp of the student.
        colour: see :func:`wsikd.slides.texture.texture`.
        every: also those with little tissue.
        change: what is done to each first, uint8 (H, W, 3).
    """
    rows, shares = [np.zeros((0, 0))], [np.zeros(0)]
    for images, _ in patches.batches(indices, _BATCH):
        if change is not None:
            pixels = np.ascontiguousarray(images.numpy().transpose(0, 2, 3, 1))
            changed = np.stack([change(image) for image in pixels])
            images = torch.from_numpy(changed.transpose(0, 3, 1, 2))
        ratio = factor(mpp / patches.mpp)
        if ratio != 1:
            images = downsample(images, ratio).round().clamp(0, 255).byte()
        seen = images.permute(0, 2, 3, 1).contiguous().numpy()
        numbers, share = look(seen, colour=colour)
        rows.append(numbers)
        shares.append(share)
    found = Sample(np.concatenate(rows[1:] or rows), [patches.slide[i] for i in indices])
    return found if every else found.with_tissue(np.concatenate(shares))


def evenly(patches: PatchSet, indices: NDArray[np.int64], most: int) -> NDArray[np.int64]:
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
