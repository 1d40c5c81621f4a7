"""Files that belong to a slide by their name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from wsikd.core.errors import AnnotationError, ConfigError
from wsikd.core.registry import resolve
from wsikd.slides.file_format import slide_stem
from wsikd.slides.tissue.maskers import MASKERS, OWN_MASK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsikd.slides.listing.entry import SlideEntry

DRAWN = (".geojson", ".json", ".xml")
_IMAGES = (".tif", ".tiff", ".png")
ENDINGS = (*DRAWN, *(f"_mask{suffix}" for suffix in _IMAGES), *_IMAGES)
"""Endings after a slide's stem, in the order of the search."""
MASK_ENDINGS = tuple(ending for ending in ENDINGS if ending != ".xml")
"""Endings of masks of tissue, in the order of the search."""


def sidecar(place: Path, slide: Path, endings: Sequence[str] = ENDINGS) -> Path | None:
    """The annotation or mask of a slide.

    Args:
        place: one file for every slide, or a folder that holds ``<stem>.geojson``, ``.json``,
            ``.xml``, ``<stem>_mask.tif`` (as PANDA names them), ``.tif``, ``.tiff`` or ``.png``.
        slide: the slide, which is never its own sidecar; a folder of DICOM has its name as stem.
        endings: what may follow the stem, the first that is there counts.

    Returns:
        The first of these that is there; None where there is none.
    """
    if place.is_file():
        return place
    stem = slide_stem(slide)
    own = slide.absolute()
    candidates = (place / f"{stem}{ending}" for ending in endings)
    return next((c for c in candidates if _is_there(c) and c.absolute() != own), None)


def _is_there(file: Path) -> bool:
    try:
        return file.is_file()
    except OSError:  # its name is longer than the file system allows
        return False


def own_masks(
    tissue: str, entries: Sequence[SlideEntry]
) -> tuple[str, list[SlideEntry], list[SlideEntry]]:
    """Distinguish a masker's name from a path of the user's own masks, as ``--tissue`` takes both.

    Args:
        tissue: an entry of ``MASKERS``, a mask file, or a folder of masks named after the slides.
        entries: the slides; a mask that the manifest gives one of them stays.

    Returns:
        The tissue method for the record, the slides with their masks, and those slides for which
        the folder holds none.

    Raises:
        ConfigError: ``tissue`` is neither.
    """
    method = tissue_method(tissue)
    if method == tissue:
        return method, list(entries), []
    place = Path(tissue)
    found = [e if e.mask else replace(e, mask=_own_mask(place, e)) for e in entries]
    return method, [e for e in found if e.mask], [e for e in found if not e.mask]


def _own_mask(place: Path, entry: SlideEntry) -> Path | None:
    """The mask named after a slide or one of its copies."""
    found = (sidecar(place, path, MASK_ENDINGS) for path in (entry.path, *entry.copies))
    return next((mask for mask in found if mask), None)


def tissue_method(tissue: str) -> str:
    """What ``--tissue`` is called on record: a masker's name, or ``OWN_MASK`` for a place of masks.

    Raises:
        ConfigError: it is neither.
    """
    if tissue not in MASKERS and Path(tissue).exists():
        return OWN_MASK
    _known(tissue)
    return tissue


def no_mask(entry: SlideEntry, folder: str) -> AnnotationError:
    """The error of a slide for which a folder of masks holds none."""
    fault = f"no mask for it in {folder}"
    remedy = f"add {entry.path.stem}.png or .geojson there, or use --tissue otsu"
    return AnnotationError(entry.name, fault, remedy)


def _known(name: str) -> None:
    """Refuse an unknown masker; raises ConfigError."""
    if name in MASKERS:
        return
    if Path(name).suffix or len(Path(name).parts) > 1:
        remedy = f"give an existing mask or folder of masks, or one of {', '.join(MASKERS)}"
        raise ConfigError(name, "neither a file or folder nor a masker", remedy)
    resolve(MASKERS, name, kind="maskers")
