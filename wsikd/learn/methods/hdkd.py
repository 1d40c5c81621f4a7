"""HDKD: stages of a CNN teacher and its decision, distilled into a hybrid student.

O. S. EL-Assiouti et al., "HDKD: Hybrid data-efficient knowledge distillation network for medical
image classification", arXiv 2407.07516. The student's stages have the shapes of the teacher's, so
that its maps are regressed onto the teacher's as they are; logits reach it through a token of
their own.

=====  ==========================================================================  =============
term   value                                                                       token
=====  ==========================================================================  =============
ce     cross-entropy on labels                                                     class
lkd    soft: T^2 KL(teacher || student) over softmax(z/T), divided by patches and  distillation
       classes (H. Touvron et al., ICML 2021, as released) or by patches alone;
       hard: cross-entropy on the teacher's decision
fkd    sum over stages i of i^g times the mean of (S_i - T_i)^2                    -
=====  ==========================================================================  =============

As published: weights 1/2, 1/2 and 10, T = 1, g = 1. ``wsikd.models.graders.hdkd`` has the networks.

Departures from the released code: taps are named and come from one forward pass, so that batch
norm sees each batch once, where the code runs the first stages again for each map; the teacher is
loaded in full or not at all; the student may read another resolution than the teacher as long as
their stages have equal grids, which are compared and never resized.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from wsikd.core.config import Settings
from wsikd.core.errors import ConfigError
from wsikd.learn.losses.logits import distillation
from wsikd.learn.losses.maps import cross_entropy
from wsikd.learn.methods.base import Batch, Method, Progress
from wsikd.learn.methods.ensemble import Ensemble, refuse_features
from wsikd.models.graders.hdkd import TokenGrader

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from typing import Self

    from torch import Tensor

    from wsikd.learn.methods.base import Terms
    from wsikd.models.graders.pooled import Grader


class HdkdOptions(Settings):
    """Settings of the terms lkd and fkd."""

    logits: Literal["soft", "hard"] = "soft"
    """"soft": the distillation token learns the teacher's probabilities; "hard": its decision."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Divides the logits (soft)."""
    reduction: Literal["deit_legacy", "batchmean"] = "deit_legacy"
    """"deit_legacy" divides the sum over patches and classes by both numbers, so the term is weaker
    with more classes; "batchmean" divides it by the number of patches only (soft)."""
    taps: Annotated[list[str], Field(min_length=1)] = Field(default=["F1", "F2", "F3"])
    """Stages that are compared, by their names in both networks."""
    growth: Annotated[float, Field(ge=0)] = 1.0
    """g: stage i has weight i^g."""
    freeze_bn_after: Annotated[int, Field(ge=0)] | None = None
    """First epoch, counted from 0, in which the student's batch norm uses its running statistics,
    as the teacher's does; none: never."""


class HdkdConfig(Settings):
    """Settings of HDKD, in addition to network, data and schedule."""

    hdkd: HdkdOptions = HdkdOptions()


