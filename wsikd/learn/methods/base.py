"""What a method is, and what it is given."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from typing import Self

    import torch
    from torch.nn import Parameter

    from wsikd.models.grader import Grader


@dataclass
class Batch:
    """Patches of one step.

    Attributes:
        views: "high" and "low", uint8 or float (B, 3, H, W) of 0 to 255, RGB. "low" is the area
            average of "high" after augmentation: the same tissue at the trained network's mpp.
        label: int64 (B,).
        slide: name of each patch's slide.
        box: int64 (B,), index of each patch in its data set.
    """

    views: dict[str, Tensor]
    label: Tensor
    slide: tuple[str, ...]
    box: Tensor

    def to(self, device: torch.device) -> Self:
        """The batch on a device."""
        views = {name: view.to(device, non_blocking=True) for name, view in self.views.items()}
        return replace(self, views=views, label=self.label.to(device, non_blocking=True))


@dataclass(frozen=True)
class Progress:
    """Where the training stands: counts from 0, of ``epochs`` and of ``steps`` an epoch."""

    epoch: int
    epochs: int
    step: int = 0
    steps: int = 1


class Method(nn.Module):
    """A way of training ``student``. The trainer weighs the terms, sums them and steps.

    ``forward`` must return the same names at every step. A frozen network inside a method stays
    in eval mode whatever the trainer sets.
    """

    student: Grader
    views: tuple[str, ...] = ("low",)

    def forward(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        """Unweighted scalar terms by name."""
        raise NotImplementedError

    def predict(self, batch: Batch) -> Tensor:
        """Logits (B, C) for validation."""
        return self.student(batch.views["low"])  # type: ignore[no-any-return]

    def after_step(self, at: Progress) -> None:
        """Called after every optimiser step; nothing by default."""

    def param_groups(self) -> list[dict[str, list[Parameter]]]:
        """What the optimiser trains."""
        return [{"params": [p for p in self.student.parameters() if p.requires_grad]}]
