"""Reasons to refuse a choice: networks that learnt from the slides, and earlier calls on them.

The error rate of a fixed sequence holds for one sequence per set of slides. Each call with a margin
is therefore kept in the ledger of looks. A later call on these slides, or on some of them,
continues the sequence: it ends once a student has failed, and the margin may not be widened. The
same call again has the same answer. Users who have seen figures on these slides before they state a
margin may have chosen it, or the students, by them: such looks are kept and counted too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wsikd.core.output.looks import Part, earlier, note

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COMMAND = "wsikd bench --margin"
WITHOUT = "wsikd bench"
_DIGITS = 12


def obstacle(
    seen: Mapping[str, Mapping[str, str] | None],
    before: Sequence[Mapping[str, Any]],
    question: Mapping[str, Any],
) -> str | None:
    """The reason why no student may be chosen; None if one may be.

    Args:
        seen: slides that each network has learnt from, see ``choice.seen_slides``.
        before: earlier looks with a margin at some of these slides.
        question: ``part``, ``margin``, ``unit``, ``teacher`` and ``students`` of this call.
    """
    knowing = [name for name, slides in seen.items() if slides]
    if knowing:
        return f"no conclusion: {', '.join(knowing)} learnt from some of the slides; take others"
    for look in before:
        if all(look.get(key) == value for key, value in question.items()):
            continue
        when = str(look["time"])[:10]
        margin = look.get("margin")
        if look.get("failed"):
            return (
                f"no conclusion: on {when} a student failed on these slides, or on some of them, "
                f"which ended the sequence of tests (margin {margin:g}); take other slides"
            )
        if isinstance(margin, float) and margin < question["margin"]:
            return (
                f"no conclusion: on {when} a margin of {margin:g} was stated for these slides, or "
                "some of them, and it may not be widened; state that one, or take other slides"
            )
    return None


def asked_before(part: Part) -> list[dict[str, Any]]:
    """Earlier calls with a margin on some of these slides."""
    return [look for look in earlier(part) if _with_margin(look)]


def _with_margin(look: Mapping[str, Any]) -> bool:
    return look["command"] == COMMAND and isinstance(look.get("margin"), float)


def seen_before(part: Part) -> int:
    """Looks at some of these slides before the first call with a margin, by any command."""
    looks = earlier(part)
    return next((n for n, look in enumerate(looks) if _with_margin(look)), len(looks))


def seen_text(times: int) -> str:
    """A sentence, without full stop, on looks before the margin was stated; empty for none."""
    if not times:
        return ""
    often = "once" if times == 1 else f"{times} times"
    return (
        f"these slides, or some of them, have been looked at {often} before without a margin: the "
        "error of the answer is larger if the margin or the students were chosen by what was seen"
    )


def keep_without(part: Part, teacher: str) -> None:
    """Record a call without a margin, since it shows kappas too."""
    note(part, command=WITHOUT, network=teacher[:_DIGITS])


def ask(part: Part, margin: float, unit: str, networks: Sequence[str]) -> dict[str, Any]:
    """The entries of this call that are compared with earlier ones.

    Args:
        part: the slides.
        margin: how much kappa a student may lose.
        unit: "field" or "slide".
        networks: digests of the weights, the teacher's first.
    """
    short = [digest[:_DIGITS] for digest in networks]
    return {
        "part": part.key, "margin": float(margin), "unit": unit, "teacher": short[0],
        "students": short[1:],
    }  # fmt: skip


def keep(part: Part, question: Mapping[str, Any], choice: Mapping[str, Any]) -> None:
    """Record a call and whether a student failed in it."""
    failed = any(test["not_inferior"] is False for test in choice["tests"])
    more = {k: v for k, v in question.items() if k != "part"}
    note(part, command=COMMAND, network=str(more["teacher"]), failed=failed, **more)
