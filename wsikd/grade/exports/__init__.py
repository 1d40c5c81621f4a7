"""Output formats of a grade map: one :class:`Exporter` each."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from wsikd.core.errors import ConfigError, WsikdError
from wsikd.core.output.files import aside
from wsikd.core.output.markers import RESULT
from wsikd.core.registry import known_names, resolve
from wsikd.core.workers.progress import progressing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from wsikd.grade.grademap import GradeMap
    from wsikd.slides.base import Slide

log = logging.getLogger(__name__)

__all__ = [
    "ALL", "DEFAULT", "EXPORTERS", "MAP_FILE", "OVERLAY_FILES", "PICTURES", "Exporter", "aside",
    "find_exporter", "find_overlay", "formats_for", "write_all",
]  # fmt: skip

EXPORTERS: dict[str, str] = {
    "zarr": "wsikd.grade.exports.ome_zarr:ZARR",
    "ome-tiff": "wsikd.grade.exports.ome_tiff:OME_TIFF",
    "csv": "wsikd.grade.exports.csv:TILES",
    "uncertain": "wsikd.grade.exports.csv:UNCERTAIN",
    "geojson": "wsikd.grade.exports.geojson:REGIONS",
    "geojson-tiles": "wsikd.grade.exports.geojson:TILES",
    "jpeg": "wsikd.grade.exports.overlay:JPEG",
    "png": "wsikd.grade.exports.overlay:PNG",
    "webp": "wsikd.grade.exports.overlay:WEBP",
    "heat": "wsikd.grade.exports.overlay:HEAT",
    "dicom-seg": "wsikd.grade.exports.dicom_seg:DICOM_SEG",
}
"""Format -> its :class:`Exporter`. Packages add formats in the group ``wsikd.exporters``."""
MAP_FILE = "grades.zarr"
"""The file of ``zarr``; other commands read the grade map from it."""
OVERLAY_FILES = ("overlay.jpg", "overlay.png", "overlay.webp")
"""The files of ``jpeg``, ``png`` and ``webp``, which reports show."""
PICTURES = frozenset({"jpeg", "png", "webp", "heat"})
"""Formats that show the slide."""
_SAME_PICTURE = frozenset({"png", "webp"})
"""Formats that ``all`` leaves out: ``jpeg`` shows the same."""
DEFAULT = ("zarr", "csv", "uncertain", "geojson", "jpeg")
ALL = "all"


class Write(Protocol):
    """Writes a grade map to ``path`` by way of a temporary file that it renames.

    ``slide`` is the open slide, for exporters that show its pixels; None if it is not available.
    """

    def __call__(self, grade_map: GradeMap, path: Path, *, slide: Slide | None = None) -> None:
        """Raises OutputError where the file cannot be written."""


@dataclass(frozen=True)
class Exporter:
    """An output format of a grade map.

    Attributes:
        file: name of the file in a slide's folder of results: ``grades.SUFFIX``. A folder of
            results is recognised by the names in it, so that it can be replaced even if the package
            that wrote one of them is not installed.
        write: writes the file.
        check: raises SlideError for a slide that the format does not support; None: it supports
            all.
    """

    file: str
    write: Write
    check: Callable[[Slide], None] | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for a name that would not be recognised as part of a result."""
        if not RESULT.member.fullmatch(self.file):
            raise ValueError(f"the file of an exporter is named grades.SUFFIX, not '{self.file}'")

    def fits(self, slide: Slide) -> bool:
        """Whether the format supports the slide."""
        try:
            if self.check is not None:
                self.check(slide)
        except WsikdError as error:
            log.debug("%s", error)
            return False
        return True


def find_exporter(name: str) -> Exporter:
    """The exporter of a format. Raises ConfigError where it is unknown or cannot be imported."""
    found = resolve(EXPORTERS, name, kind="exporters")
    if not isinstance(found, Exporter):
        fault = f"is {type(found).__name__}, not wsikd.grade.exports.Exporter"
        raise ConfigError(f"exporters '{name}'", fault, "correct the package that offers it")
    return found


def find_overlay(folder: Path) -> Path | None:
    """The overlay in a folder of results, whatever its format; None without one."""
    files = (folder / name for name in OVERLAY_FILES)
    return next((file for file in files if file.is_file()), None)


def find_exporters(names: Iterable[str]) -> dict[str, Exporter]:
    """The exporters of several formats, those of wsikd first; ``all`` stands for every format.

    Raises:
        ConfigError: one is unknown or cannot be imported, or two write the same file.
    """
    named = set(names)
    known = known_names(EXPORTERS, "exporters", named)
    every = named | {*known} - _SAME_PICTURE if ALL in named else named
    wanted = [name for name in known if name in every]
    wanted += sorted(named - {ALL, *known})  # unknown: refused by the next line
    found = {name: find_exporter(name) for name in wanted}
    written: dict[str, str] = {}
    for name, exporter in found.items():
        other = written.setdefault(exporter.file, name)
        if other != name:
            fault = f"writes {exporter.file}, as '{other}' does"
            raise ConfigError(f"exporters '{name}'", fault, "remove one of the two")
    return found


def formats_for(asked: Iterable[str], slide: Slide) -> tuple[str, ...]:
    """The formats to write for a slide, in the order of ``EXPORTERS``, then those of packages.

    Args:
        asked: names of exporters; ``all`` stands for every one that supports the slide.
        slide: the open slide.

    Raises:
        ConfigError: a format is unknown.
        SlideError: a format that was named does not support the slide.
    """
    named = set(asked)
    found = find_exporters(named)
    for name in sorted(named - {ALL}):
        check = found[name].check
        if check is not None:
            check(slide)
    return tuple(n for n, exporter in found.items() if n in named or exporter.fits(slide))


def write_all(
    grade_map: GradeMap,
    folder: Path,
    formats: Iterable[str] = DEFAULT,
    *,
    slide: Slide | None = None,
) -> dict[str, Path]:
    """Write a grade map in several formats.

    Args:
        grade_map: the map to write.
        folder: the output folder; made if missing. Earlier results in it are replaced one by one.
        formats: names of exporters.
        slide: the open slide, for exporters that show its pixels.

    Returns:
        The file or folder written for each format.

    Raises:
        ConfigError: a format is unknown; nothing is written.
        OutputError: a file cannot be written, or a folder is in its place.
    """
    writers = find_exporters(formats)
    paths = {name: folder / exporter.file for name, exporter in writers.items()}
    for name, exporter in writers.items():
        exporter.write(grade_map, paths[name], slide=slide)
        progressing()
    return paths
