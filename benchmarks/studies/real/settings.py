"""Every key of the study: places of the data, seeds, and changes for trials at toy size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from wsikd.core.config import Settings, parse_config

if TYPE_CHECKING:
    from collections.abc import Sequence

Seeds = Annotated[list[int], Field(min_length=1)]


class Real(Settings):
    """Size of the study; the protocol fixes the defaults."""

    colon: str = ""
    """Folder of ``labels.csv`` of the colon set."""
    prostate: str = ""
    """That of the prostate set; none: without block P."""
    seeds: Seeds = Field(default=[1, 2, 3, 4])
    """Seeds of the students in blocks A and B; the first half are those of blocks C, D and P."""
    teacher_seeds: Seeds = Field(default=[1, 2])
    """Student number i learns from teacher number i, counted round."""
    folds: Annotated[int, Field(ge=2)] = 3
    """Evaluation parts."""
    changes: dict[str, Any] = Field(default_factory=dict)
    """Dotted key -> value, over the settings of every run: for trials at toy size."""

    @property
    def few_seeds(self) -> list[int]:
        """Seeds of the smaller blocks."""
        return self.seeds[: max(1, len(self.seeds) // 2)]

    def teacher_seed(self, seed: int) -> int:
        """The teacher's seed of a student's."""
        return self.teacher_seeds[self.seeds.index(seed) % len(self.teacher_seeds)]


def read_study(overrides: Sequence[str] = ()) -> Real:
    """The settings of the study. Raises ConfigError."""
    return parse_config(Real, {}, name="the study", overrides=overrides)
