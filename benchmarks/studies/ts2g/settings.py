"""Every key of the study ``benchmarks/studies/ts2g/run.py``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator, model_validator

from wsikd.core.config import Settings, parse_config
from wsikd.core.registry import nearest
from wsikd.models.tables import AGGREGATORS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

TEACHER = "teacher"
ASKED_BY = "benchmarks/studies/ts2g"
Count = Annotated[int, Field(gt=0)]


class Student(Settings):
    """One embedder that learns the teacher's embeddings."""

    mpp: Annotated[float, Field(ge=1, multiple_of=1)] = 1.0
    """um per pixel that it reads; the teacher reads 1."""
    select: Literal["top", "random", "mixed", "all"] = "top"
    """Which patches of a slide it learns from."""
    trunk: Literal["detector", "random"] = "detector"
    """Weights of its ResNet-50: of stage 1, or none."""


class StudyConfig(Settings):
    """Size and course of the study."""

    seed: int = 0
    """Of the slides and of every training; adapters and heads are trained again with the next."""
    repeats: Count = 3
    """Trainings of every adapter and head."""
    slides: Count = 40
    """Half for training, a fifth for validation, the rest for the test."""
    size_px: Count = 768
    """Side of a slide, at 1 um per pixel."""
    patch_px: Count = 64
    """Side of a patch, at 1 um per pixel."""
    count: Count = 12
    """Patches of a slide that a student learns from, unless its select is "all"."""
    heads: list[str] = Field(default=["mean", "gated"], min_length=1)
    """Bag networks of stage 3."""
    students: dict[str, Student] = Field(
        default={
            "2 um/px": Student(mpp=2.0),
            "2 um/px, random patches": Student(mpp=2.0, select="random"),
            "2 um/px, mixed patches": Student(mpp=2.0, select="mixed"),
            "2 um/px, all patches": Student(mpp=2.0, select="all"),
            "2 um/px, untrained trunk": Student(mpp=2.0, trunk="random"),
            "1 um/px": Student(),
        },
        min_length=1,
    )
    """By name; the others are compared with the first."""
    teacher_slides: Annotated[int, Field(ge=4)] = 12
    """Further slides, of other shapes, that the stand-in for a foundation model learns from."""
    teacher_epochs: Count = 10
    tile_px: Count = 128
    """Side of the detector's images in slide pixels."""
    image_px: Annotated[int, Field(gt=31)] = 128
    """What they are resized to."""
    detector_epochs: Count = 6
    adapter_epochs: Count = 15
    adapter_patches: Count = 480
    """Patches that each student sees in an epoch, whatever it chooses from."""
    mil_epochs: Count = 30

    @field_validator("heads")
    @classmethod
    def _known_heads(cls, value: list[str]) -> list[str]:
        for name in value:
            if name not in AGGREGATORS:
                raise ValueError(f"'{name}' is not an aggregator; {nearest(name, AGGREGATORS)}")
        return value

    @model_validator(mode="after")
    def _distinct_students(self) -> Self:
        slugs = [TEACHER, *map(slug, self.students)]
        if len(set(slugs)) < len(slugs):
            raise ValueError("two encoders have the same name; rename one in students")
        for name, student in self.students.items():
            if self.patch_px % round(student.mpp):
                raise ValueError(
                    f"patches of {self.patch_px} px do not divide for '{name}'; change patch_px"
                )
        return self


def read_study(overrides: Sequence[str] = ()) -> StudyConfig:
    """The defaults, changed by ``"key=value"`` each. Raises ConfigError."""
    return parse_config(StudyConfig, {}, name=ASKED_BY, overrides=overrides)


def slug(name: str) -> str:
    """A name as that of a folder."""
    return "".join(c if c.isalnum() else "-" for c in name.lower())
