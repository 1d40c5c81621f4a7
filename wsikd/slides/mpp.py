"""The one place where a slide's resolution is decided. It is never guessed."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wsikd.core.errors import MissingMppError
from wsikd.slides.base import FILLS_GAPS, Mpp
from wsikd.slides.mpp_text import description_mpp
from wsikd.slides.ome_xml import is_ome_xml, number, ome_images

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

log = logging.getLogger(__name__)

PLAUSIBLE_MPP = (0.05, 20.0)
PLAUSIBLE_POWER_TIMES_MPP = (5.0, 20.0)
STATED_DIFFERENCE = 0.02
"""Between the number that the user gives and the file's own: both are meant to be exact."""
OWN_DIFFERENCE = 0.05
"""Between two statements of one file; tags are often rounded."""
_KNOWN_TAGS = ("aperio", "generic-tiff", "file")
TAGS = "TIFF resolution tags"
_INCH, _CENTIMETRE = 2, 3
_TAG_UNITS = {_INCH: 25400.0, _CENTIMETRE: 10000.0}
_UM = {
    **dict.fromkeys(("um", "\N{MICRO SIGN}m", "\N{GREEK SMALL LETTER MU}m"), 1.0),
    **dict.fromkeys(("micrometer", "micrometre", "micron"), 1.0),
    **dict.fromkeys(("nm", "nanometer", "nanometre"), 1e-3),
    **dict.fromkeys(("mm", "millimeter", "millimetre"), 1e3),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), 1e4),
    **dict.fromkeys(("m", "meter", "metre"), 1e6),
    **dict.fromkeys(("in", "inch"), 25400.0),
}
_NO_UNIT = "its TIFF resolution tags have no unit (ResolutionUnit 1)"


@dataclass(frozen=True)
class Evidence:
    """The resolution in a file's metadata.

    ``claims`` are its statements in um per level-0 pixel, the most trusted first; ``silent`` says
    why other parts of the file hold none; ``power`` is the objective's, which is compared with the
    resolution but never turned into one.
    """

    claims: tuple[Mpp, ...] = ()
    silent: tuple[str, ...] = ()
    power: float | None = None

    @classmethod
    def of(cls, found: Iterable[Mpp | str | None], power: float | None = None) -> Evidence:
        """Sort what was found into claims (Mpp) and reasons for their absence (text)."""
        found = list(found)
        claims = tuple(item for item in found if isinstance(item, Mpp))
        return cls(claims, tuple(item for item in found if isinstance(item, str)), power)


def mpp_of_magnification(magnification: float) -> float:
    """Resolution of a nominal magnification: 10x is 1.0 um/px, 2.5x is 4.0.

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


def resolve_mpp(name: str, file: Evidence, *, given: float | None, given_source: str) -> Mpp:
    """Decide the resolution of level 0 from the user's value and the file's metadata.

    One warning names the number used and those that differ from it: by more than 2 % between the
    user's and the file's, by more than 5 % between two of the file's. Another one says where the
    objective's power does not fit.

    Args:
        name: the slide, for messages.
        file: what the file says.
        given: um/px from a manifest or an option.
        given_source: where ``given`` came from. From ``FILLS_GAPS`` (the option --slide-mpp) it
            counts only where the file says nothing plausible; from elsewhere it wins over the file.

    Raises:
        MissingMppError: nothing credible is known, or ``given`` is implausible.
    """
    if given is None:
        used = _own(name, file)
    else:
        stated = Mpp(given, given, given_source)
        if not _plausible(stated):
            raise MissingMppError(name, _implausible(stated), remedy(name))
        used = _choose(name, file, stated)
    low, high = PLAUSIBLE_POWER_TIMES_MPP
    if file.power is not None and not low <= file.power * used.x <= high:
        log.warning(
            "%s: objective power %g and %g um/px contradict each other; the latter is used",
            *(name, file.power, used.x),
        )
    return used


def remedy(name: str) -> str:
    """What to type where a slide has no resolution; the number is an example."""
    return (
        f"pass --slide-mpp 0.25 (with this scanner's um/px for 0.25), or -i with a CSV manifest of "
        f"the lines 'slide,mpp' and '{name},0.25'"
    )


def _choose(name: str, file: Evidence, stated: Mpp) -> Mpp:
    """Between a plausible ``stated`` and the file's own."""
    try:
        own = _first(name, file)
    except MissingMppError:
        return stated
    if stated.source != FILLS_GAPS:
        _warn(name, stated, [own] if _differ(stated, own, STATED_DIFFERENCE) else [])
        return stated
    _warn(name, own, _contradicting(own, file, stated))
    return own


