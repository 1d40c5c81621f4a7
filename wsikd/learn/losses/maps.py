"""Loss terms on labels, features and attention, and their parts: pure functions.

Terms on logits are in ``losses_logits``, terms on relations between patches in
``losses_relations``. Letters: B patches, K channels, (h, w) grid of a feature map, C classes. AT+
is R. del Amor et al., "Attention to detail: inter-resolution knowledge distillation", EUSIPCO 2023,
arXiv 2401.06010; its body was read through the authors' released code, where the two may differ.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable

from wsikd.models.device import upload

EPS = 1e-8
FORMS = ("relu_product", "positive_grad", "gradcam")
NORMALISATIONS = ("minmax", "softmax")
DISTANCES = ("l2", "kl", "bce")
SOFTMAX_TEMPERATURE = 0.01
PROBABILITY_EPS = 1e-4


def cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Mean over the batch of -log softmax(logits)[label].

    Args:
        logits: float (B, C).
        label: int64 (B,), 0 to C - 1.

    Returns:
        Scalar.
    """
    return functional.cross_entropy(logits, label)


def on_labelled(term: Callable[..., Tensor], label: Tensor, *given: Tensor) -> Tensor:
    """A term that is a mean over patches, of those with a label alone.

    The mean is over the labelled patches of all processes together, each of which sees its own
    part of the batch; see :func:`over_processes`.

    Args:
        term: of ``given`` and of labels, the first axis over patches; returns their mean.
        label: int64 (B,), -1 without a label.
        given: float (B, ...) each; the first depends on the student.

    Returns:
        Scalar; 0, with a slope of 0, where no patch of the batch has a label.
    """
    chosen = label >= 0
    count = chosen.sum().to(given[0].dtype)
    whole = over_processes(count)
    if not bool(count):
        return given[0].sum() * 0.0
    found = term(*(part[chosen] for part in given), label[chosen])
    return found * (count / whole)


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
    rows = _overlap(height, size[0], feature.dtype, feature.device)
    columns = _overlap(width, size[1], feature.dtype, feature.device)
    return rows @ feature @ columns.T


