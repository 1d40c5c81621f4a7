"""Settings of HDKD's terms. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from wsikd.core.config import Settings


class Hdkd(Settings):
    """Terms lkd and fkd of method hdkd; see wsikd.learn.methods.hdkd."""

    logits: Literal["soft", "hard"] = "soft"
    """"soft": the distillation token learns the teacher's probabilities; "hard": its decision."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Divides the logits (soft)."""
    reduction: Literal["deit_legacy", "batchmean"] = "deit_legacy"
    """"deit_legacy" divides the sum over patches and classes by both counts, so the term is weaker
    the more classes there are; "batchmean" by the patches alone (soft)."""
    taps: Annotated[list[str], Field(min_length=1)] = Field(default=["F1", "F2", "F3"])
    """Stages compared, named as in both networks."""
    growth: Annotated[float, Field(ge=0)] = 1.0
    """g: stage i counts i^g times."""
    freeze_bn_after: Annotated[int, Field(ge=0)] | None = None
    """Epoch, counted from 0, from which the student's batch norm uses its running statistics, as
    the teacher's does; none: never."""
