"""Cross-entropy on labels: how every teacher is trained, and the student's baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from wsikd.learn.losses.maps import cross_entropy
from wsikd.learn.methods.base import Batch, Method, Progress

if TYPE_CHECKING:
    from typing import Self

    from torch import Tensor

    from wsikd.learn.methods.base import Terms
    from wsikd.models.graders.pooled import Grader


class Supervised(Method):
    """Term ``ce`` only."""

    TERMS: ClassVar[Terms] = {"ce": 1.0}
    takes_mixed = True

    def __init__(self, student: Grader) -> None:
        """Train ``student``."""
        super().__init__()
        self.student = student

    @classmethod
    def build(cls, config: Any, student: Grader, teacher: None) -> Self:
        """Around a student; nothing is set."""
        return cls(student)

    def taps_read(self) -> tuple[str, ...]:
        """None."""
        return ()

    def forward(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        """``ce``: cross-entropy of the student, scalar."""
        logits = self.student(batch.views["low"])
        return {"ce": batch.on_labels(lambda label: cross_entropy(logits, label))}
