"""The rule that selects the fields for the teacher, from validation data in the student's card.

The card holds the curve of :func:`wsikd.core.escalation.trade_off`. The rule takes the cheapest
threshold of doubt that keeps a stated agreement with the teacher, or a stated kappa with the
labels, with 95 % confidence. Cards of earlier versions have no bounds. Their threshold reaches its
validation value on other slides in about half of cases, and the log says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wsikd.core.errors import MALFORMED, BundleError, ConfigError
from wsikd.core.escalation import (
    CONFIDENCE,
    assured_place,
    best_place,
    place_for,
    place_for_kappa,
    slides_needed,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wsikd.models.files.bundle import StudentBundle

BUDGET = 0.1
AGREEMENT = 0.95
NO_BOUND = "; the card has no lower bound, so that other slides may have less"


@dataclass(frozen=True)
class Rule:
    """Selects the fields that the teacher reads again.

    Attributes:
        budget: greatest share of a slide's fields, 0 to 1; 1 takes all.
        threshold: least doubt of a selected field; None: the budget alone selects, the most
            doubtful first.
        temperature: the student's temperature; None if it is not calibrated.
        text: the rule in words, for the log.
    """

    budget: float
    threshold: float | None = None
    temperature: float | None = None
    text: str = ""


def rule_of(
    student: StudentBundle,
    teacher: StudentBundle,
    *,
    budget: float,
    agreement: float,
    kappa: float | None = None,
) -> Rule:
    """The rule for a pair; it uses the curve in the student's card if that is for this teacher.

    Args:
        student: its card may have the entry ``escalation``, which ``wsikd distill`` writes.
        teacher: reads the selected fields.
        budget: greatest share of the fields, 0 to 1.
        agreement: share of fields that must have the teacher's class.
        kappa: kappa with the labels of the fields to reach, in place of ``agreement``.

    Raises:
        BundleError: the curve is damaged.
        ConfigError: the card holds no such kappa, or validation does not reach it.
    """
    temperature = student.temperature
    unsure = (
        "the most uncertain first" if temperature else "the most uncertain first (uncalibrated)"
    )
    if budget >= 1:
        return Rule(1.0, None, temperature, "every field is read again")
    found = student.card.escalation
    if not isinstance(found, dict) or found.get("teacher_sha256") != teacher.sha256:
        why = (
            "is for another teacher"
            if isinstance(found, dict)
            else "holds no uncertainty threshold"
        )
        if kappa is not None:
            remedy = "omit --kappa, or distil the student from this teacher"
            raise ConfigError("--kappa", f"the student's card {why}", remedy)
        text = f"the student's card {why}: {budget:.3g} of the fields are read again, {unsure}"
        return Rule(budget, None, temperature, text)
    try:
        if kappa is not None:
            return _reaching(found, budget, kappa, temperature)
        return _from_curve(found, budget, agreement, temperature)
    except ConfigError:
        raise
    except MALFORMED as error:
        from wsikd.models.files.bundle import CARD

        raise BundleError(
            student.path / CARD, f"its escalation cannot be read ({error!r})", "copy it again"
        ) from error


def _from_curve(
    found: Mapping[str, Any], budget: float, agreement: float, temperature: float | None
) -> Rule:
    curve = {k: [float(v) for v in found["curve"][k]] for k in ("threshold", "share", "agreement")}
    low = _bounds(found, "agreement_low", len(curve["share"]))
    if low is None:
        place = place_for(curve, agreement)
    else:
        assured = assured_place(low, agreement)
        if assured is None or (assured and assured == len(low) - 1):
            return _unassured(found, low, curve["share"], budget, agreement, temperature)
        place = assured
    text = _start(found, curve, place, budget)
    text += f"{curve['agreement'][place]:.3f} had the teacher's class"
    if curve["share"][place] > budget:
        within = max(i for i, s in enumerate(curve["share"]) if s <= budget)
        text += f" (within the budget {curve['agreement'][within]:.3f})"
    text += NO_BOUND if low is None else _assured(found, low[place])
    return Rule(budget, curve["threshold"][place], temperature, text)


def _unassured(
    found: Mapping[str, Any],
    low: list[float | None],
    share: list[float],
    budget: float,
    agreement: float,
    temperature: float | None,
) -> Rule:
    """The rule if no threshold has the agreement as its bound: the budget alone selects."""
    groups, needed = int(found["groups"]), slides_needed(agreement)
    why = f"{groups} validation slide(s) or patient(s) do not show an agreement of {agreement:g}"
    if groups < needed:
        why += f" (at least {needed} are needed)"
    within = low[max(i for i, s in enumerate(share) if s <= budget)]
    shown = "no agreement" if within is None else f"an agreement of {_floor(within)}"
    text = (
        f"{why} unless every field is read again (--budget 1): {budget:.3g} of the fields are, the "
        f"most uncertain first, which assures {shown} with {CONFIDENCE:.0%} confidence"
    )
    return Rule(budget, None, temperature, text)


def _bounds(found: Mapping[str, Any], key: str, length: int) -> list[float | None] | None:
    """Bounds of the curve; None if the card, of an earlier version, has none."""
    if key not in found["curve"]:
        return None
    low = [None if v is None else float(v) for v in found["curve"][key]]
    if len(low) != length:
        raise ValueError(f"{key} has {len(low)} values, not {length}")
    return low


def _assured(found: Mapping[str, Any], low: float | None) -> str:
    return (
        f", and other slides have at least {_floor(low)} with {CONFIDENCE:.0%} confidence by "
        f"{int(found['groups'])} slides or patients, where the budget cuts none"
    )


def _reaching(
    found: Mapping[str, Any], budget: float, kappa: float, temperature: float | None
) -> Rule:
    """The cheapest rule that keeps a stated kappa with the labels."""
    if "truth_kappa" not in found["curve"]:
        fault = (
            "the student's card was written by an older wsikd and holds no kappa with the labels"
        )
        raise ConfigError("--kappa", fault, "distil it again, or give --agreement")
    curve = {k: [float(v) for v in found["curve"][k]] for k in ("threshold", "share")}
    values = [None if v is None else float(v) for v in found["curve"]["truth_kappa"]]
    known: dict[str, Any] = {**curve, "truth_kappa": values}
    low = _bounds(found, "truth_kappa_low", len(curve["share"]))
    best = best_place(known)
    place = place_for_kappa(known, kappa) if low is None else assured_place(low, kappa)
    fields = f"the {int(found['fields'])} validation fields of {int(found['slides'])} slide(s)"
    if best is None:
        raise ConfigError("--kappa", f"is undefined on {fields}", "give --agreement")
    if place is None and low is not None:
        bound = f"{_floor(low[-1])} is assured where every field is read again"
        if low[-1] is None:
            bound = f"{int(found['groups'])} slides or patients are too few, or too much alike"
        raise ConfigError(
            f"--kappa {kappa:g}",
            f"not shown with {CONFIDENCE:.0%} confidence by {fields}: {bound}",
            "lower --kappa, give --agreement, or distil with more validation slides",
        )
    if place is None:
        raise ConfigError(
            f"--kappa {kappa:g}",
            f"not reached on {fields}: {_floor(values[best])} at best, with "
            f"{curve['share'][best]:.2g} of them read again",
            "lower --kappa, or give --agreement",
        )
    if (share := curve["share"][place]) > budget:
        within = best_place(known, budget)
        reached = "none" if within is None else _floor(values[within])
        fault = (
            f"needs {share:.3g} of {fields} graded by the teacher; the budget {budget:.3g} "
            f"reaches {reached}"
        )
        remedy = (
            f"give --budget {math.ceil(share * 100) / 100:g}"
            if share < 1
            else ("only the teacher reaches it: give --budget 1 without --kappa")
        )
        raise ConfigError(f"--kappa {kappa:g}", fault, f"{remedy}, or lower --kappa")
    text = (
        f"{_start(found, curve, place, budget)}kappa with their labels was {values[place]:.3f} "
        f"(student alone {_shown(values[0])}, teacher {_shown(values[-1])})"
        f"{NO_BOUND if low is None else _assured(found, low[place])}"
    )
    return Rule(budget, curve["threshold"][place], temperature, text)


def _start(
    found: Mapping[str, Any], curve: Mapping[str, list[float]], place: int, budget: float
) -> str:
    return (
        f"fields in doubt of {curve['threshold'][place]:.3g} or more, at most {budget:.3g} of "
        f"them: on {int(found['fields'])} validation fields of {int(found['slides'])} slide(s) "
        f"that were {curve['share'][place]:.2g}, and then "
    )


def _floor(value: float | None) -> str:
    """Three decimals, rounded down, so that the user can ask for the shown value."""
    return "-" if value is None else f"{math.floor(value * 1000) / 1000:.3f}"


def _shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
