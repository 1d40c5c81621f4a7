"""What a method is, and what it is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch.nn import Parameter

    from wsikd.models.graders.pooled import Grader

_TURNS = torch.tensor([1, 2, 4])


class Taught(NamedTuple):
    """What a frozen teacher says of a batch: constants.

    Attributes:
        logits: float (B, C).
        taps: name -> (B, K, h, w).
        attention: class attention (B, C, h, w), None where nobody asked for it.
    """

    logits: Tensor
    taps: dict[str, Tensor]
    attention: Tensor | None

    def to(self, device: torch.device) -> Taught:
        """The same on a device."""
        attention = None if self.attention is None else self.attention.to(device)
        taps = {name: tap.to(device) for name, tap in self.taps.items()}
        return Taught(self.logits.to(device), taps, attention)


@dataclass(frozen=True)
class Targets:
    """A frozen teacher's answers for N patches in V views, asked once and kept.

    Attributes:
        place: row of each patch's index.
        tables: "logits" (V, N, C), "tap NAME" (V, N, K, h, w), "attention" (V, N, C, h, w) where
            it was asked for; float32.
    """

    place: dict[int, int]
    tables: dict[str, list[NDArray[np.float32]]]

    def of(self, indices: NDArray[np.int64], turns: Tensor) -> Taught:
        """What the teacher says.

        Args:
            indices: int64 (B,), of the patches.
            turns: bool (3, B), of ``augment.draw_turns``.
        """
        view = (turns.cpu() * _TURNS[:, None]).sum(0).tolist()
        cells = [(v, self.place[int(i)]) for v, i in zip(view, indices, strict=True)]
        found = {
            name: torch.from_numpy(np.stack([table[v][row] for v, row in cells]))
            for name, table in self.tables.items()
        }
        taps = {k.removeprefix("tap "): v for k, v in found.items() if k.startswith("tap ")}
        return Taught(found["logits"], taps, found.get("attention"))


class Batch:
    """Patches of one step. No dataclass, so that Fabric and DDP hand it on untouched.

    Attributes:
        views: "high" and "low", uint8 or float (B, 3, H, W) of 0 to 255, RGB. "low" is the area
            average of "high" after augmentation: the same tissue at the trained network's mpp.
        label: int64 (B,).
        slide: name of each patch's slide.
        box: int64 (B,), index of each patch in its data set.
        taught: the teacher's part where it was kept (see ``wsikd.learn.patch.teacher_cache``); its
            maps are on the student's grids. None: the method asks the teacher.
    """

    __slots__ = ("box", "label", "slide", "taught", "views")

    def __init__(
        self,
        views: dict[str, Tensor],
        label: Tensor,
        slide: tuple[str, ...],
        box: Tensor,
        taught: Taught | None = None,
    ) -> None:
        """All of one length B."""
        self.views, self.label, self.slide, self.box = views, label, slide, box
        self.taught = taught


class Progress(NamedTuple):
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
    helpers: nn.ModuleDict
    """Trained beside the student and not part of it, e.g. projections of its channels."""
    views: tuple[str, ...] = ("low",)

    def __init__(self) -> None:
        """Without helpers."""
        super().__init__()
        self.helpers = nn.ModuleDict()

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
        nets = (self.student, self.helpers)
        return [{"params": [p for net in nets for p in net.parameters() if p.requires_grad]}]
