"""The arms, their trials and the blocks of the study, as docs/decisions/0025 has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

TEACHER, CE, SELF = "teacher", "ce", "self_kd"
SCHEDULE = {"teacher": 6, "student": 16, "ce_scratch": 24}
"""Epochs on colon."""
TRIALS = 3
_NO_TERMS: dict[str, Any] = {"weights.fm": 0, "weights.at_plus": 0}
_KD = {"method": "at_plus", "weights.ce": 1.0, **_NO_TERMS}


@dataclass(frozen=True)
class Arm:
    """What an arm learns from.

    Attributes:
        settings: dotted key -> value, over ``base.yaml``.
        rates: learning rates of the first two trials.
        third: what differs in the third trial, at the better rate.
    """

    settings: Mapping[str, Any]
    rates: tuple[float, float] = (3e-4, 1e-3)
    third: Mapping[str, Any] | None = None

    @property
    def distils(self) -> bool:
        """Whether it has a teacher."""
        return self.settings.get("method") == "at_plus"


_EMA = {"optim.ema": 0.99}
ARMS: dict[str, Arm] = {
    TEACHER: Arm({"optim.epochs": SCHEDULE["teacher"]}, third=_EMA),
    CE: Arm({}, third=_EMA),
    "kd": Arm({**_KD, "weights.kd": 1.0}, third={"weights.kd": 4.0}),
    "kd_features": Arm(
        {**_KD, "weights.kd": 1.0, "weights.cos_pooled": 1.0, "weights.cos_dense": 1.0},
        third={"weights.cos_pooled": 4.0, "weights.cos_dense": 4.0},
    ),
    SELF: Arm({**_KD, "weights.kd": 1.0, "teacher_reads": "low"}, third={"weights.kd": 4.0}),
    "at_plus_fm": Arm(
        {**_KD, "weights.at_plus": 10.0, "weights.fm": 0.1},
        third={"weights.at_plus": 1.0, "weights.fm": 0.01},
    ),
    "ce_scratch": Arm(
        {
            "network.init": "random", "network.weights": None,
            "optim.epochs": SCHEDULE["ce_scratch"],
        },
        rates=(1e-3, 3e-3), third=_EMA,
    ),
    "dkd": Arm({**_KD, "weights.dkd": 1.0}),
    "at": Arm({**_KD, "weights.at": 1000.0}),
    "sr_last": Arm({**_KD, "weights.sr_last": 1.0}),
}  # fmt: skip
TUNED = (TEACHER, CE, "kd", "kd_features", SELF, "at_plus_fm", "ce_scratch")


@dataclass(frozen=True)
class Block:
    """A part of the study with a table of its own.

    Attributes:
        title: heading of its table.
        data: "colon" or "prostate".
        arms: its students.
        beside: arms of block A that its table shows too.
        few: students have the first half of the seeds.
        own_teacher: whether teachers are trained; otherwise those of block A are taken.
        teachers: number of teacher seeds; None: all.
        settings: of all its runs.
        student: of its students alone.
        teacher: of its teachers alone.
        distilled: of the students that distil alone.
    """

    title: str
    data: str
    arms: tuple[str, ...]
    beside: tuple[str, ...] = ()
    few: bool = False
    own_teacher: bool = False
    teachers: int | None = None
    settings: Mapping[str, Any] | None = None
    student: Mapping[str, Any] | None = None
    teacher: Mapping[str, Any] | None = None
    distilled: Mapping[str, Any] | None = None


_AT_56 = {"data.student_mpp": 4.0, "optim.epochs": SCHEDULE["student"]}
_PROSTATE = {
    "network.freeze": 3, "network.colour": "grey", "optim.lr": 1e-3, "optim.epoch_patches": 704,
    "augment.brightness": 0, "augment.contrast": 0, "augment.saturation": 0, "augment.stain": 0,
}  # fmt: skip
TUNING, PRIMARY, PROSTATE = "T", "A", "P"
BLOCKS: dict[str, Block] = {
    PRIMARY: Block(
        "Colon, 56 px, all labels", "colon", TUNED[1:], own_teacher=True, student=_AT_56
    ),
    "B": Block(
        "Colon, 56 px, labels of 30 % of the training patients", "colon", (CE, "kd", SELF),
        own_teacher=True, settings={"split.share": 0.3}, student=_AT_56,
        distilled={"data.unlabelled": True},
    ),
    PROSTATE: Block(
        "Prostate, grey, 64 px, lower stages frozen", "prostate",
        (CE, "kd", "kd_features", SELF, "at_plus_fm"), few=True, own_teacher=True, teachers=1,
        settings=_PROSTATE, student={"data.student_mpp": 4.0, "optim.epochs": 10},
    ),
    "C": Block(
        "Colon, 112 px, all labels", "colon", (CE, "kd", SELF), few=True,
        student={"data.student_mpp": 2.0, "optim.epochs": SCHEDULE["student"]},
    ),
    "D": Block(
        "Colon, 56 px, other terms", "colon", ("dkd", "at", "sr_last"), (CE, "kd", SELF), few=True,
        student=_AT_56,
    ),
}  # fmt: skip
