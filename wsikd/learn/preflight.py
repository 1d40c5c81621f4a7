"""Checks of paths and labels before data are read and networks are built.

Names, cards and settings are looked at, and the labels of patches; what reads the data checks the
rest. Imports no torch by itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsikd.core.errors import ConfigError, DataError
from wsikd.learn.patch.settings import RunConfig
from wsikd.models.files.peek import peek_grader
from wsikd.slides.what_is import BAGS, check_role

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from wsikd.learn.data.settings import Data, Split
    from wsikd.models.files.bundle import StudentBundle


def check_run(*configs: Any) -> None:
    """Refuse settings of any method that name a missing or wrong file, teacher or network.

    Of grading methods, labels that nothing can be learnt from are refused too; data that several
    settings share and divide alike are read once.

    Args:
        configs: checked settings, such as ``RunConfig``.

    Raises:
        ConfigError: no teacher where one is required, a path of another kind, an unknown network.
        DataError: no data, data that do not exist, an empty part, or a cohort of one class.
        StoreError: a tile store cannot be used.
        BundleError: the teacher cannot be used.
    """
    for config in configs:
        _check_named(config)
    graded = [c for c in configs if isinstance(c, RunConfig)]
    distinct = {c.data.model_dump_json() + c.split.model_dump_json(): c for c in graded}
    for config in distinct.values():
        check_labels(config.data, config.split)


def check_labels(data: Data, split: Split) -> None:
    """Refuse labels that no classifier can be trained on, from the lists of the patches.

    Data as SICAPv2 is distributed are not looked at here: their spreadsheets take seconds.

    Raises:
        DataError: as ``load_patches``, but for copies of slides and images; or an empty part, or a
            cohort of one class.
        StoreError: a tile store cannot be used.
    """
    from wsikd.learn.data.joined import join
    from wsikd.learn.data.parts import refuse_parts
    from wsikd.learn.data.sources import kind_of, list_sources
    from wsikd.learn.data.unlabelled import divide

    if any(kind_of(Path(path), data) == "sicapv2" for path in data.paths):
        return
    found = join(list_sources(data), data)
    # split.share does not matter here: it keeps some of every class
    names = divide(found, split)
    refuse_parts(names, found.label, found.classes)


def _check_named(config: Any) -> None:
    for section in ("network", "trunk"):
        check_network = getattr(getattr(config, section, None), "check", None)
        if check_network is not None:
            check_network()
    for name in getattr(config.data, "files", ()):
        file = getattr(config.data, name)
        if file is not None:
            _check_exists(Path(file), f"set data.{name}")
    if hasattr(config.data, "paths"):
        check_data(config.data.paths, *config.learner.takes, source=_source(config))
    for path in getattr(config.data, "targets", ()):
        _check_exists(Path(path), "set data.targets")
        check_role(path, "data.targets", BAGS)
    if isinstance(config, RunConfig):
        peek_teachers(config)


def check_data(paths: Sequence[str | os.PathLike[str]], *wanted: str, source: str = "auto") -> None:
    """Refuse places of data that do not exist or hold something else.

    Args:
        paths: files and folders.
        wanted: kinds of ``wsikd.slides.what_is``, the usual one first.
        source: ``data.source``; only "auto" leaves the kind to the path.

    Raises:
        ConfigError: a path of another kind.
        DataError: none is named, or one does not exist.
    """
    if not paths:
        raise DataError("data.paths", "lists no data", "give --data, or set it")
    for path in map(Path, paths):
        _check_exists(path, "correct data.paths or --data")
        if source == "auto":
            check_role(path, "--data", *wanted)


def peek_teachers(config: RunConfig) -> tuple[StudentBundle, ...]:
    """The cards of the teachers that a method needs; none for a method without one.

    Raises:
        ConfigError: none is named, one is not a teacher, reads another resolution than the data, or
            has other classes than the first.
        BundleError: one cannot be used.
    """
    if not config.needs_teacher:
        return ()
    if not config.teachers:
        raise ConfigError(
            "teacher", f"method {config.method} requires a teacher", "pass --teacher RUN or set it"
        )
    found = []
    for name in config.teachers:
        teacher = peek_grader(name, "--teacher")
        check_resolution(config, teacher, name)
        found.append(teacher)
        own, first = (", ".join(card.spec.classes) for card in (teacher, found[0]))
        if own != first:
            raise ConfigError(
                f"--teacher {name}", f"has the classes {own}, but {config.teachers[0]} has {first}",
                "give teachers of the same classes",
            )  # fmt: skip
    if config.teacher_answers == "unseen" and len(found) < 2:
        raise ConfigError(
            "teacher_answers unseen", "one teacher cannot be trained without every slide",
            "give several teachers, each trained without a fold (split.crossfit), or set mean",
        )  # fmt: skip
    return tuple(found)


def check_resolution(config: RunConfig, teacher: StudentBundle, name: str) -> None:
    """Refuse a teacher that reads another resolution than it is given. Raises ConfigError."""
    own, wanted = teacher.spec.mpp, config.data.mpp
    if config.teacher_reads == "low":
        if abs(own - config.low_mpp) <= 0.02 * own:
            return
        raise ConfigError(
            f"--teacher {name}",
            f"reads {own:g} um/px, but with teacher_reads 'low' it is given {config.low_mpp:g}",
            "give a network of the student's resolution, or set teacher_reads=high",
        )
    if abs(own - wanted) <= 0.02 * own:
        return
    if own > wanted and teacher.card.teacher:
        raise ConfigError(
            f"--teacher {name}",
            f"is a student of {own:g} um/px, not the teacher of {wanted:g} um/px (data.mpp)",
            "give the run that this student was distilled from",
        )
    raise ConfigError(
        "data.mpp", f"{wanted:g} is not the teacher's {own:g} um/px",
        f"set data.mpp={own:g} and data.student_mpp to the student's",
    )  # fmt: skip


def _source(config: Any) -> str:
    return str(getattr(config.data, "source", "auto"))


def _check_exists(path: Path, remedy: str) -> None:
    if not path.exists():
        raise DataError(path, "does not exist", remedy)
