"""Loss terms on relations between the patches of a batch: pure functions of tensors.

Channels, grids and scales of teacher and student may differ. In a training on several processes
each compares the patches of its own part of the batch. Letters: B patches, K features.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from wsikd.models.device import upload

EPS = 1e-8


def similarity_preserving(student: Tensor, teacher: Tensor) -> Tensor:
    """Similarity-preserving distillation, the term ``sp``: 1/B^2 ||G_s - G_t||_F^2.

    G is Q Q^T, Q the flattened maps (B, K h w), each of its rows divided by its L2 norm. F. Tung
    and G. Mori, "Similarity-preserving knowledge distillation", ICCV 2019, equations 2 to 4.

    Args:
        student: float (B, ...).
        teacher: float (B, ...); a constant.

    Returns:
        Scalar, 0 for a single patch.
    """
    own, target = (_similarity(x) for x in (student, teacher.detach()))
    return (own - target).pow(2).mean()


def _similarity(feature: Tensor) -> Tensor:
    flat = feature.flatten(1)
    gram = flat @ flat.T
    return gram / (gram.pow(2).sum(1, keepdim=True) + EPS**2).sqrt()


def relational_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Relational distillation by distances, the term ``rkd_distance``.

    Mean over ordered pairs i != j of Huber(psi_s, psi_t), psi = ||x_i - x_j||_2 / mu, mu the mean
    distance of the batch. W. Park et al., "Relational knowledge distillation", CVPR 2019,
    equations 4 to 7; their sum over pairs is a mean here.

    Args:
        student: float (B, K), pooled features.
        teacher: float (B, K'); a constant.

    Returns:
        Scalar, 0 for a single patch.
    """
    if len(student) < 2:
        return student.sum() * 0
    pairs = _different(len(student), 2, student.device)
    own, target = (_distances(x).flatten()[pairs] for x in (student, teacher.detach()))
    own, target = (d / (d.mean() + EPS) for d in (own, target))
    return functional.smooth_l1_loss(own, target)


def relational_angle(student: Tensor, teacher: Tensor) -> Tensor:
    """Relational distillation by angles, the term ``rkd_angle``.

    Mean over triplets of different i, j, k of Huber(cos_s, cos_t), the cosine of the angle at j
    between x_i - x_j and x_k - x_j. Park et al. 2019, equations 8 and 9; their sum is a mean here.
    Memory grows with B^3.

    Args:
        student: float (B, K), pooled features.
        teacher: float (B, K'); a constant.

    Returns:
        Scalar, 0 for fewer than three patches.
    """
    if len(student) < 3:
        return student.sum() * 0
    triplets = _different(len(student), 3, student.device)
    own, target = (_cosines(x).flatten()[triplets] for x in (student, teacher.detach()))
    return functional.smooth_l1_loss(own, target)


@lru_cache(maxsize=4)
def _different(count: int, places: int, device: torch.device) -> Tensor:
    """Flat indices of all pairs, or triplets, of different patches, in order: int64 (n,).

    A GPU that had to find them in a mask would make the host wait for their number.
    """
    with torch.inference_mode(mode=False):  # it is kept, and used in training too
        same = np.eye(count, dtype=bool)
        if places == 3:
            same = same[:, :, None] | same[:, None, :] | same[None]
        return upload(torch.from_numpy(np.flatnonzero(~same)), device)


def _distances(x: Tensor) -> Tensor:
    """(B, K) -> (B, B) Euclidean distances, with a finite slope at 0."""
    return ((x[:, None] - x[None]).pow(2).sum(2) + EPS**2).sqrt()


def _cosines(x: Tensor) -> Tensor:
    """(B, K) -> (B, B, B): [j, i, k] is the cosine at j between i and k."""
    edge = x[None] - x[:, None]
    edge = edge / (edge.pow(2).sum(2, keepdim=True) + EPS**2).sqrt()
    return edge @ edge.transpose(1, 2)
