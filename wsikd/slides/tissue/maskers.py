"""Names of what finds tissue; apart, so that a command can check them in no time."""

from __future__ import annotations

MASKERS: dict[str, str] = {
    "otsu": "wsikd.slides.tissue.otsu:otsu",
    "all": "wsikd.slides.tissue.find:everything",
    "tiatoolbox-otsu": "wsikd.tia:otsu_masker",
    "tiatoolbox-morphological": "wsikd.tia:morphological_masker",
}
"""Name -> ``(uint8 (height, width, 3), um per px) -> bool (height, width)``, areas unfiltered."""
OWN_MASK = "mask"
"""Method on record where the user's own masks say what is tissue."""