@lru_cache(maxsize=64)
def _overlap(old: int, new: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(new, old): share of each old cell in the mean of each new one; rows sum to one."""
    with torch.inference_mode(mode=False):  # it is kept, and used in training too
        step = old / new
        start = torch.arange(new, dtype=torch.float64)[:, None] * step
        cell = torch.arange(old, dtype=torch.float64)[None]
        shared = torch.minimum(start + step, cell + 1) - torch.maximum(start, cell)
        return upload((shared.clamp(min=0) / step).to(dtype), device)


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


def over_processes(mean: Tensor) -> Tensor:
    """Mean of a scalar over the processes of a training, equal batches in each.

    A root over the batch must be taken of this, since the mean of roots is not the root of the
    mean. The value is that of all processes, the slope that of this one's share: data parallelism
    averages the gradients, which gives the gradient of the whole batch.

    Args:
        mean: scalar, the mean over this process's part of the batch.

    Returns:
        Scalar; ``mean`` itself where there is one process.
    """
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return mean
    count = distributed.get_world_size()
    if count == 1:
        return mean
    whole = mean.detach().clone()
    distributed.all_reduce(whole)
    return mean + (whole / count - mean.detach())


def feature_matching(student: Tensor, teacher: Tensor) -> Tensor:
    """Root mean squared difference of two feature maps, over the whole batch.

    sqrt(mean_{b,k,i,j} (F_s - F_t)^2), as in the released code; ``to_grid`` brings the teacher to
    the student's grid first. The teacher is a constant. The mean is over the batches of all
    processes, see :func:`over_processes`.

    Args:
        student: float (B, K, h, w).
        teacher: float (B, K, h, w).

    Returns:
        Scalar; its gradient is finite where the two are equal.
    """
    return _root(over_processes((student - teacher.detach()).pow(2).mean()))


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """One minus the cosine between feature vectors, averaged over patches and places.

    1 - mean_{b,i,j} <F_s, F_t> / (|F_s| |F_t|), the product over channels. Lengths do not count, so
    that channels of different scale are compared by direction. The teacher is a constant.

    Args:
        student: float (B, K, h, w) or (B, K).
        teacher: of the same shape.

    Returns:
        Scalar, 0 to 2.
    """
    return 1 - functional.cosine_similarity(student, teacher.detach(), dim=1, eps=EPS).mean()


def classify(feature: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A linear classifier at every place: z_bcij = sum_k W_ck F_bkij + b_c.

    Args:
        feature: float (B, K, h, w) or (B, K).
        weight: float (C, K).
        bias: float (C,).

    Returns:
        (B, C, h, w) or (B, C).
    """
    if feature.ndim == 2:
        return functional.linear(feature, weight, bias)
    return functional.conv2d(feature, weight[:, :, None, None], bias)


def softmax_regression(student: Tensor, teacher: Tensor) -> Tensor:
    """Root mean squared difference of class scores, over the whole batch and all processes.

    sqrt(mean (z~ - z_t)^2), as in the released code of AT+, after the idea of J. Yang et al.,
    "Knowledge distillation via softmax regression representation learning", ICLR 2021. Two uses:

    * ``sr_last``: z~ = W_t F_s + b_t, the teacher's head on the student's pooled features; z_t are
      the teacher's logits.
    * ``sr_spatial``: z~ comes from an earlier tap of the student through two 1x1 convolutions; z_t
      is the teacher's head at every place of its map.

    Args:
        student: float (B, C) or (B, C, h, w).
        teacher: the teacher's, of the same shape; a constant.

    Returns:
        Scalar; its gradient is finite where the two are equal.
    """
    return feature_matching(student, teacher)


def _root(mean_square: Tensor) -> Tensor:
    """sqrt, shifted so that it is 0 with a finite slope at 0."""
    return (mean_square + EPS**2).sqrt() - EPS


def activation_attention(feature: Tensor, power: float = 2.0) -> Tensor:
    """Where a map is active: Q = vec(mean_k |F_k|^p) / ||vec(mean_k |F_k|^p)||_2.

    S. Zagoruyko and N. Komodakis, "Paying more attention to attention", ICLR 2017, section 3.1;
    the mean over channels in place of their sum cancels in the norm.

    Args:
        feature: float (B, K, h, w).
        power: p.

    Returns:
        (B, h w), each row of length 1, or 0 for a map of zeros.
    """
    energy = feature.pow(2) if power == 2 else (feature.pow(2) + EPS**2).pow(power / 2)
    flat = energy.mean(1).flatten(1)
    return flat / (flat.pow(2).sum(1, keepdim=True) + EPS**2).sqrt()


def activation_distance(
    student: Tensor, teacher: Tensor, *, form: str = "mean_square", power: float = 2.0
) -> Tensor:
    """Attention transfer at one tap; the sum over taps is the term ``at``.

    ===========  ========================================  ====================================
    form         value                                     source
    ===========  ========================================  ====================================
    mean_square  mean_{b,ij} (Q_s - Q_t)^2                 common practice, weight about 1000
    l2           mean_b 1/2 ||Q_s - Q_t||_2                Zagoruyko and Komodakis, equation 2
    ===========  ========================================  ====================================

    Args:
        student: float (B, K, h, w).
        teacher: float (B, K', h, w), channels may differ; a constant.
        form: as above.
        power: p of :func:`activation_attention`.

    Returns:
        Scalar; its gradient is finite where the two are equal.
    """
    difference = activation_attention(student, power) - activation_attention(
        teacher.detach(), power
    )
    if form == "mean_square":
        return difference.pow(2).mean()
    if form == "l2":
        return _root(difference.pow(2).sum(1)).mean() / 2
    raise ValueError(f"form {form!r} is neither 'mean_square' nor 'l2'")


def gradient_attention(slope: Tensor) -> Tensor:
    """Where a loss hangs on the input: Q = vec(sum_c |dL/dX_c|) / ||vec(sum_c |dL/dX_c|)||_2.

    Args:
        slope: float (B, 3, H, W), dL/dX; or (B, 1, H, W), its magnitude already summed.

    Returns:
        (B, H W), each row of length 1, or 0 where the slope is 0 everywhere.
    """
    most = slope.detach().abs().amax((1, 2, 3), keepdim=True)  # slopes may be as small as EPS
    slope = slope / most.clamp_min(torch.finfo(slope.dtype).tiny)
    flat = (slope.pow(2) + EPS**2).sqrt().sum(1).flatten(1) - EPS * slope.shape[1]
    return flat / (flat.pow(2).sum(1, keepdim=True) + EPS**2).sqrt()


def gradient_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Gradient attention transfer, the term ``at_grad``: mean_b 1/2 ||Q_s - Q_t||_2.

    S. Zagoruyko and N. Komodakis, ICLR 2017, equation 5, of maps J = dL/dX. Here they are brought
    to length 1, since inputs of two resolutions have slopes of two sizes.

    Args:
        student: float (B, 3, H, W), dL/dX of the student's input, with its graph.
        teacher: float (B, 1, H, W), sum_c |dL/dX_c| of the teacher's, on the student's grid; a
            constant.

    Returns:
        Scalar; its gradient is finite where the two are equal.
    """
    difference = gradient_attention(student) - gradient_attention(teacher.detach())
    return _root(difference.pow(2).sum(1)).mean() / 2


def class_attention(feature: Tensor, head: Tensor, form: str = "relu_product") -> Tensor:
    """Class attention of a network with global average pooling and a linear head, closed form.

    There alpha_k^c = mean_{ij} dz_c / dF_{kij} = W_ck / (h w) exactly, so no backward pass is
    required and the gradient reaches both the map and the head.

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


def normalise_softmax(attention: Tensor, temperature: float = SOFTMAX_TEMPERATURE) -> Tensor:
    """Each class's attention as a distribution over places: softmax_{ij}(M_c / temperature).

    Args:
        attention: float (B, C, h, w).
        temperature: the released code's 0.01.

    Returns:
        (B, C, h, w), each map with sum 1.
    """
    return (attention.flatten(2) / temperature).softmax(2).view_as(attention)


def attention_distance(
    student: Tensor, teacher: Tensor, *, normalise: str = "minmax", distance: str = "l2"
) -> Tensor:
    """AT+ loss on normalised attention M'.

    ========  ==========================================================================
    distance  value
    ========  ==========================================================================
    l2        mean_b sqrt(mean_{c,i,j} (M'_s - M'_t)^2)
    kl        mean_b KL(P_t || P_s), P = (M' + e) / sum_{c,i,j} (M' + e)
    bce       mean_{b,c,i,j} of the binary cross-entropy of M'_s under M'_t, less the
              entropy of M'_t, with M' squeezed into e to 1 - e
    ========  ==========================================================================

    e = 1e-4 bounds the slope where the student's attention is 0. Entropy is taken off so that
    equal maps give 0; it is a constant.

    Args:
        student: float (B, C, h, w), not yet normalised.
        teacher: float (B, C, h, w), on the student's grid, not yet normalised; a constant.
        normalise: "minmax" (:func:`normalise_minmax`) or "softmax" (:func:`normalise_softmax`).
        distance: as above.

    Returns:
        Scalar, finite also for constant maps and for equal ones.
    """
    if normalise not in NORMALISATIONS or distance not in DISTANCES:
        raise ValueError(f"{normalise!r}, {distance!r} not in {NORMALISATIONS}, {DISTANCES}")
    scale = normalise_minmax if normalise == "minmax" else normalise_softmax
    own, taught = scale(student), scale(teacher.detach())
    if distance == "l2":
        return _root((own - taught).pow(2).mean((1, 2, 3))).mean()
    if distance == "kl":
        own, taught = ((m + PROBABILITY_EPS).flatten(1) for m in (own, taught))
        own, taught = (m / m.sum(1, keepdim=True) for m in (own, taught))
        return (taught * (taught.log() - own.log())).sum(1).mean()
    own, taught = (PROBABILITY_EPS + (1 - 2 * PROBABILITY_EPS) * m for m in (own, taught))
    excess = taught * (taught / own).log() + (1 - taught) * ((1 - taught) / (1 - own)).log()
    return excess.mean()