def _own(name: str, file: Evidence) -> Mpp:
    """The first plausible claim of the file; raises MissingMppError where there is none."""
    own = _first(name, file)
    _warn(name, own, _contradicting(own, file))
    return own


def _contradicting(own: Mpp, file: Evidence, stated: Mpp | None = None) -> list[Mpp]:
    found = [stated] if stated and _differ(own, stated, STATED_DIFFERENCE) else []
    others = (claim for claim in file.claims if claim is not own and _plausible(claim))
    return found + [claim for claim in others if _differ(own, claim, OWN_DIFFERENCE)]


def _differ(a: Mpp, b: Mpp, by: float) -> bool:
    return max(abs(a.x - b.x) / min(a.x, b.x), abs(a.y - b.y) / min(a.y, b.y)) > by


def _warn(name: str, used: Mpp, others: list[Mpp]) -> None:
    if others:
        against = ", nor ".join(f"{one.x:g} ({one.source})" for one in others)
        log.warning("%s: %g um/px (%s) is used, not %s", name, used.x, used.source, against)


def _first(name: str, file: Evidence) -> Mpp:
    """The first plausible claim of the file; raises MissingMppError where there is none."""
    for claim in file.claims:
        if _plausible(claim):
            if claim is not file.claims[0]:
                log.warning(
                    "%s: %s; %g um/px (%s) is used",
                    *(name, _implausible(file.claims[0]), claim.x, claim.source),
                )
            return claim
    if file.claims:
        raise MissingMppError(name, _implausible(file.claims[0]), remedy(name))
    why = ", ".join(file.silent) or "it names none"
    raise MissingMppError(name, f"no resolution in its metadata ({why})", remedy(name))


def _plausible(mpp: Mpp) -> bool:
    low, high = PLAUSIBLE_MPP
    return low <= mpp.x <= high and low <= mpp.y <= high


def _implausible(mpp: Mpp) -> str:
    low, high = PLAUSIBLE_MPP
    value = mpp.y if low <= mpp.x <= high else mpp.x
    return (
        f"a resolution of {value:g} um/px ({mpp.source}) is implausible (not {low:g} to {high:g})"
    )


def openslide_evidence(properties: Mapping[str, str]) -> Evidence:
    """What OpenSlide's properties of a file say: its vendor's metadata, then its TIFF tags.

    OpenSlide reports the resolution tags of a TIFF of no known vendor as openslide.mpp-x; the
    sizes of an OME-TIFF, which it does not read, are preferred to them.
    """
    vendor = properties.get("openslide.vendor", "file")
    x, y = (_number(properties.get(f"openslide.mpp-{axis}")) for axis in "xy")
    own: Mpp | str = "openslide.mpp-x absent"
    if x is not None and y is not None:
        aperio = "aperio.MPP" in properties
        own = Mpp(x, y, "aperio.MPP" if aperio else f"{vendor} metadata")
    tags = tag_claim(
        _number(properties.get("tiff.XResolution")),
        _number(properties.get("tiff.YResolution")),
        {"inch": _INCH, "centimeter": _CENTIMETRE}.get(properties.get("tiff.ResolutionUnit", "")),
    )
    found: list[Mpp | str | None] = [own, tags]
    if vendor == "generic-tiff":
        if isinstance(own, Mpp):
            found = [Mpp(own.x, own.y, TAGS)]
        comment = properties.get("openslide.comment", "")
        found[:0] = [ome_claim(comment), None if is_ome_xml(comment) else description_mpp(comment)]
    elif vendor not in _KNOWN_TAGS and isinstance(own, Mpp) and _plausible(own):
        found = [own]  # the tags that OpenSlide reports may be those of a label or a macro image
    return Evidence.of(found, _number(properties.get("openslide.objective-power")))


