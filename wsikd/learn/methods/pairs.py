"""Which map of the student is compared with which map of the teacher."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from wsikd.core.errors import ConfigError

if TYPE_CHECKING:
    from wsikd.models.graders.pooled import Grader


class TapPair(NamedTuple):
    """Names of a tap of the student and one of the teacher, and their channels in that order."""

    student: str
    teacher: str
    channels: tuple[int, int]


def tap_pair(name: str | None, student: Grader, teacher: Grader, key: str) -> TapPair:
    """Read the name of a pair of taps.

    Args:
        name: "F3" for that tap of both, "F3:F2" for the student's and the teacher's, None for the
            deepest of each.
        student: network.
        teacher: network.
        key: setting that gave the name, for the message.

    Raises:
        ConfigError: a network has no such tap.
    """
    if name is None:
        names = (student.backbone.deepest, teacher.backbone.deepest)
    else:
        own, _, theirs = name.partition(":")
        names = (own.strip(), (theirs or own).strip())
    channels = []
    for who, net, tap in zip(("student", "teacher"), (student, teacher), names, strict=True):
        taps = net.backbone.taps
        if tap not in taps:
            raise ConfigError(
                f"{key} {name}", f"the {who} has no such tap", f"choose among {', '.join(taps)}"
            )
        channels.append(taps[tap].channels)
    return TapPair(*names, (channels[0], channels[1]))


def matching_tap(name: str | None, student: Grader, teacher: Grader, ratio: float) -> TapPair:
    """The student's tap whose grid comes nearest to that of the teacher's deepest.

    Among equally near ones it is the deepest.

    Args:
        name: the student's tap, None to look for it.
        student: network.
        teacher: network.
        ratio: side of what the teacher's backbone reads over the student's, in pixels.

    Raises:
        ConfigError: the student has no such tap.
    """
    deepest = teacher.backbone.deepest
    if name is not None:
        return tap_pair(f"{name}:{deepest}", student, teacher, "taps.sr")
    wanted = teacher.backbone.taps[deepest].stride / ratio
    taps = student.backbone.taps
    distance = {n: abs(math.log(t.stride / wanted)) for n, t in taps.items()}
    best = min(reversed(list(taps)), key=lambda n: round(distance[n], 6))
    return tap_pair(f"{best}:{deepest}", student, teacher, "taps.sr")


def check_channels(term: str, own: int, target: int) -> None:
    """Refuse maps of different depth. Raises ConfigError."""
    if own != target:
        raise ConfigError(
            f"weights.{term}",
            f"the student's {own} channels do not match the teacher's {target}",
            f"use the same network and width, set taps.project, or set weights.{term} to 0",
        )
