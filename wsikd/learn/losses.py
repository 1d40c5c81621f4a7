"""Loss terms and what they are made of: pure functions of tensors.

Letters: B patches, K channels, (h, w) grid of a feature map, C classes. AT+ is R. del Amor et al.,
"Attention to detail: inter-resolution knowledge distillation", EUSIPCO 2023, arXiv 2401.06010; its
body was read through the authors' released code, where the two may differ.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

EPS = 1e-8
FORMS = ("relu_product", "positive_grad", "gradcam")


def cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Mean over the batch of -log softmax(logits)[label].

    Args:
        logits: float (B, C).
        label: int64 (B,), 0 to C - 1.

    Returns:
        Scalar.
    """
    return functional.cross_entropy(logits, label)


def to_grid(feature: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring a map to another grid: down by area averaging, up bilinearly (half-pixel centres).

    Args:
        feature: float (B, K, h, w).
        size: (h', w').

    Returns:
        (B, K, h', w'); the very same tensor if the grid is the same already.
    """
    if tuple(feature.shape[-2:]) == tuple(size):
        return feature
    if feature.shape[-2] >= size[0] and feature.shape[-1] >= size[1]:
        return _area(feature, size)
    return functional.interpolate(feature, size=size, mode="bilinear", align_corners=False)


def _area(feature: Tensor, size: tuple[int, int]) -> Tensor:
    """Exact area average, also where the sides do not divide."""
    height, width = feature.shape[-2:]
    if height % size[0] == 0 and width % size[1] == 0:
        return functional.avg_pool2d(feature, (height // size[0], width // size[1]))
    rows = _overlap(height, size[0]).to(feature)
    columns = _overlap(width, size[1]).to(feature)
    return rows @ feature @ columns.T


def _overlap(old: int, new: int) -> Tensor:
    """(new, old): share of each old cell in the mean of each new one; rows sum to one."""
    step = old / new
    start = torch.arange(new, dtype=torch.float64)[:, None] * step
    cell = torch.arange(old, dtype=torch.float64)[None]
    shared = torch.minimum(start + step, cell + 1) - torch.maximum(start, cell)
    return shared.clamp(min=0) / step


def downsample(patches: Tensor, factor: float) -> Tensor:
    """The same tissue at a lower resolution, by area averaging.

    Args:
        patches: uint8 or float (B, 3, H, W), 0 to 255.
        factor: pixels that become one, along a side; H and W shrink to their rounded quotient.

    Returns:
        float32 (B, 3, H / factor, W / factor), not rounded to grey levels.
    """
    height, width = patches.shape[-2:]
    size = (max(1, round(height / factor)), max(1, round(width / factor)))
    return _area(patches.float(), size) if size != (height, width) else patches.float()


def feature_matching(student: Tensor, teacher: Tensor) -> Tensor:
    """Root mean squared difference of two feature maps, over the whole batch.

    sqrt(mean_{b,k,i,j} (F_s - F_t)^2), as in the released code; ``to_grid`` brings the teacher to
    the student's grid first. The teacher is a constant.

    Args:
        student: float (B, K, h, w).
        teacher: float (B, K, h, w).

    Returns:
        Scalar; its gradient is finite where the two are equal.
    """
    return _root((student - teacher.detach()).pow(2).mean())


def _root(mean_square: Tensor) -> Tensor:
    """sqrt, shifted so that it is 0 with a finite slope at 0."""
    return (mean_square + EPS**2).sqrt() - EPS


def class_attention(feature: Tensor, head: Tensor, form: str = "relu_product") -> Tensor:
    """Class attention of a network with global average pooling and a linear head, closed form.

    There alpha_k^c = mean_{ij} dz_c / dF_{kij} = W_ck / (h w) exactly, so no backward pass is
    needed and the gradient reaches both the map and the head.

    ==============  ==============================  =================================
    form            M_ijc                           source
    ==============  ==============================  =================================
    relu_product    sum_k ReLU(alpha_k^c F_kij)     the released code of AT+
    positive_grad   sum_k ReLU(alpha_k^c) F_kij     the wording of AT+'s abstract
    gradcam         ReLU(sum_k alpha_k^c F_kij)     Selvaraju et al. 2017, equation 2
    ==============  ==============================  =================================

    Args:
        feature: float (B, K, h, w), the map that is pooled.
        head: float (C, K), weights of the linear layer.
        form: one of ``FORMS``.

    Returns:
        (B, C, h, w).
    """
    weight = head / (feature.shape[-2] * feature.shape[-1])
    if form == "relu_product":  # ReLU(ab) = ReLU(a)ReLU(b) + ReLU(-a)ReLU(-b)
        return _channels(weight.relu(), feature.relu()) + _channels(
            (-weight).relu(), (-feature).relu()
        )
    if form == "positive_grad":
        return _channels(weight.relu(), feature)
    if form == "gradcam":
        return _channels(weight, feature).relu()
    raise ValueError(f"form {form!r} is not one of {FORMS}")


def _channels(weight: Tensor, feature: Tensor) -> Tensor:
    return torch.einsum("ck,bkij->bcij", weight, feature)


def class_attention_autograd(
    logits: Tensor, feature: Tensor, form: str = "relu_product", *, create_graph: bool = True
) -> Tensor:
    """Class attention at any map, by differentiating the logits; see :func:`class_attention`.

    Args:
        logits: float (B, C), computed from ``feature``.
        feature: float (B, K, h, w), part of that graph.
        form: one of ``FORMS``.
        create_graph: keep the graph of the gradient, so that the result can be trained on.

    Returns:
        (B, C, h, w).
    """
    maps = []
    for c in range(logits.shape[1]):
        (slope,) = torch.autograd.grad(
            logits[:, c].sum(), feature, retain_graph=True, create_graph=create_graph
        )
        alpha = slope.mean((2, 3), keepdim=True)
        if form == "relu_product":
            maps.append((alpha * feature).relu().sum(1))
        elif form == "positive_grad":
            maps.append((alpha.relu() * feature).sum(1))
        elif form == "gradcam":
            maps.append((alpha * feature).sum(1).relu())
        else:
            raise ValueError(f"form {form!r} is not one of {FORMS}")
    return torch.stack(maps, 1)


def normalise_minmax(attention: Tensor) -> Tensor:
    """Scale each patch's attention to 0 to 1, jointly over classes and places.

    M' = (M - min) / (max - min + eps), eps 1e-8; a constant map becomes 0.

    Args:
        attention: float (B, C, h, w).

    Returns:
        (B, C, h, w).
    """
    low = attention.amin((1, 2, 3), keepdim=True)
    span = attention.amax((1, 2, 3), keepdim=True) - low
    return (attention - low) / (span + EPS)


def attention_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """AT+ loss: mean_b sqrt(mean_{c,i,j} (M'_s - M'_t)^2) of normalised attention.

    Args:
        student: float (B, C, h, w), not yet normalised.
        teacher: float (B, C, h, w), on the student's grid, not yet normalised; a constant.

    Returns:
        Scalar, finite also for constant maps and for equal ones.
    """
    difference = normalise_minmax(student) - normalise_minmax(teacher.detach())
    return _root(difference.pow(2).mean((1, 2, 3))).mean()