def tag_claim(x: float | None, y: float | None, unit: int | None) -> Mpp | str | None:
    """TIFF's XResolution, YResolution (pixels per unit) and ResolutionUnit (2 inch, 3 centimetre).

    Resolutions without a unit say nothing; None where the tags are absent.
    """
    if not x or not y:
        return None
    if unit not in _TAG_UNITS:
        return _NO_UNIT
    return Mpp(_TAG_UNITS[unit] / x, _TAG_UNITS[unit] / y, TAGS)


def ome_claim(xml: str) -> Mpp | str | None:
    """Physical size of the largest image of an OME-XML; None if it is not OME-XML."""
    if not is_ome_xml(xml):
        return None
    images = ome_images(xml, "")
    if isinstance(images, str):
        return images
    sizes = [number(one.pixels.get("SizeX")) * number(one.pixels.get("SizeY")) for one in images]
    return ome_pixels_claim(images[sizes.index(max(sizes))].pixels)


def ome_pixels_claim(pixels: Mapping[str, str]) -> Mpp | str:
    """PhysicalSizeX and PhysicalSizeY of the attributes of an OME Pixels element.

    Source: OME model 2016-06; a size without unit is in um.
    """
    sizes = []
    for axis in "XY":
        size, unit = (pixels.get(f"PhysicalSize{axis}{suffix}") for suffix in ("", "Unit"))
        value = _number(size)
        if value is None:
            return f"no PhysicalSize{axis} in its OME-XML"
        if (unit or "um") not in _UM:
            return f"PhysicalSize{axis} of its OME-XML is in '{unit}'"
        sizes.append(value * _UM[unit or "um"])
    return Mpp(sizes[0], sizes[1], "PhysicalSizeX of its OME-XML")


def ngff_claim(multiscale: Mapping[str, Any]) -> Mpp | str:
    """Scale of the first dataset of an OME-Zarr multiscale, in the units of its axes.

    Source: https://ngff.openmicroscopy.org/0.4/ (multiscales); an axis without unit has no scale.
    """
    try:
        axes = [axis["name"] for axis in multiscale["axes"]]
        units = {axis["name"]: axis.get("unit") for axis in multiscale["axes"]}
        scale = [1.0] * len(axes)
        lists = (multiscale, multiscale["datasets"][0])
        for step in (s for each in lists for s in each.get("coordinateTransformations") or ()):
            if step["type"] == "scale":
                scale = [a * float(b) for a, b in zip(scale, step["scale"], strict=True)]
        if any(units[axis] not in _UM for axis in "yx"):
            return f"its axes are in '{units['x']}'"
        x, y = (scale[axes.index(axis)] * _UM[units[axis]] for axis in "xy")
    except (KeyError, IndexError, TypeError, ValueError):
        return "its coordinateTransformations cannot be understood"
    return Mpp(x, y, "coordinateTransformations of its OME-Zarr")


def jp2_claim(x: float | None, y: float | None) -> Mpp | str:
    """Capture resolution of a JP2 file in pixels per metre.

    Source: ITU-T T.800, I.5.3.7.1 (box ``resc``).
    """
    if not x or not y:
        return "no capture resolution in its JP2 boxes"
    return Mpp(1e6 / x, 1e6 / y, "JP2 capture resolution")


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None
