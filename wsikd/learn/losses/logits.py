"""Loss terms on logits: pure functions of tensors. Letters: B patches, C classes, T temperature."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

VARIANCE_EPS = 1e-12


def standardised(logits: Tensor) -> Tensor:
    """Logits of each patch brought to mean 0 and deviation 1 over the classes.

    S. Sun et al., "Logit standardization in knowledge distillation", CVPR 2024, algorithm 1
    without its temperature.

    Args:
        logits: float (B, C).

    Returns:
        (B, C); zeros where the logits of a patch are all equal.
    """
    centred = logits - logits.mean(1, keepdim=True)
    return centred / (centred.pow(2).mean(1, keepdim=True) + VARIANCE_EPS).sqrt()


def distillation(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 4.0,
    form: str = "hinton",
    standardise: bool = False,
) -> Tensor:
    """Knowledge distillation, the term ``kd``.

    ======  ===========================================  ====================================
    form    value                                        source
    ======  ===========================================  ====================================
    hinton  mean_b T^2 KL(softmax(z_t/T) || softmax(     G. Hinton et al., "Distilling the
            z_s/T))                                      knowledge in a neural network", 2015
    code    -mean_b sum_c softmax(z_t/T)_c               the released code of AT+, where T
            log softmax(z_s)_c                           touches the teacher only
    ======  ===========================================  ====================================

    ``code`` is a cross-entropy: it does not reach 0 for equal logits.

    Args:
        student: float (B, C), logits.
        teacher: float (B, C), logits; a constant.
        temperature: T.
        form: as above.
        standardise: pass both through :func:`standardised` first.

    Returns:
        Scalar.
    """
    teacher = teacher.detach()
    if standardise:
        student, teacher = standardised(student), standardised(teacher)
    if form == "code":
        target = functional.softmax(teacher / temperature, 1)
        return -(target * functional.log_softmax(student, 1)).sum(1).mean()
    if form == "hinton":
        own, target = (functional.log_softmax(z / temperature, 1) for z in (student, teacher))
        return temperature**2 * _divergence(target, own)
    raise ValueError(f"form {form!r} is neither 'hinton' nor 'code'")


def decoupled_distillation(
    student: Tensor,
    teacher: Tensor,
    label: Tensor,
    *,
    temperature: float = 4.0,
    alpha: float = 1.0,
    beta: float = 8.0,
) -> Tensor:
    """Decoupled knowledge distillation, the term ``dkd``: mean_b T^2 (alpha TCKD + beta NCKD).

    TCKD = KL(b_t || b_s) of b = (p_y, 1 - p_y), the label's class against the rest;
    NCKD = KL(q_t || q_s) of q, the softmax over the other classes. B. Zhao et al., "Decoupled
    knowledge distillation", CVPR 2022, equation 7, with the factor T^2 of their code.

    Args:
        student: float (B, C), logits.
        teacher: float (B, C), logits; a constant.
        label: int64 (B,), 0 to C - 1.
        temperature: T.
        alpha: weight of the label's class.
        beta: weight of the others.

    Returns:
        Scalar.
    """
    (own_target, own_rest), (target, rest) = (
        _decouple(z / temperature, label) for z in (student, teacher.detach())
    )
    parts = alpha * _divergence(target, own_target) + beta * _divergence(rest, own_rest)
    return temperature**2 * parts


def _decouple(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the label against the rest (B, 2), and within the rest (B, C - 1)."""
    rest = torch.arange(logits.shape[1] - 1, device=label.device)[None]
    others = logits.gather(1, rest + (rest >= label[:, None]))
    pair = torch.cat([logits.gather(1, label[:, None]), others.logsumexp(1, keepdim=True)], 1)
    return functional.log_softmax(pair, 1), functional.log_softmax(others, 1)


def _divergence(target: Tensor, own: Tensor) -> Tensor:
    """mean_b KL(target || own) of log-probabilities."""
    return functional.kl_div(own, target, reduction="batchmean", log_target=True)
