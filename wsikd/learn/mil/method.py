"""Multiple-instance learning: a network over a bag of embeddings learns the slide's class.

The third stage of TS2G-KD and the slide level of HIPT and SLPD. Terms: ``ce``, cross-entropy of the
bag's logits; ``instance``, the network's own loss on instances where it has one (CLAM-SB, DSMIL).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsikd.learn.losses.maps import cross_entropy
from wsikd.learn.methods.base import Batch, Method, Progress
from wsikd.learn.mil.settings import TERMS, MilConfig
from wsikd.slides.what_is import BAGS, GRIDS

if TYPE_CHECKING:
    from typing import Self

    from torch import Tensor

    from wsikd.models.slide_level.mil import BagNetwork


class Mil(Method):
    """Trains ``student``, a network of ``wsikd.models.slide_level.mil``.

    A batch has the views "bag" float (B, N, D) and "mask" bool (B, N).
    """

    Config = MilConfig
    TERMS = TERMS
    views = ("bag", "mask")
    takes = (BAGS, GRIDS)
    task = "wsikd.learn.mil.train:BagTask"

    student: BagNetwork  # type: ignore[assignment]

    def __init__(self, student: BagNetwork, *, instance: bool) -> None:
        """With the term ``instance`` or without."""
        super().__init__()
        self.student, self.instance = student, instance

    @classmethod
    def build(cls, config: MilConfig, student: BagNetwork, teacher: None) -> Self:
        """With a loss on instances where its weight is not 0."""
        return cls(student, instance=config.weights["instance"] > 0)

    def forward(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        """``ce`` and, if asked for, ``instance``."""
        bag, mask = batch.views["bag"], batch.views["mask"]
        found = self.student(bag, mask)
        terms = {"ce": cross_entropy(found.logits, batch.label)}
        if self.instance:
            own = self.student.instance_loss(found, mask, batch.label)
            terms["instance"] = found.logits.sum() * 0 if own is None else own
        return terms

    def predict(self, batch: Batch) -> Tensor:
        """Logits (B, C)."""
        return self.student(batch.views["bag"], batch.views["mask"]).logits  # type: ignore[no-any-return]
