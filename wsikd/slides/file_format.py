"""The file format of a slide, from its first bytes, and its identity."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any, Literal

from wsikd.core.reading import read_json
from wsikd.slides.dicom.grouping import DICOM_SUFFIX, series_of

if TYPE_CHECKING:
    from pathlib import Path

Kind = Literal["tiff", "jp2", "ome-zarr"]

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_JP2 = b"\0\0\0\x0cjP  \r\n\x87\n"
_WHOLE_FOLDER_FILES = 1000
_EDGE_BYTES = 1 << 18


def kind_of(path: Path) -> Kind | None:
    """Kind of a file or folder that a reader other than OpenSlide may know; None for all others."""
    if path.is_dir():
        return "ome-zarr" if "multiscales" in zarr_attributes(path) else None
    try:
        with path.open("rb") as stream:
            head = stream.read(len(_JP2))
    except OSError:
        return None
    if head.startswith(_TIFF):
        return "tiff"
    return "jp2" if head == _JP2 else None


def is_image_zarr(folder: Path) -> bool:
    """Whether a folder is an OME-Zarr image, and not one of wsikd's own tile stores."""
    attributes = zarr_attributes(folder)
    return "multiscales" in attributes and "wsikd" not in attributes


def is_zarr(folder: Path) -> bool:
    """Whether a folder is a Zarr group or array, or bears the name of one."""
    if folder.suffix.lower() == ".zarr":
        return True
    return any((folder / name).is_file() for name in (".zgroup", ".zarray", "zarr.json"))


def zarr_attributes(folder: Path) -> dict[str, Any]:
    """Attributes of a Zarr group, those below ``ome`` (OME-Zarr 0.5) lifted; empty if it is none.

    Format 2 keeps them in ``.zattrs``, format 3 in ``zarr.json``.
    """
    for name in (".zattrs", "zarr.json"):
        try:
            read = read_json(folder / name)
        except (OSError, ValueError):
            continue
        if isinstance(read, dict):
            own = read.get("attributes", {}) if name == "zarr.json" else read
            ome = own.get("ome") if isinstance(own, dict) else None
            return {**own, **(ome if isinstance(ome, dict) else {})} if own else {}
    return {}


def slide_stem(path: Path) -> str:
    """Name of a slide without its suffix; a folder's name stays whole."""
    return path.name if os.path.isdir(path) else path.stem  # noqa: PTH112 - never raises


def files_of(*paths: Path | None) -> list[Path]:
    """Files and folders that are read with these.

    Themselves, the data folder of an MRXS, and the series of a DICOM file.
    """
    found = [path for path in paths if path is not None]
    dicom = [p for p in found if p.suffix.lower() == DICOM_SUFFIX and p.is_file()]
    series = [file for p in dicom for file in series_of(p).files]
    return found + [p.with_suffix("") for p in found if p.suffix.lower() == ".mrxs"] + series


def fingerprint(path: Path, series: int | None = None) -> str:
    """Identity of a slide's content: SHA-256 over sizes, heads and tails of its files, 16 digits.

    ``series`` is the image of the file that is read, where it is another than by default.

    A folder counts with all its files, in depth: DICOM and OME-Zarr. Of a folder with more than a
    thousand, the others count by place and size alone. A DICOM file counts with the files of its
    series in the same folder. What macOS leaves beside files does not count.
    """
    digest = hashlib.sha256()
    for number, file in enumerate(_files(path)):
        size = file.stat().st_size
        digest.update(f"{size}:".encode())
        if number >= _WHOLE_FOLDER_FILES:
            digest.update(file.relative_to(path).as_posix().encode("utf-8", "surrogateescape"))
            continue
        with file.open("rb") as stream:
            digest.update(stream.read(_EDGE_BYTES))
            stream.seek(max(0, size - _EDGE_BYTES))
            digest.update(stream.read())
    if series is not None:
        digest.update(f"series {series}".encode())
    return digest.hexdigest()[:16]


def _files(path: Path) -> list[Path]:
    """The files of a slide, in the order in which they count."""
    if path.is_dir():
        found = (p for p in path.rglob("*") if p.is_file())
        return sorted(p for p in found if not p.name.startswith("._") and p.name != ".DS_Store")
    return list(series_of(path).files) if path.suffix.lower() == DICOM_SUFFIX else [path]
