"""The rows, seeds and folds of a comparison, read from its options. Imports no torch."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wsikd.core.errors import ConfigError
from wsikd.core.registry import nearest
from wsikd.learn.engine.configurations import ROWS
from wsikd.learn.reproduce.row_files import find_rows

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from wsikd.learn.patch.settings import RunConfig

TEACHER = "teacher"
ROW = "row:"
"""Before the name of a row, as a teacher: the run of that row with the same seed and fold."""


@dataclass(frozen=True)
class Row:
    """A row of the table: its name and settings."""

    name: str
    config: RunConfig

    @property
    def taught_by(self) -> tuple[str, ...]:
        """The rows whose runs teach it: ``teacher``, unless its settings name others."""
        if self.config.needs_teacher and self.config.teacher is None:
            return (TEACHER,)
        return tuple(n.removeprefix(ROW) for n in self.config.teachers if n.startswith(ROW))

    @property
    def needs_teacher(self) -> bool:
        """Whether it takes the teacher of its seed."""
        return TEACHER in self.taught_by

    @property
    def is_self_distilled(self) -> bool:
        """Whether its teacher reads what it reads itself: the control of self-distillation."""
        return self.config.needs_teacher and self.config.teacher_reads == "low"


@dataclass(frozen=True)
class Unit:
    """One run of a row: its seed and, in cross-fitting, which repeat and fold."""

    seed: int
    repeat: int = 0
    fold: int | None = None

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"seed{self.seed}" + (
            "" if self.fold is None else f"-repeat{self.repeat}-fold{self.fold}"
        )


@dataclass(frozen=True)
class Plan:
    """All that is to be run.

    Attributes:
        rows: in the order of the table, the teacher among them.
        seeds: seeds of initialisation, order and augmentation.
        folds: number of folds of cross-fitting; None keeps the data's own test part.
        repeats: number of times that the folds are drawn.
        redeal: draw new folds for each seed instead; the seed is then the name of the repeat.
    """

    rows: tuple[Row, ...]
    seeds: tuple[int, ...]
    folds: int | None = None
    repeats: int = 1
    redeal: bool = False

    def units(self) -> list[Unit]:
        """Every run of a row, those on the same patches one after another."""
        if self.folds is None:
            return [Unit(seed) for seed in self.seeds]
        if self.redeal:
            return [Unit(seed, seed, fold) for seed in self.seeds for fold in range(self.folds)]
        return [
            Unit(seed, repeat, fold)
            for repeat in range(self.repeats)
            for fold in range(self.folds)
            for seed in self.seeds
        ]


def read_rows(
    folder: Path,
    *,
    data: Sequence[str] = (),
    overrides: Sequence[str] = (),
    wanted: Sequence[str] = (),
) -> tuple[Row, ...]:
    """Read the rows of a table, in the order of ``rows.yaml`` or of the numbers of their files.

    Args:
        folder: holds ``base.yaml`` and ``rows.yaml``, or files ``<number>_<name>.yaml``.
        data: places of the data, beside those that the files name.
        overrides: ``"key=value"`` for every row, ``"NAME:key=value"`` for those whose name matches
            (``*`` stands for anything).
        wanted: names of rows, ``*`` as above; none takes all. The rows that teach them come along.

    Raises:
        ConfigError: there is no row, a name matches none, a setting is wrong, a student has no
            teacher, or rows teach each other.
    """
    found = find_rows(folder)
    names = list(found)
    split = [_target(text) for text in overrides]
    for pattern in (*wanted, *(p for p, _ in split)):
        if not fnmatch.filter(names, pattern):
            raise ConfigError(pattern, "no such row", nearest(pattern, names))
    rows = []
    for name, read in found.items():
        config = read([text for pattern, text in split if fnmatch.fnmatch(name, pattern)])
        paths = {"paths": [*config.data.paths, *data]}
        rows.append(
            Row(name, config.model_copy(update={"data": config.data.model_copy(update=paths)}))
        )
    return _chosen(folder, rows, wanted)


def _target(text: str) -> tuple[str, str]:
    """("fm_*", "weights.fm=1") of "fm_*:weights.fm=1"; every row where none is named."""
    key, equals, value = text.partition("=")
    pattern, colon, rest = key.partition(":")
    return (pattern, f"{rest}{equals}{value}") if colon else ("*", text)


def _chosen(folder: Path, rows: list[Row], wanted: Sequence[str]) -> tuple[Row, ...]:
    chosen = [r for r in rows if not wanted or any(fnmatch.fnmatch(r.name, p) for p in wanted)]
    known = {row.name: row for row in rows}
    if any(r.needs_teacher for r in chosen):
        teacher = known.get(TEACHER)
        if teacher is None or teacher.needs_teacher:
            file = f"{TEACHER} to {ROWS}," if (folder / ROWS).is_file() else f"0_{TEACHER}.yaml"
            raise ConfigError(
                folder, "its students have no teacher", f"add {file} of a method without a teacher"
            )
    done: dict[str, Row] = {}
    for row in sorted(chosen, key=lambda r: r.name != TEACHER):
        _add(row, known, done, ())
    return tuple(sorted(done.values(), key=lambda r: r.name != TEACHER))


def _add(row: Row, known: dict[str, Row], done: dict[str, Row], after: tuple[str, ...]) -> None:
    """A row behind those that teach it. Raises ConfigError."""
    if row.name in done:
        return
    if row.name in after:
        raise ConfigError(f"{row.name}: teacher", "is taught by itself", "name another row")
    for name in row.taught_by:
        if name not in known:
            raise ConfigError(
                f"{row.name}: teacher {ROW}{name}", "no such row", nearest(name, list(known))
            )
        _add(known[name], known, done, (*after, row.name))
    done[row.name] = row
