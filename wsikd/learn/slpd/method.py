"""Slide-level prototypical distillation: a region encoder learns from views and from slides.

Z. Yu, T. Lin, Y. Xu, "SLPD: Slide-level Prototypical Distillation for WSIs", MICCAI 2023. Terms:
``dino``, the self-distillation of views by a teacher that follows the student as a moving average
(:func:`wsikd.learn.losses.dino.dino_loss`); ``intra``, the prototype of a region's cluster within
its slide as target, and ``inter``, that of the matched cluster of a similar slide
(:func:`~wsikd.learn.losses.dino.prototype_loss`).

Departures from the released code, each to be undone by a setting: every view learns prototypes
(``skip_first_view``); each term has a centre of its own (``shared_centre``); prototypes of
neighbours go with own ones by the matching that made them neighbours (``correspondence``); slides
of the same patient are no neighbours (``same_patient``). Not to be undone: counts behind centres
and means are of all processes; a slide is never its own neighbour; slides without prototypes are
masked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn

from wsikd.learn.engine.schedules import cosine_steps
from wsikd.learn.losses.dino import (
    dino_loss,
    moved_centre,
    prototype_loss,
    sharpened,
    summed,
    wide,
)
from wsikd.learn.methods.base import Batch, Method, Progress
from wsikd.learn.slpd.settings import SlpdConfig
from wsikd.slides.what_is import GRIDS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from wsikd.learn.methods.base import Terms
    from wsikd.models.slide_level.region_vit import RegionStudent

TARGETS = ("intra", "inter")


@dataclass(frozen=True)
class Options:
    """Settings of :class:`Slpd`; see ``wsikd.learn.slpd.settings``."""

    terms: tuple[str, ...] = ("dino", *TARGETS)
    student_temperature: float = 0.1
    teacher_temperature: float = 0.04
    centre_momentum: float = 0.9
    teacher_momentum: float = 0.996
    skip_first_view: bool = False
    shared_centre: bool = False


class Bank(nn.Module):
    """Prototypes of the slides and who goes with whom; empty until :meth:`put`.

    They are state, since a training that is taken up must find them, but no buffers, since every
    process has them already.
    """

    names = ("prototypes", "slide_index", "assignment", "neighbours", "matched")

    def __init__(self) -> None:
        """Empty."""
        super().__init__()
        self.held: dict[str, Tensor] = {}

    def put(self, held: dict[str, Tensor]) -> None:
        """Take up a table.

        Args:
            held: ``prototypes`` float (N, K, D); int64: ``slide_index`` and ``assignment`` (R,),
                ``neighbours`` (N, r), ``matched`` (N, r, K); -1 where there is none.
        """
        self.held = {name: held[name] for name in self.names}

    def get_extra_state(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        return dict(self.held)

    def set_extra_state(self, state: Any) -> None:
        """Of a checkpoint."""
        self.held = dict(cast("dict[str, Tensor]", state))

    def own(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """The prototype of each region: int64 (B,) -> float (1, B, D), bool (1, B)."""
        slide, cluster = self.held["slide_index"][regions], self.held["assignment"][regions]
        keep = cluster >= 0
        return self.held["prototypes"][slide, cluster.clamp_min(0)][None], keep[None]

    def others(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """The matched prototypes of neighbours: int64 (B,) -> float (r, B, D), bool (r, B)."""
        slide, cluster = self.held["slide_index"][regions], self.held["assignment"][regions]
        near = self.held["neighbours"][slide]  # (B, r)
        keep = (cluster >= 0)[:, None] & (near >= 0)
        matched = self.held["matched"][slide, :, cluster.clamp_min(0)].clamp_min(0)  # (B, r)
        found = self.held["prototypes"][near.clamp_min(0), matched]
        return found.transpose(0, 1), keep.T


class Centres(nn.Module):
    """Running means of what is sharpened: of the teacher, and of each kind of prototype."""

    def __init__(self, outputs: int) -> None:
        """All zero, float (outputs,)."""
        super().__init__()
        for name in ("dino", *TARGETS):
            self.register_buffer(name, torch.zeros(outputs))

    def get(self, name: str) -> Tensor:
        """One of them."""
        return cast("Tensor", getattr(self, name))

    def move(self, name: str, scores: Tensor, keep: Tensor, momentum: float) -> None:
        """Move one by the mean of the kept scores of all processes.

        Args:
            name: "dino", "intra" or "inter".
            scores: (n, M).
            keep: bool (n,).
            momentum: what stays.
        """
        total = summed((wide(scores) * keep[:, None]).sum(0))
        count = summed(keep.sum().float())
        centre = self.get(name)
        centre.copy_(moved_centre(centre, total, count, momentum))


class Slpd(Method):
    """Trains ``student`` to agree with its own moving average, and with prototypes.

    A batch has the views "global" float (G, B, D, h, h) and "local" (L, B, D, l, l); ``box`` holds
    the regions' indices.
    """

    Config = SlpdConfig
    TERMS: ClassVar[Terms] = {"dino": 1.0, "intra": 1.0, "inter": 1.0}
    views = ("global", "local")
    takes = (GRIDS,)
    task = "wsikd.learn.slpd.train:SlpdTask"

    student: RegionStudent  # type: ignore[assignment]

    def __init__(self, student: RegionStudent, teacher: RegionStudent, options: Options) -> None:
        """``teacher`` is a network of the student's shape, whose weights are overwritten."""
        super().__init__()
        self.student, self.options = student, options
        teacher.load_state_dict(student.state_dict())
        teacher.requires_grad_(requires_grad=False)
        self.helpers["teacher"] = teacher
        self.helpers["centres"] = Centres(student.shape.outputs)
        self.helpers["bank"] = Bank()

    @classmethod
    def build(cls, config: SlpdConfig, student: RegionStudent, teacher: RegionStudent) -> Self:
        """The terms of the variant."""
        options = Options(
            terms=tuple(config.weights),
            student_temperature=config.student_temperature,
            teacher_temperature=config.teacher_temperature,
            centre_momentum=config.centre_momentum,
            teacher_momentum=config.optim.momentum,
            skip_first_view=config.prototypes.skip_first_view,
            shared_centre=config.prototypes.shared_centre,
        )
        return cls(student, teacher, options)

    @property
    def teacher(self) -> RegionStudent:
        """The moving average, which is what is kept in the end."""
        return cast("RegionStudent", self.helpers["teacher"])

    @property
    def centres(self) -> Centres:
        """See :class:`Centres`."""
        return cast("Centres", self.helpers["centres"])

    @property
    def bank(self) -> Bank:
        """See :class:`Bank`."""
        return cast("Bank", self.helpers["bank"])

    def train(self, mode: bool = True) -> Slpd:  # noqa: FBT001, FBT002 - torch's signature
        """The teacher stays in eval mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        """The terms of the variant; those of prototypes are 0 before there are some."""
        options, regions = self.options, batch.box
        crops = [view for name in self.views if len(view := batch.views[name])]
        with torch.no_grad():
            taught = _by_view(self.teacher, crops[0])
        own = [_by_view(self.student, view) for view in crops]
        terms = {
            "dino": dino_loss(
                own, taught, self.centres.get("dino"),
                student_temperature=options.student_temperature,
                teacher_temperature=options.teacher_temperature,
            )
        }  # fmt: skip
        self._move("dino", taught.flatten(0, 1), regions.new_ones(taught[..., 0].numel()) > 0)
        for name in (name for name in TARGETS if name in options.terms):
            there = bool(self.bank.held)
            terms[name] = self._towards(name, own, regions) if there else own[0].new_zeros(())
        return terms

    def _towards(self, name: str, own: Sequence[Tensor], regions: Tensor) -> Tensor:
        """The loss against prototypes, through the teacher's last layer as it is now."""
        options = self.options
        prototypes, keep = self.bank.own(regions) if name == "intra" else self.bank.others(regions)
        centre = "intra" if options.shared_centre else name
        with torch.no_grad():
            scores = self.teacher.last(prototypes.flatten(0, 1)).view(*keep.shape, -1)
            targets = sharpened(scores, self.centres.get(centre), options.teacher_temperature)
            kept = keep.sum().float()
            total, processes = summed(torch.stack([kept, torch.ones_like(kept)]))
        self._move(centre, scores.flatten(0, 1), keep.flatten())
        return prototype_loss(
            own, targets, keep, count=total / processes,
            student_temperature=options.student_temperature,
            skip_first_view=options.skip_first_view,
        )  # fmt: skip

    def _move(self, name: str, scores: Tensor, keep: Tensor) -> None:
        if self.training:
            with torch.no_grad():
                self.centres.move(name, scores, keep, self.options.centre_momentum)

    def momentum(self, at: Progress) -> float:
        """Share of the teacher that stays at a step."""
        step, steps = at.epoch * at.steps + at.step, at.epochs * at.steps
        return cosine_steps(self.options.teacher_momentum, 1.0, step, steps)

    @torch.no_grad()
    def after_step(self, at: Progress) -> None:
        """The teacher follows: ``m teacher + (1 - m) student``."""
        share = 1.0 - self.momentum(at)
        pairs = zip(self.teacher.parameters(), self.student.parameters(), strict=True)
        for mean, weight in pairs:
            mean.lerp_(weight.detach(), share)


def _by_view(network: RegionStudent, view: Tensor) -> Tensor:
    """Scores of views (V, B, D, h, h): (V, B, M)."""
    return network.scores(view.flatten(0, 1)).view(*view.shape[:2], -1)
