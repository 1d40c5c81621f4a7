"""DICOM files of a folder as slides: one slide a series."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from wsikd.slides.dicom.header import DicomHeader, read_header

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

DICOM_SUFFIX = ".dcm"


@dataclass(frozen=True)
class Series:
    """One DICOM slide: ``uid`` of its series, and the files of its scan, label images left out.

    Files that are not DICOM by their header make a series of their own with an empty ``uid``.
    """

    uid: str
    files: tuple[Path, ...]
    is_scan: bool = True

    @property
    def main(self) -> Path:
        """Its largest file, the base level as a rule: OpenSlide finds the others from any one."""
        return min(self.files, key=lambda file: (-file.stat().st_size, file.name))


def dicom_files(folder: Path) -> list[Path]:
    """Files of a folder that bear DICOM's suffix, sorted; hidden ones are none. Raises OSError."""
    return sorted(
        p
        for p in folder.iterdir()
        if p.suffix.lower() == DICOM_SUFFIX and not p.name.startswith(".") and p.is_file()
    )


def group_series(files: Iterable[Path]) -> tuple[list[Series], list[Path]]:
    """Files as slides, by the first file's name, and those that belong to none.

    A label, an overview, a thumbnail or a DICOM object of another kind is not a slide. Where not
    one file has a header that can be read, they make one series, which the reader refuses in time.
    """
    groups: dict[str, list[Path]] = {}
    others: list[Path] = []
    unknown: list[Path] = []
    for file in files:
        header = header_of(file)
        if header is None:
            unknown.append(file)
        elif header.is_scan:
            groups.setdefault(header.series, []).append(file)
        else:
            others.append(file)
    if not groups and not others and unknown:
        groups[""], unknown = unknown, []
    return [Series(uid, tuple(found)) for uid, found in groups.items()], others + unknown


def series_of(file: Path) -> Series:
    """The series of a DICOM file, with the files of it that lie in the same folder."""
    header = header_of(file)
    if header is None or not header.is_scan:
        return Series(header.series if header else "", (file,), is_scan=False)
    return Series(
        header.series,
        tuple(
            p
            for p in dicom_files(file.parent)
            if (other := header_of(p)) and other.is_scan and other.series == header.series
        ),
    )


def why_no_scan(file: Path) -> str:
    """Why a DICOM file is not a slide, or no level of one."""
    header = header_of(file)
    if header is None:
        return "no DICOM header that can be read"
    flavour = header.image_type[2].lower() if len(header.image_type) > 2 else ""
    if flavour in ("label", "overview", "thumbnail", "localizer"):
        return f"{flavour} of a DICOM slide"
    return "DICOM, but no whole-slide image"


def header_of(file: Path) -> DicomHeader | None:
    """As :func:`read_header`, which reads a file that has not changed only once."""
    try:
        state = file.stat()
    except OSError:
        return None
    return _header(file, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=1 << 16)
def _header(file: Path, _size: int, _modified_ns: int) -> DicomHeader | None:
    return read_header(file)
