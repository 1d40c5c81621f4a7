"""Where teacher and student look: class attention on the same patches, and its agreement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from wsikd.learn.data.patches import PatchSet
    from wsikd.models.graders.pooled import Grader

MAX_PATCHES = 256


@dataclass(frozen=True)
class AttentionPair:
    """Attention of two networks for the true class of one patch.

    Attributes:
        image: uint8 (side, side, 3), RGB.
        label: the true class.
        teacher: float32 (h, w) of the teacher's grid, 0 to 1.
        student: float32 (h', w') of the student's grid, 0 to 1.
        correlation: Pearson's, on the student's grid; NaN where a map is constant.
    """

    image: NDArray[np.uint8]
    label: int
    teacher: NDArray[np.float32]
    student: NDArray[np.float32]
    correlation: float


def compare_attention(
    teacher: Grader,
    student: Grader,
    patches: PatchSet,
    indices: NDArray[np.int64],
    *,
    factor: int,
    form: str = "relu_product",
    examples: int = 4,
    device: str = "cpu",
) -> tuple[float | None, list[AttentionPair]]:
    """Agreement of class attention at the deepest maps, and a few pairs to look at.

    The teacher's map comes to the student's grid by area averaging. At most 256 patches count,
    evenly drawn from ``indices``; the examples are spread over the classes.

    Args:
        teacher: reads the patches as they are.
        student: reads them ``factor`` times smaller.
        patches: patches at the teacher's resolution.
        indices: int64 (M,), M at least 1.
        factor: pixels that become one of the student's.
        form: reading of class attention, see ``losses.class_attention``.
        examples: how many pairs to return.
        device: where to compute.

    Returns:
        Mean correlation over the patches whose maps vary, None if none does; and the pairs in
        the order of their classes.
    """
    import torch

    from wsikd.learn.losses.maps import downsample, to_grid

    chosen = indices[np.linspace(0, len(indices) - 1, min(len(indices), MAX_PATCHES)).astype(int)]
    shown = set(_spread(patches.label[chosen], examples).tolist())
    teacher, student = teacher.to(device).eval(), student.to(device).eval()
    correlations: list[float] = []
    pairs = []
    with torch.inference_mode():
        for images, part in patches.batches(chosen, 16):
            label = torch.from_numpy(patches.label[part]).to(device)
            high = images.to(device)
            far = _attend(teacher, high, label, form)
            own = _attend(student, downsample(high, factor), label, form)
            near = to_grid(far[:, None], (own.shape[1], own.shape[2]))[:, 0]
            for i in range(len(part)):
                place, value = len(correlations), _correlation(near[i], own[i])
                correlations.append(value)
                if place in shown:
                    image = images[i].permute(1, 2, 0).contiguous().numpy()
                    maps = [_unit(m[i]) for m in (far, own)]
                    pairs.append(AttentionPair(image, int(label[i]), maps[0], maps[1], value))
    pairs.sort(key=lambda pair: pair.label)
    known = [v for v in correlations if np.isfinite(v)]
    return (float(np.mean(known)) if known else None), pairs


def _spread(label: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Places of ``count`` patches, one of each class in turn."""
    turn = np.zeros(len(label), np.int64)
    for c in np.unique(label):
        own = np.flatnonzero(label == c)
        turn[own] = np.arange(len(own))
    return np.lexsort((label, turn))[:count]


def _attend(net: Grader, x: Tensor, label: Tensor, form: str) -> Tensor:
    """Attention for each patch's own class: (B, h, w)."""
    from wsikd.learn.losses.maps import class_attention

    deepest = net.backbone.deepest
    _, taps = net.with_taps(x, [deepest])
    every = class_attention(taps[deepest].float(), net.head.weight, form)
    return every[range(len(label)), label]


def _correlation(a: Tensor, b: Tensor) -> float:
    x, y = (t.flatten().cpu().double().numpy() for t in (a, b))
    x, y = x - x.mean(), y - y.mean()
    norm = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum()) / norm if norm > 1e-12 else float("nan")


def _unit(attention: Tensor) -> NDArray[np.float32]:
    x = attention.float().cpu().numpy()
    return np.asarray((x - x.min()) / max(float(x.max() - x.min()), 1e-8), np.float32)
