"""Checks of networks by their cards, without PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from wsikd.core.errors import BundleError, ConfigError
from wsikd.core.faults import similar
from wsikd.models.files.bundle import GIVE_A_RUN, peek_bundle
from wsikd.models.files.card import CARD
from wsikd.slides.what_is import GRADER, UNFINISHED, check_role, what_is

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsikd.models.files.bundle import StudentBundle

_TEACHING_MPP = 2.0
_STUDENT_MPP = 4.0


def check_network(path: str | Path, option: str, *kinds: str) -> str:
    """Refuse a path without a network of these kinds; returns the kind that it holds.

    Args:
        path: a bundle or run folder.
        option: the command-line option of the path.
        kinds: kinds of networks, from ``wsikd.slides.what_is``, the usual one first.

    Raises:
        ConfigError: it holds something else.
        BundleError: it does not exist, or holds no finished network.
    """
    path = Path(path)
    if not path.exists():
        raise BundleError(path, "does not exist", f"{GIVE_A_RUN}{similar(path)}")
    check_role(path, option, *kinds, UNFINISHED)
    kind = what_is(path)
    if kind is None:
        raise BundleError(path, f"holds no {CARD}", GIVE_A_RUN)
    if kind == UNFINISHED:
        raise BundleError(
            path, "this run has not finished", "finish it with wsikd distill --resume"
        )
    return kind


def peek_grader(path: str | Path, option: str) -> StudentBundle:
    """Read and check the card of a student or teacher; its weights are not read.

    Raises:
        ConfigError: the path holds something else.
        BundleError: it is missing, unfinished or damaged.
    """
    check_network(path, option, GRADER)
    return peek_bundle(path)


def check_pair(teacher: StudentBundle, student: StudentBundle, remedy: str) -> None:
    """Refuse a teacher and a student that were swapped.

    They count as swapped if the teacher reads coarser pixels, or was distilled from the student.

    Args:
        teacher: the network given as teacher.
        student: the network given as student.
        remedy: the correct command.

    Raises:
        ConfigError: they are swapped.
    """
    own, theirs = teacher.spec.mpp, student.spec.mpp
    card = teacher.card
    taught_by = [card.teacher, *(card.teachers or [])]
    reverse = student.sha256 in [one.sha256 for one in taught_by if one]
    if not reverse and own <= 1.02 * theirs:
        return
    fault = f"reads {own:g} um/px, the student {theirs:g} um/px: the two are swapped"
    if reverse:
        fault = "was distilled from the student: the two are swapped"
    raise ConfigError(f"teacher {_place(teacher)}", fault, remedy)


def check_networks(teacher: Path, students: Sequence[Path]) -> None:
    """Check the cards of a comparison, before PyTorch is imported.

    Raises:
        ConfigError: a path holds something else, or teacher and student are swapped.
        BundleError: a network is missing, unfinished or damaged.
    """
    card = peek_grader(teacher, "--teacher")
    cards = [peek_grader(path, "--student") for path in students]
    for path, student in zip(students, cards, strict=True):
        check_pair(card, student, f"give --teacher {path} --student {teacher}")


def teacher_note(bundle: StudentBundle) -> str | None:
    """A hint for users who grade slides with a teacher by mistake; None for a student."""
    mpp = bundle.spec.mpp
    taught = bundle.card.method is None or bundle.card.teacher
    if taught or mpp > _TEACHING_MPP:
        return None
    more = (_STUDENT_MPP / mpp) ** 2
    return (
        f"{_place(bundle)}: is a teacher at {10 / mpp:g}x; it reads {more:.3g} times the pixels "
        "of a student at 2.5x; if a student is meant, give its run with -m"
    )


def _place(bundle: StudentBundle) -> Path:
    """The run folder of a bundle, or its own folder outside a run."""
    run = bundle.path.parent
    return run if (run / "config.yaml").is_file() else bundle.path
