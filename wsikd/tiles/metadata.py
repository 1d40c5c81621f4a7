"""The record of a slide in its store, and the key that hashes its patient."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from wsikd.core.errors import OutputError
from wsikd.core.output.files import place_new
from wsikd.slides.tissue.find import mask_bytes
from wsikd.tiles.store import read_meta, settings_digest

if TYPE_CHECKING:
    from pathlib import Path

    from wsikd.slides.annotations.base import Annotation
    from wsikd.slides.base import Slide
    from wsikd.tiles.store import StoreSettings

KEY_FILE = ".wsikd-key"
KEY_BYTES = 16


@dataclass(frozen=True)
class SlideNotes:
    """The metadata of a slide.

    ``patient`` is kept as a BLAKE2 hash under ``key``: enough to group by. Who holds the key can
    try out names and numbers, so it never enters a store. Without a ``key`` that of the store's
    folder is taken (``project_key``). ``overlay`` is where the picture of the tissue goes.
    ``reader`` is the one that the user insists on: no store of another reader's pixels will do.
    """

    annotation: Annotation | None = None
    label: str | None = None
    patient: str | None = None
    split: str | None = None
    mask_file: Path | None = None
    overlay: Path | None = None
    key: bytes | None = None
    reader: str | None = None


def project_key(folder: Path) -> bytes:
    """The 16 random bytes in ``folder/.wsikd-key``, drawn the first time; readable by its owner.

    Stores of one key can be grouped by patient together. Keep it with them for resumed runs, copy
    it to another folder before tiling slides of the same patients there, and do not share it.

    Raises:
        OutputError: the file holds no key.
        OSError: it cannot be read or written.
    """
    file = folder / KEY_FILE
    if not file.exists():
        _draw_key(file)
    key = file.read_bytes()
    if len(key) != KEY_BYTES:
        remedy = "restore it, or delete it and tile again with --overwrite"
        raise OutputError(file, f"holds no key of {KEY_BYTES} bytes", remedy)
    return key


def _draw_key(file: Path) -> None:
    """Write a new key whole; where another process was first, its key stays."""
    place_new(file, secrets.token_bytes(KEY_BYTES), mode=0o600)


def describe(
    slide: Slide, settings: StoreSettings, notes: SlideNotes, folder: Path
) -> dict[str, Any]:
    """The record of a store; of the slide only what is listed here, never its own metadata.

    ``folder`` is where the store will lie: its key hides the patient where the notes have none.
    """
    info, mpp = slide.info, slide.mpp
    identity: dict[str, Any] = {
        "fingerprint": info.fingerprint,
        "mpp": [mpp.x, mpp.y],
        "annotation": notes.annotation.digest if notes.annotation else None,
        "label": notes.label,
        "patient": hide_patient(notes.patient, folder, notes.key),
        "split": notes.split,
        "mask": _hash(mask_bytes(notes.mask_file).hex()) if notes.mask_file else None,
        **info.marks,
    }
    return {
        "complete": False,
        "digest": settings_digest(settings, identity),
        "settings": asdict(settings),
        "identity": identity,
        "patient": identity["patient"],
        "split": notes.split,
        "label": notes.label,
        "slide": {
            "name": info.name,
            "file": info.file,
            "vendor": info.vendor,
            "reader": info.reader,
            "reader_note": info.reader_note,
            "dimensions": list(info.dimensions),
            "level_downsamples": [list(d) for d in info.level_downsamples],
            "mpp": [mpp.x, mpp.y],
            "mpp_source": mpp.source,
            "objective_power": info.objective_power,
            "bounds": list(info.bounds),
        },
        "software": dict(_versions()),
    }


@lru_cache
def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("wsikd", "openslide-python", "zarr", "numpy")}


def flat(meta: dict[str, Any]) -> dict[str, Any]:
    """A record's settings and identity on one level, to compare two of them.

    What a record of an older layout lacks is left out.
    """
    return {
        **_section(meta, "settings"),
        **{f"slide {k}": v for k, v in _section(meta, "identity").items()},
    }


def reader_of(meta: dict[str, Any]) -> str | None:
    """What read the pixels of a store, by its record; None if an older one does not hold it."""
    return _section(meta, "slide").get("reader")


def can_resume(part: Path, meta: dict[str, Any]) -> bool:
    """Whether the unfinished store at ``part`` is one of the record ``meta``.

    Readers differ by a grey level here and there, so one store holds the pixels of one reader.
    """
    found = read_meta(part)
    if found is None or found.get("digest") != meta["digest"]:
        return False
    return reader_of(found) == reader_of(meta)


def _section(meta: dict[str, Any], name: str) -> dict[str, Any]:
    section = meta.get(name)
    return section if isinstance(section, dict) else {}


def hide_patient(patient: str | None, folder: Path, key: bytes | None = None) -> str | None:
    """A patient as results name one: a BLAKE2 hash under ``key``, by default that of ``folder``.

    Raises:
        OutputError, OSError: from :func:`project_key`.
    """
    if not patient:
        return None
    key = project_key(folder) if key is None else key
    return hashlib.blake2b(patient.encode(), key=key, digest_size=8).hexdigest()


def _hash(*texts: str) -> str | None:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16] if texts else None
