"""TS2G-KD, second stage: an adapter on a frozen trunk learns a foundation model's embeddings.

Terms, for the adapter's output v and the stored target t of a patch, both (B, D):

==========  ========================================
``mae``     mean over patches and numbers of ``|v - t|``
``mse``     mean over patches and numbers of ``(v - t)^2``
``cosine``  mean over patches of 1 - cos(v, t)
==========  ========================================

Departures from the released code: the first two are means, where it sums over numbers and doubles,
which under Adam only moves the weight decay; targets belong to the very field that the student
sees, where it crops and rescales the student's view alone; and the student may read a lower
magnification than the teacher did.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.nn import functional

from wsikd.learn.methods.base import Batch, Method, Progress
from wsikd.learn.ts2g.adapter_settings import TERMS, Ts2gConfig

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from torch import Tensor
    from torch.nn import Parameter

    from wsikd.models.encoders.base import Encoder


def embedding_terms(found: Tensor, target: Tensor) -> dict[str, Tensor]:
    """All terms for embeddings (B, D) and their targets (B, D): scalars by name."""
    return {
        "mae": functional.l1_loss(found, target),
        "mse": functional.mse_loss(found, target),
        "cosine": 1 - functional.cosine_similarity(found, target).mean(),
    }


class Ts2g(Method):
    """Trains the adapter of ``student``, an encoder whose network is an ``Embedder``."""

    Config = Ts2gConfig
    TERMS = TERMS
    task = "wsikd.learn.ts2g.adapter_train:EmbedTask"

    student: Encoder  # type: ignore[assignment]
    targets: Tensor

    def __init__(self, student: Encoder, targets: Tensor, terms: Sequence[str]) -> None:
        """``targets`` float32 (N, D), by index of the patch, as the adapter is to give them."""
        super().__init__()
        self.student, self.terms = student, tuple(terms)
        self.register_buffer("targets", targets, persistent=False)

    @classmethod
    def build(cls, config: Ts2gConfig, student: Encoder, teacher: Tensor) -> Self:
        """``teacher`` is what it says of the patches: embeddings float32 (N, D)."""
        return cls(student, teacher, list(config.weights))

    def forward(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        """The terms that were asked for."""
        target = self.targets[batch.box.to(self.targets.device)]
        found = embedding_terms(self.predict(batch), target)
        return {name: found[name] for name in self.terms}

    def predict(self, batch: Batch) -> Tensor:
        """What the adapter gives, in the scale of the targets: (B, D)."""
        student = self.student
        return student.network.standardised(student.normalise(batch.views["low"]))  # type: ignore[operator,no-any-return]

    def param_groups(self) -> list[dict[str, list[Parameter]]]:
        """The adapter alone."""
        return [{"params": [p for p in self.student.parameters() if p.requires_grad]}]
