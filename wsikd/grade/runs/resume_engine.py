"""Engine and precision of a folder of results: chosen before its first slide, then kept.

Maps of one folder must differ by their slides only. So bf16 or fp16 is compared with fp32 on
fields of the first slides before any slide is graded, and later runs into the folder use the same
engine and precision.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from wsikd.core.errors import ConfigError, WsikdError
from wsikd.grade.engines import AUTO
from wsikd.grade.engines.check import CHECK_FIELDS, Checked
from wsikd.grade.escalation.predictor import EscalatingPredictor
from wsikd.grade.runs.record import read_record

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from wsikd.grade.predict import PredictSettings, SlidePredictor
    from wsikd.slides.listing.manifest import SlideEntry

log = logging.getLogger(__name__)

TEACHER_FIELDS = 64
"""A teacher is checked on fewer fields, since each costs as much as 16 of a student's."""
_MOST_SLIDES = 16
_LARGE_PX = 256


@dataclass(frozen=True)
class Computing:
    """An entry of ``ENGINES``, and fp32, bf16 or fp16."""

    engine: str
    precision: str

    def __str__(self) -> str:
        return f"{self.engine} {self.precision}"


@dataclass(frozen=True)
class Settled:
    """The engine of the student, and of the teacher if there is one."""

    student: Computing
    teacher: Computing | None = None


def started_with(
    out: Path, student: str, teacher: str | None, asked: PredictSettings
) -> Settled | None:
    """Engine and precision of the finished results of a folder.

    Args:
        out: folder of results.
        student: SHA-256 of its weights, 16 digits; results of other students do not count.
        teacher: SHA-256 of the teacher's weights, 16 digits.
        asked: settings of the user. An engine other than ``auto``, and fp32, override the folder's.
            bf16 and fp16 do not: they must pass a check, and the folder has its result.

    Returns:
        None if there is no such result. The teacher's is None if no result has this teacher.
    """
    found = (_made_with(out / name) for name in _names(out))
    made = (m for m in found if _texts(m, "engine", "precision") and m.get("student") == student)
    first = next(made, None)  # not all are read: a folder may hold thousands
    if first is None:
        return None
    other = None
    if teacher:
        asked_too = (m for m in chain([first], made) if m.get("teacher") == teacher)
        other = next((m for m in asked_too if _texts(m, "teacher_engine", "teacher_precision")),
                     None)  # fmt: skip
    if asked.precision in ("bf16", "fp16") and first["precision"] == "fp32":
        log.warning(
            "%s: its results are in fp32, so new ones are too (--overwrite chooses again)", out
        )
    return Settled(
        _asked(asked, first["engine"], first["precision"]),
        _asked(asked, other["teacher_engine"], other["teacher_precision"]) if other else None,
    )


def _texts(made_with: Mapping[str, Any], *keys: str) -> bool:
    return all(isinstance(made_with.get(key), str) and made_with[key] for key in keys)


def _asked(asked: PredictSettings, engine: str, precision: str) -> Computing:
    return Computing(
        engine if asked.engine == AUTO else asked.engine,
        "fp32" if asked.precision == "fp32" else precision,
    )


def _names(out: Path) -> list[str]:
    """Names in a folder of results, sorted: no file of a result is asked for."""
    try:
        return sorted(os.listdir(out))  # noqa: PTH208 - fast, for thousands
    except OSError:
        return []


def _made_with(folder: Path) -> Mapping[str, Any]:
    record = read_record(folder)
    return record.made_with if record else {}


def settle(
    predictor: SlidePredictor | EscalatingPredictor,
    entries: Sequence[SlideEntry],
    begun: Settled | None,
    out: Path | None,
) -> Settled:
    """Choose engine and precision of a folder, and prepare the engine.

    Args:
        predictor: has the user's settings.
        entries: the slides to grade; fields of the first ones serve to check bf16 or fp16.
        begun: result of :func:`started_with`.
        out: folder of results, for messages.

    Raises:
        ConfigError: the engine that the user or the folder asks for is not available.
    """
    known = (begun.student, begun.teacher) if begun else (None, None)
    if not isinstance(predictor, EscalatingPredictor):
        return Settled(_settle(predictor, entries, CHECK_FIELDS, known[0], out))
    return Settled(
        _settle(predictor.student, entries, CHECK_FIELDS, known[0], out),
        _settle(predictor.teacher, entries, TEACHER_FIELDS, known[1], out),
    )


def compute_as(predictor: SlidePredictor | EscalatingPredictor, settled: Settled) -> None:
    """Set the chosen engine and precision of a predictor."""
    if isinstance(predictor, EscalatingPredictor):
        assert settled.teacher is not None
        predictor.teacher.settle(settled.teacher.engine, settled.teacher.precision)
        predictor = predictor.student
    predictor.settle(settled.student.engine, settled.student.precision)


def _settle(
    predictor: SlidePredictor,
    entries: Sequence[SlideEntry],
    fields: int,
    begun: Computing | None,
    out: Path | None,
) -> Computing:
    if begun:
        _resume(predictor, begun, out)
        return begun
    engine = predictor.ready(fields)
    if isinstance(engine, Checked):
        if predictor.spec.patch_px > _LARGE_PX:  # the check takes long
            text = "checking %s against fp32 over %d large fields"
            log.info(text, engine.low_precision, fields)
        engine.fields = fields
        trial = predictor.trial(fields)
        for entry in entries[:_MOST_SLIDES]:
            if engine.decided:
                break
            with suppress(WsikdError):  # the error is reported when that slide is graded
                trial.predict_entry(entry)
    found = Computing(engine.name, engine.precision)
    predictor.settle(found.engine, found.precision)
    return found


def _resume(predictor: SlidePredictor, begun: Computing, out: Path | None) -> None:
    """Open the folder's own engine; raises ConfigError if this machine does not have it."""
    predictor.settle(begun.engine, begun.precision)
    try:
        predictor.ready()
    except ConfigError as error:
        fault = (
            f"its results were made by {begun.engine} in {begun.precision}, which is not "
            f"available here "
            f"({error.subject}: {error.fault})"
        )
        raise ConfigError(out, fault, f"{error.remedy}, or choose another -o") from error
