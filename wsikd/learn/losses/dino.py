"""Self-distillation between views, and distillation of prototypes. Pure functions of tensors.

V views of B samples have M scores each. ``H(q, p) = -sum_m q_m log p_m``; a target is
``q = softmax((t - c) / tau_t)`` with the centre c, a student's view ``p = softmax(s / tau_s)``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """At least single precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def sharpened(teacher: Tensor, centre: Tensor, temperature: float) -> Tensor:
    """Targets ``softmax((t - c) / tau_t)``: float (..., M) and centre (M,) -> the same shape."""
    return functional.softmax((wide(teacher) - centre) / temperature, dim=-1)


def cross(target: Tensor, student: Tensor, temperature: float) -> Tensor:
    """``H(target, softmax(student / tau_s))`` over the last axis, shapes as they broadcast.

    A target may be a sum of distributions: it counts as often as it has mass.
    """
    scaled = wide(student) / temperature
    return torch.logsumexp(scaled, -1) * target.sum(-1) - (target * scaled).sum(-1)


def dino_loss(
    student: Sequence[Tensor],
    teacher: Tensor,
    centre: Tensor,
    *,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.04,
) -> Tensor:
    """Mean of H(teacher's view g, student's view v) over g, v other than g, and samples.

    Caron et al. 2021, equation 3; the student's first views are the teacher's.

    Args:
        student: scores by groups of views, (V_i, B, M) each, the global views first.
        teacher: constant scores of the G global views, (G, B, M).
        centre: (M,), subtracted from the teacher's scores.
        student_temperature: tau_s.
        teacher_temperature: tau_t.

    Returns:
        A scalar.
    """
    targets = sharpened(teacher, centre, teacher_temperature)
    every = targets.sum(0)
    views = len(teacher)
    found, pairs = targets.new_zeros(()), 0
    for number, group in enumerate(student):
        # all targets of a view at once: H is linear in them
        wanted = every - targets if number == 0 else every
        found = found + cross(wanted, group, student_temperature).sum()
        pairs += len(group) * (views - 1 if number == 0 else views)
    return found / (pairs * teacher.shape[1])


def prototype_loss(
    student: Sequence[Tensor],
    targets: Tensor,
    keep: Tensor,
    *,
    count: Tensor | float | None = None,
    student_temperature: float = 0.1,
    skip_first_view: bool = False,
) -> Tensor:
    """Mean of H(target of a sample's prototype, student's view) over views and kept samples.

    Yu et al. 2023, equations 3 and 4.

    Args:
        student: scores by groups of views, (V_i, B, M) each.
        targets: constant distributions (T, B, M), T of them for a sample, e.g. one for each
            neighbouring slide.
        keep: bool (T, B), the samples that have such a target.
        count: what the sum over kept samples is divided by; None: their number. Several processes
            give the mean of theirs, so that the mean of the losses is that of all samples.
        student_temperature: tau_s.
        skip_first_view: the target of number t leaves out the student's view t, as the released
            code does; by default every view counts.

    Returns:
        A scalar; 0, with gradients of 0, where nothing is kept.
    """
    kept = keep.to(torch.float32)
    total = kept.sum() if count is None else torch.as_tensor(count, device=kept.device)
    parts = targets * kept[..., None]
    mass = parts.sum(0)  # (B, M)
    found, views = mass.new_zeros(()), 0
    for group in student:
        wanted = mass
        if skip_first_view and views < len(parts):
            own = [views + v for v in range(len(group))]
            wanted = torch.stack([mass - parts[v] if v < len(parts) else mass for v in own])
        found = found + cross(wanted, group, student_temperature).sum()
        views += len(group)
    return found / ((views - skip_first_view) * total.clamp_min(1e-12))


def moved_centre(centre: Tensor, total: Tensor, count: Tensor, momentum: float = 0.9) -> Tensor:
    """``m c + (1 - m) total / count``; the centre as it was where nothing is counted.

    Args:
        centre: (M,).
        total: (M,), sum of the teacher's scores, over all processes.
        count: scalar, how many were summed, over all processes.
        momentum: m.
    """
    mean = total / count.clamp_min(1)
    return torch.where(count > 0, momentum * centre + (1 - momentum) * mean, centre)


def summed(values: Tensor) -> Tensor:
    """The sum over the processes that train together; with one process, the value itself."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        values = values.clone()
        torch.distributed.all_reduce(values)
    return values
