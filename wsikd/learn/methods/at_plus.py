"""AT+ with feature matching: R. del Amor et al., EUSIPCO 2023, arXiv 2401.06010.

A frozen teacher reads the patch at high resolution, the student the same patch at low resolution.
Terms: ``ce`` (cross-entropy), ``fm`` (:func:`~wsikd.learn.losses.feature_matching` at the tap),
``at_plus`` (:func:`~wsikd.learn.losses.attention_distance` of
:func:`~wsikd.learn.losses.class_attention` over all classes). The authors publish the weights
fm 0.1 and at_plus 10 for a student at 2.5x.

Departures from the released code: the student may read its patches natively, where the code
enlarges them to the teacher's size; enlarging is half-pixel centred; the teacher's maps come down
to the student's grid by area averaging; attention is in closed form where the head allows it; roots
and the min-max have an epsilon; the teacher is frozen throughout; terms are summed outside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from wsikd.core.errors import ConfigError
from wsikd.learn.losses import (
    attention_distance,
    class_attention,
    class_attention_autograd,
    cross_entropy,
    feature_matching,
    to_grid,
)
from wsikd.learn.methods.base import Batch, Method, Progress

if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Self

    from torch import Tensor

    from wsikd.models.grader import Grader


class AtPlus(Method):
    """Terms ``ce``, ``fm`` and ``at_plus``."""

    views = ("high", "low")

    def __init__(
        self,
        student: Grader,
        teacher: Grader,
        *,
        form: str = "relu_product",
        tap: str | None = None,
        terms: Collection[str] = ("ce", "fm", "at_plus"),
    ) -> None:
        """Distil ``teacher``, which is frozen, into ``student``.

        Args:
            student: reads ``views["low"]``.
            teacher: reads ``views["high"]``.
            form: reading of class attention, see ``losses.class_attention``.
            tap: feature map of both; None: the deepest of each.
            terms: which to compute.

        Raises:
            ConfigError: a tap is unknown, or its channels differ and ``fm`` is asked for.
        """
        super().__init__()
        self.student = student
        self.teacher = teacher.requires_grad_(requires_grad=False).eval()
        self.form, self.terms = form, frozenset(terms)
        self.student_tap = tap or student.backbone.deepest
        self.teacher_tap = tap or teacher.backbone.deepest
        channels = []
        for net, name in ((student, self.student_tap), (teacher, self.teacher_tap)):
            if name not in net.backbone.taps:
                known = ", ".join(net.backbone.taps)
                raise ConfigError(f"attention.tap {name}", "no such tap", f"choose among {known}")
            channels.append(net.backbone.taps[name].channels)
        if "fm" in self.terms and channels[0] != channels[1]:
            raise ConfigError(
                "weights.fm",
                f"the student's {channels[0]} channels do not match the teacher's {channels[1]}",
                "use the same network and width, or set weights.fm to 0",
            )

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002 (torch's signature)
        """Set the student's mode; the teacher stays in eval."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        """Scalar terms; see the module's head."""
        logits, taps = self.student.with_taps(batch.views["low"], [self.student_tap])
        feature = taps[self.student_tap]
        found = {"ce": cross_entropy(logits, batch.label)}
        if not self.terms & {"fm", "at_plus"}:
            return found
        target, attended = self._teach(batch.views["high"], feature.shape[-2:])
        if "fm" in self.terms:
            found["fm"] = feature_matching(feature, target)
        if attended is not None:
            own = self._attention(self.student, logits, feature, self.student_tap)
            found["at_plus"] = attention_distance(own, attended)
        return found

    def _teach(self, patches: Tensor, size: torch.Size) -> tuple[Tensor, Tensor | None]:
        """The teacher's map, and its attention where asked for, on the student's grid."""
        closed = self.teacher_tap == self.teacher.backbone.deepest
        needs_slope = "at_plus" in self.terms and not closed
        attention = None
        with torch.set_grad_enabled(needs_slope):
            if needs_slope:  # frozen weights: the graph starts at the input
                patches = patches.float().requires_grad_()
            logits, taps = self.teacher.with_taps(patches, [self.teacher_tap])
            feature = taps[self.teacher_tap]
            if "at_plus" in self.terms:
                attention = self._attention(
                    self.teacher, logits, feature, self.teacher_tap, create_graph=False
                )
        grid = (size[0], size[1])
        if attention is not None:
            attention = to_grid(attention.detach(), grid)
        return to_grid(feature.detach(), grid), attention

    def _attention(
        self, net: Grader, logits: Tensor, feature: Tensor, tap: str, *, create_graph: bool = True
    ) -> Tensor:
        if tap == net.backbone.deepest and isinstance(net.head, nn.Linear):
            return class_attention(feature, net.head.weight, self.form)
        return class_attention_autograd(logits, feature, self.form, create_graph=create_graph)