class Hdkd(Method):
    """Any of ``TERMS``; the weights are those of EL-Assiouti et al."""

    Config = HdkdConfig
    TERMS: ClassVar[Terms] = {"ce": 0.5, "lkd": 0.5, "fkd": 10.0}
    views = ("high", "low")
    needs_teacher = True
    takes_several = True
    takes_mixed = True

    def __init__(
        self,
        student: Grader,
        teacher: Grader,
        *,
        terms: Collection[str] = ("ce", "lkd", "fkd"),
        logits: str = "soft",
        temperature: float = 1.0,
        reduction: str = "deit_legacy",
        taps: Sequence[str] = ("F1", "F2", "F3"),
        growth: float = 1.0,
        freeze_bn_after: int | None = None,
        ratio: float = 1.0,
    ) -> None:
        """Distil ``teacher``, which is frozen, into ``student``.

        Args:
            student: reads ``views["low"]``; for ``lkd`` a network with a distillation token.
            teacher: reads ``views["high"]``.
            terms: which to compute, of ``TERMS``.
            logits: "soft" or "hard".
            temperature: T.
            reduction: "deit_legacy" or "batchmean".
            taps: stages that ``fkd`` compares; the n-th of a network is stage n.
            growth: g.
            freeze_bn_after: first epoch, counted from 0, in which the student's batch norm keeps
                its running statistics; None: never.
            ratio: side of what the teacher's backbone reads over the student's, in pixels.

        Raises:
            ConfigError: a tap is unknown or its shapes differ, or the student lacks the token that
                ``lkd`` trains, or has one that nothing would train.
        """
        super().__init__()
        self.student = student
        self.teacher = teacher.requires_grad_(requires_grad=False).eval()
        self.terms = frozenset(terms)
        self.logits, self.temperature, self.reduction = logits, temperature, reduction
        self.freeze_bn_after = freeze_bn_after
        self.factors: dict[str, float] = {}
        if "fkd" in self.terms:
            for name in taps:
                check_stage(name, student, teacher, ratio)
                self.factors[name] = float((list(student.backbone.taps).index(name) + 1) ** growth)
        self._check_token()

    @classmethod
    def build(cls, config: Any, student: Grader, teacher: Grader) -> Self:
        """As ``HdkdConfig`` sets it. Raises ConfigError: the networks do not go together."""
        own = config.hdkd.model_dump()
        return cls(student, teacher, terms=config.terms, ratio=config.ratio, **own)

    def add_teachers(self, others: Sequence[nn.Module], answering: Tensor | None) -> None:
        """Average their answers for lkd; stages are those of the first.

        Raises:
            ConfigError: fkd goes with teachers that answer for some patches each.
        """
        refuse_features(self.terms, ("ce", "lkd"), unseen=answering is not None)
        temperature = self.temperature if self.logits == "soft" else 1.0
        self.ensemble = Ensemble(others, temperature, answering)

    def _check_token(self) -> None:
        has = isinstance(self.student, TokenGrader) and self.student.head.special > 1
        if "lkd" in self.terms and not has:
            raise ConfigError(
                "weights.lkd", "the student has no distillation token",
                "use network.arch hdkd_student with network.hybrid.distillation true, or set "
                "weights.lkd to 0",
            )  # fmt: skip
        if "lkd" not in self.terms and has:
            raise ConfigError(
                "network.hybrid.distillation", "without weights.lkd nothing trains that token",
                "set it to false, or give weights.lkd a weight",
            )  # fmt: skip

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002 (torch's signature)
        """Set the student's mode; the teacher stays in eval."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, batch: Batch, at: Progress) -> dict[str, Tensor]:
        """Scalar terms; see the module's head."""
        if self.freeze_bn_after is not None and at.epoch >= self.freeze_bn_after:
            for module in self.student.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        own, distilled, maps = self._ask(batch.views["low"])
        found = {"ce": batch.on_labels(lambda label: cross_entropy(own, label))}
        if self.terms - {"ce"}:
            logits, taught = self._taught(batch)
            if distilled is not None:
                found["lkd"] = self.term_lkd(distilled, logits)
            if self.factors:
                found["fkd"] = stage_distance(maps, taught, self.factors)
        return {name: found[name] for name in self.TERMS if name in self.terms}

    @torch.no_grad()
    def _taught(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The answers of all teachers, and the maps of the first."""
        patches, several = batch.views["high"], self.ensemble
        if several is not None and several.answering is not None:
            return several.of_those_answering(self.teacher, patches, batch.box), {}
        logits, maps = self.teacher.with_taps(patches, self.factors)
        return logits if several is None else several.mean_with(logits, patches), maps

    def _ask(self, patches: Tensor) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
        """Logits of the class token and of the distillation token, and maps, in one pass."""
        if isinstance(self.student, TokenGrader):
            return self.student.with_tokens(patches, self.factors)
        logits, maps = self.student.with_taps(patches, self.factors)
        return logits, None, maps

    def term_lkd(self, own: Tensor, taught: Tensor) -> Tensor:
        """Distillation of logits (B, C) into those of the distillation token."""
        own, taught = _wide(own), _wide(taught)
        if self.logits == "hard":
            return functional.cross_entropy(own, taught.argmax(1))
        shared = own.shape[1] if self.reduction == "deit_legacy" else 1
        return distillation(own, taught, temperature=self.temperature) / shared


def stage_distance(
    own: dict[str, Tensor], taught: dict[str, Tensor], factors: dict[str, float]
) -> Tensor:
    """Sum over stages of factor times the mean squared difference, the term ``fkd``.

    Args:
        own: stage -> float (B, K, h, w) of the student.
        taught: the same of the teacher, constants.
        factors: stage -> i^g.

    Returns:
        Scalar.

    Raises:
        ConfigError: shapes differ.
    """
    parts = []
    for name, factor in factors.items():
        if own[name].shape != taught[name].shape:
            shapes = [" x ".join(map(str, m[name].shape[1:])) for m in (own, taught)]
            raise _unlike(name, f"{shapes[0]} in the student, {shapes[1]} in the teacher")
        parts.append(factor * functional.mse_loss(_wide(own[name]), _wide(taught[name])))
    return torch.stack(parts).sum()


def check_stage(name: str, student: Grader, teacher: Grader, ratio: float) -> None:
    """Refuse a stage whose maps cannot be compared as they are.

    Args:
        name: name of the tap in both.
        student: network.
        teacher: network.
        ratio: side of what the teacher's backbone reads over the student's, in pixels.

    Raises:
        ConfigError: one has no such tap, or channels or grids differ.
    """
    for who, net in (("student", student), ("teacher", teacher)):
        if name not in net.backbone.taps:
            known = ", ".join(net.backbone.taps)
            raise ConfigError(
                f"hdkd.taps {name}", f"the {who} has no such stage", f"choose among {known}"
            )
    own, taught = student.backbone.taps[name], teacher.backbone.taps[name]
    wanted = own.stride * ratio
    if own.channels != taught.channels or abs(wanted - taught.stride) > 1e-6 * wanted:
        size = "the same" if ratio == 1 else f"a {ratio:g} times larger"
        raise _unlike(
            name,
            f"{own.channels} channels at stride {own.stride} in the student, {taught.channels} "
            f"at stride {taught.stride} on {size} patch in the teacher",
        )


def _unlike(name: str, shapes: str) -> ConfigError:
    return ConfigError(
        f"hdkd.taps {name}",
        f"{shapes}: they cannot be compared",
        "use equal network.width, and a network.hybrid.stem_stride that is as many times larger in "
        "the teacher as its patches are; or set weights.fkd to 0",
    )


def _wide(x: Tensor) -> Tensor:
    """Half precision to single; anything else as it is."""
    return x.float() if x.element_size() < 4 else x
