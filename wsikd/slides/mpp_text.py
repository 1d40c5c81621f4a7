"""Resolution and magnification in the image descriptions of scanners' files.

Spellings are those of Aperio and Motic (``MPP = 0.25``), libvips and QuPath (``mpp-x``),
PerkinElmer (``<PixelSizeMicrons>``), Ventana (``ScanRes="0.25"``), Leica and Bio-Formats
(``MicronsPerPixel``, ``PixelSizeX``), and words such as ``0.25 um/pixel``.
"""

from __future__ import annotations

import re

from wsikd.slides.base import Mpp

_NUMBER = r"([0-9]+(?:[.,][0-9]+)?(?:[eE][-+]?[0-9]+)?)"
_UNIT = r"(um|[\u00b5\u03bc]m|microns?|micromet(?:er|re)s?|nm|mm)"
_UM = {"nm": 1e-3, "mm": 1e3}
_KEYED = re.compile(
    r"(?<![a-z])"
    r"(mpp|(?:microns?|um|[\u00b5\u03bc]m)[ _-]?per[ _-]?(?:pixel|px)|scan[ _-]?res"
    r"|(?:physical|pixel)[ _-]?size(?:[ _-]?(?:in[ _-]?)?(?:microns?|um))?)"
    r"(?:[ _.-]?([xy])(?![a-z]))?"
    rf"\s*(?:[\(\[]\s*{_UNIT}?[^)\]]*[\)\]])?[\"']?\s*[=:>]\s*[\"']?\s*{_NUMBER}\s*{_UNIT}?",
    re.IGNORECASE,
)
_IN_WORDS = re.compile(
    rf"(?<![\w.,]){_NUMBER}\s*{_UNIT}\s*(?:/|per)\s*(?:pixel|px)\b", re.IGNORECASE
)
_POWER = re.compile(
    r"(?<![a-z])(?:AppMag|Objective[ _-]?(?:Power|Magnification)?|Magnification)"
    rf"[\"']?\s*[=:>]\s*[\"']?\s*{_NUMBER}",
    re.IGNORECASE,
)
_MOST = 1 << 16


def description_mpp(text: str) -> Mpp | None:
    """um per pixel that an image description names; None where it names none.

    >>> description_mpp("Scanner V1|AppMag = 40|MPP = 0.257290")
    Mpp(x=0.25729, y=0.25729, source='MPP in its image description')
    """
    text = text[:_MOST]
    axes: dict[str, float] = {}
    name = ""
    for match in _KEYED.finditer(text):
        key, axis, before, value, after = match.groups()
        name = name or key
        axes.setdefault((axis or "").lower(), _um(value, after or before))
    if axes:
        both = axes.get("", next(iter(axes.values())))
        source = f"{name} in its image description"
        return Mpp(axes.get("x", both), axes.get("y", both), source)
    words = _IN_WORDS.search(text)
    if words:
        size = _um(words[1], words[2])
        return Mpp(size, size, f"{words[2]}/pixel in its image description")
    return None


def description_power(text: str) -> float | None:
    """Power of the objective that an image description names, such as ``AppMag = 20``."""
    match = _POWER.search(text[:_MOST])
    return float(match[1].replace(",", ".")) if match else None


def _um(value: str, unit: str | None) -> float:
    return float(value.replace(",", ".")) * _UM.get((unit or "um").lower(), 1.0)
