"""Mixup and CutMix of a batch, alike in every view.

The patches of a step are paired, and teacher and student are shown the same mixture: *function
matching* of L. Beyer et al., "Knowledge distillation: a good teacher is patient and consistent",
CVPR 2022. Its teacher answers for the mixture itself, so that no answer can be kept.

======  ==================================================  ======================================
kind    value                                               source
======  ==================================================  ======================================
mixup   l x_i + (1 - l) x_j, l from Beta(a, a)              H. Zhang et al., ICLR 2018, equation 1
cutmix  x_j in a box of sides W sqrt(1 - l) and             S. Yun et al., ICCV 2019, equations 1
        H sqrt(1 - l), x_i elsewhere; l is then the share   and 2, with l as in the released code
        of x_i that is left
======  ==================================================  ======================================

Terms on labels are l times the term of y_i plus (1 - l) times that of y_j.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from wsikd.learn.methods.base import Mixed
from wsikd.models.device import upload

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsikd.learn.data.augment import Chance
    from wsikd.learn.data.augment_settings import Mix

BLOCK = 8
"""Patches that are mixed among themselves. A process mixes its own patches as one process that has
the whole step does, if its share of the step is a multiple of this number."""


class Box(NamedTuple):
    """A box in pixels of the coarsest view: rows ``top`` to ``bottom``, the columns likewise."""

    top: int
    bottom: int
    left: int
    right: int


class Draw(NamedTuple):
    """How a step is mixed: l, and the box of cutmix; None for mixup."""

    share: float
    box: Box | None


def draw_mix(options: Mix, entropy: Sequence[int], sides: tuple[int, int]) -> Draw | None:
    """Draw one mixture for all patches of a step.

    Args:
        options: which kinds.
        entropy: seed of the run, epoch and step.
        sides: height and width of the coarsest view.

    Returns:
        None for a step that is not mixed.
    """
    rng = np.random.default_rng((*entropy, 2**21))
    unmixed, second, y, x = rng.random(4)
    if unmixed >= options.probability:
        return None
    cut = not options.mixup or (options.cutmix > 0 and second < 0.5)
    alpha = options.cutmix if cut else options.mixup
    share = float(rng.beta(alpha, alpha))
    if not cut:
        return Draw(share, None)
    height, width = sides
    (top, bottom), (left, right) = (
        _edges(place, side, (1 - share) ** 0.5) for place, side in ((y, height), (x, width))
    )
    area = (bottom - top) * (right - left)
    return Draw(1 - area / (height * width), Box(top, bottom, left, right))


def _edges(place: float, side: int, part: float) -> tuple[int, int]:
    """Start and end of ``part`` of a side, centred at ``place`` of it and clipped."""
    length, centre = int(side * part), int(side * place)
    return max(0, centre - length // 2), min(side, centre + length // 2)


def draw_partners(count: int, chance: Chance) -> Tensor:
    """The j of each patch i: a random permutation of every ``BLOCK`` of them, int64 (B,), CPU."""
    start = 0 if chance.part is None else chance.part.start
    block = (torch.arange(count) + start) // BLOCK
    return (block.double() + chance.rows(1, count)[0].double()).argsort(stable=True)


def mix(views: dict[str, Tensor], draw: Draw, partners: Tensor) -> tuple[dict[str, Tensor], Mixed]:
    """Mix all views alike.

    Args:
        views: float (B, K, H, W) each; sides are whole multiples of the coarsest view's.
        draw: of :func:`draw_mix`.
        partners: of :func:`draw_partners`.

    Returns:
        The mixed views, and what labels need.
    """
    coarsest = min(view.shape[-1] for view in views.values())
    device = next(iter(views.values())).device
    partners = upload(partners, device)
    made = {}
    for name, view in views.items():
        other, scale = view[partners], view.shape[-1] // coarsest
        if draw.box is None:
            made[name] = draw.share * view + (1 - draw.share) * other
            continue
        top, bottom, left, right = (scale * edge for edge in draw.box)
        made[name] = view.clone()
        made[name][..., top:bottom, left:right] = other[..., top:bottom, left:right]
    return made, Mixed(partners, draw.share)
