"""The one place where a slide's resolution is decided. It is never guessed."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from wsikd.core.errors import MissingMppError
from wsikd.slides.base import Mpp

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger(__name__)

PLAUSIBLE_MPP = (0.05, 20.0)
PLAUSIBLE_POWER_TIMES_MPP = (5.0, 20.0)
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
    """Decide the resolution of level 0: what the user gives, else what the file says.

    Args:
        name: the slide, for messages.
        properties: OpenSlide's properties of the file.
        given: um/px from a manifest or an option, which wins over the file.
        given_source: where ``given`` came from.

    Raises:
        MissingMppError: nothing credible is known.
    """
    if given is not None:
        _check(name, given, given_source)
        return Mpp(given, given, given_source)
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
