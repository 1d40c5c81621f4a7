"""The one place where a slide's resolution is decided. It is never guessed."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from wsikd.core.errors import MissingMppError
from wsikd.slides.base import FILLS_GAPS, Mpp

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger(__name__)

PLAUSIBLE_MPP = (0.05, 20.0)
PLAUSIBLE_POWER_TIMES_MPP = (5.0, 20.0)
TOLD_DIFFERENCE = 0.02
REMEDY = "pass --slide-mpp UM_PER_PX, or give it in the column mpp of a manifest"


def mpp_of_magnification(magnification: float) -> float:
    """Resolution that a nominal magnification stands for: 10x is 1.0 um/px, 2.5x is 4.0.

    >>> mpp_of_magnification(2.5)
    4.0
    """
    return 10.0 / magnification


def magnification_of_mpp(mpp: float) -> float:
    """Nominal magnification of a resolution.

    >>> magnification_of_mpp(4.0)
    2.5
    """
    return 10.0 / mpp


def resolve_mpp(
    name: str, properties: Mapping[str, str], *, given: float | None, given_source: str
) -> Mpp:
    """Decide the resolution of level 0 between what the user gives and what the file says.

    A warning tells where the two differ by more than 2 %.

    Args:
        name: the slide, for messages.
        properties: OpenSlide's properties of the file.
        given: um/px from a manifest or an option.
        given_source: where ``given`` came from. From ``FILLS_GAPS`` (the option --slide-mpp) it
            counts only where the file says nothing plausible; from elsewhere it wins over the file.

    Raises:
        MissingMppError: nothing credible is known, or ``given`` is implausible.
    """
    if given is None:
        return _own(name, properties)
    _check(name, given, given_source)
    told = Mpp(given, given, given_source)
    try:
        own = _own(name, properties)
    except MissingMppError:
        return told
    used, other = (own, told) if given_source == FILLS_GAPS else (told, own)
    if max(abs(own.x - given) / own.x, abs(own.y - given) / own.y) > TOLD_DIFFERENCE:
        log.warning(
            "%s: %g um/px (%s) is used, not %g (%s)",
            *(name, used.x, used.source, other.x, other.source),
        )
    return used


def _own(name: str, properties: Mapping[str, str]) -> Mpp:
    """What the file says; raises MissingMppError where that is nothing plausible."""
    x, y = (_number(properties.get(f"openslide.mpp-{axis}")) for axis in "xy")
    if x is None or y is None:
        raise MissingMppError(
            name, "no resolution in its metadata (openslide.mpp-x absent)", REMEDY
        )
    source = _source(properties)
    _check(name, x, source)
    _check(name, y, source)
    power = _number(properties.get("openslide.objective-power"))
    low, high = PLAUSIBLE_POWER_TIMES_MPP
    if power is not None and not low <= power * x <= high:
        log.warning(
            "%s: objective power %g and %g um/px do not fit each other; the latter is used",
            name,
            power,
            x,
        )
    return Mpp(x, y, source)


def _check(name: str, mpp: float, source: str) -> None:
    low, high = PLAUSIBLE_MPP
    if not low <= mpp <= high:
        fault = f"a resolution of {mpp:g} um/px ({source}) is implausible (not {low:g} to {high:g})"
        raise MissingMppError(name, fault, REMEDY)


def _source(properties: Mapping[str, str]) -> str:
    if "aperio.MPP" in properties:
        return "aperio.MPP"
    if properties.get("openslide.vendor") == "generic-tiff":
        return "TIFF resolution tags"
    return f"{properties.get('openslide.vendor', 'file')} metadata"


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None
