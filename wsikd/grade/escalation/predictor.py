"""A student that asks its teacher about the fields it is unsure of.

The student reads all fields. The teacher then reads the most doubtful (see
:mod:`wsikd.core.escalation`) at its own resolution, in the order of the slide, so that neighbouring
fields are decoded once.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.core.errors import ConfigError
from wsikd.core.escalation import doubt, most_doubtful
from wsikd.core.timing import StageClock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import torch

    from wsikd.grade.engines import Engine
    from wsikd.grade.escalation.rule import Rule
    from wsikd.grade.grademap import GradeMap
    from wsikd.grade.predict import PredictSettings, Prepared, SlidePredictor, Watch
    from wsikd.models.feature_guard import FeatureGuard
    from wsikd.models.files.bundle import InputSpec
    from wsikd.models.guard import Guard
    from wsikd.slides.base import Slide
    from wsikd.slides.scaled_view import Canvas


def check_comparable(teacher: InputSpec, student: InputSpec, option: str = "--student") -> None:
    """Refuse networks with different fields or classes. Raises ConfigError."""
    if abs(teacher.field_um - student.field_um) > 1e-6 * teacher.field_um:
        raise ConfigError(
            option,
            f"the student reads fields of {student.field_um:g} um, the teacher of "
            f"{teacher.field_um:g} um",
            "use networks with the same field size",
        )
    if teacher.classes != student.classes:
        raise ConfigError(
            option,
            f"the student's classes are {', '.join(student.classes)}, the teacher's "
            f"{', '.join(teacher.classes)}",
            "use networks with the same classes",
        )


def teacher_settings(
    settings: PredictSettings, student: InputSpec, teacher: InputSpec
) -> PredictSettings:
    """The student's settings for its teacher, with the stride in the teacher's pixels.

    Raises:
        ConfigError: the stride is not a whole number of the teacher's pixels.
    """
    if settings.stride_px is None:
        return settings
    stride = settings.stride_px * teacher.patch_px / student.patch_px
    if abs(stride - round(stride)) > 1e-6:
        fault = f"{settings.stride_px} px are {stride:g} px of the teacher's"
        raise ConfigError("--stride", fault, "choose a stride that is a whole number for both")
    return replace(settings, stride_px=round(stride))


class EscalatingPredictor:
    """A student that asks its teacher about uncertain fields; used like a ``SlidePredictor``.

    Args:
        student: reads all fields.
        teacher: reads the fields again that the student is unsure of.
        rule: selects those fields.
        teacher_sha256: digest of the teacher's weights, for the record.

    Raises:
        ConfigError: the two have different fields or classes.
    """

    def __init__(
        self,
        student: SlidePredictor,
        teacher: SlidePredictor,
        rule: Rule,
        *,
        teacher_sha256: str = "",
    ) -> None:
        """Refuse a pair that cannot be compared."""
        check_comparable(teacher.spec, student.spec, "--escalate")
        self.student, self.teacher, self.rule = student, teacher, rule
        self.teacher_sha256 = teacher_sha256

    @property
    def spec(self) -> InputSpec:
        """The student's input."""
        return self.student.spec

    @property
    def settings(self) -> PredictSettings:
        """The student's settings."""
        return self.student.settings

    @property
    def device(self) -> torch.device:
        """The student's device."""
        return self.student.device

    @property
    def guard(self) -> Guard | FeatureGuard | None:
        """The student's guard."""
        return self.student.guard

    @property
    def engine(self) -> Engine | None:
        """The student's engine."""
        return self.student.engine

    def prepare(self, slide: Slide, mask_file: Path | None, clock: StageClock) -> Prepared:
        """Begin with a slide ahead of its turn, see ``SlidePredictor.prepare``."""
        return self.student.prepare(slide, mask_file, clock)

    def canvas(self, slide: Slide) -> Canvas:
        """The student's view of a slide."""
        return self.student.canvas(slide)

    @property
    def made_with(self) -> dict[str, Any]:
        """Settings that decide the result, beside those of the student."""
        return {
            "teacher": self.teacher_sha256[:16],
            "budget": self.rule.budget,
            "threshold": self.rule.threshold,
            "teacher_engine": self.teacher.settings.engine,
            "teacher_precision": self.teacher.settings.precision,
        }

    def predict(
        self,
        slide: Slide,
        *,
        mask_file: Path | None = None,
        prepared: Prepared | None = None,
        clock: StageClock | None = None,
        on_progress: Callable[[int, int], None] | None = None,
        watch: Watch | None = None,
        picture: bool = False,
    ) -> GradeMap:
        """Grade the tissue of an open slide.

        ``escalated_hw`` of the map is True where the teacher graded a field. Stage ``escalate`` is
        the wall time of the second reading.

        Args:
            slide: an open slide.
            mask_file: the user's own tissue mask.
            prepared: result of :meth:`prepare`, if it is there already.
            clock: measures the time of the stages; a new one by default.
            on_progress: called with (fields done, fields in all), for each network in turn.
            watch: receives the patches that the student reads.
            picture: keep a picture of the slide, made from the pixels that the student reads.

        Raises:
            MissingMppError, RegionReadError, SlideError: from the slide.
        """
        clock = clock or StageClock()
        first = self.student.predict(
            slide, mask_file=mask_file, prepared=prepared, clock=clock,
            on_progress=on_progress, watch=watch, picture=picture,
        )  # fmt: skip
        begun = time.perf_counter()
        valid = first.valid_hw
        doubts = doubt(first.probability_khw[:, valid].T, self.rule.temperature)
        again = np.zeros_like(valid)
        again[valid] = most_doubtful(doubts, self.rule.budget, self.rule.threshold)
        probability = first.probability_khw.copy()
        if again.any():
            rows, columns = np.nonzero(again)
            probability[:, again] = self.teacher.read(
                slide, rows, columns, on_progress=on_progress
            ).T
        clock.add({"escalate": time.perf_counter() - begun})
        return replace(
            first, probability_khw=probability, escalated_hw=again, seconds=dict(clock.seconds)
        )


def escalation_row(grade_map: GradeMap, seconds: Mapping[str, float]) -> dict[str, Any]:
    """Summary columns of an escalation: fields, share and wall time; none without a teacher."""
    if grade_map.escalated_hw is None:
        return {}
    count, fields = int(grade_map.escalated_hw.sum()), int(grade_map.valid_hw.sum())
    return {
        "escalated_fields": count,
        "share_escalated": count / fields if fields else None,
        "escalation_seconds": round(seconds.get("escalate", 0.0), 3),
    }
