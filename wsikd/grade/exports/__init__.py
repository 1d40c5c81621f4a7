"""Files a grade map can be written to.

An exporter is a function ``(grade_map, path, *, slide=None) -> None``.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from wsikd.core.errors import WsikdError
from wsikd.core.output.files import aside
from wsikd.core.registry import resolve
from wsikd.core.workers.progress import progressing

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from wsikd.grade.grademap import GradeMap
    from wsikd.slides.base import Slide

log = logging.getLogger(__name__)

__all__ = ["ALL", "DEFAULT", "EXPORTERS", "FILES", "aside", "formats_for", "write_all"]

EXPORTERS: dict[str, str] = {
    "zarr": "wsikd.grade.exports.ome_zarr:write",
    "ome-tiff": "wsikd.grade.exports.ome_tiff:write",
    "csv": "wsikd.grade.exports.csv:write",
    "uncertain": "wsikd.grade.exports.csv:write_uncertain",
    "geojson": "wsikd.grade.exports.geojson:write",
    "geojson-tiles": "wsikd.grade.exports.geojson:write_tiles",
    "png": "wsikd.grade.exports.png:write",
    "heat": "wsikd.grade.exports.png:write_heat",
    "dicom-seg": "wsikd.grade.exports.dicom_seg:write",
}

FILES: dict[str, str] = {
    "zarr": "grades.zarr",
    "ome-tiff": "grades.ome.tiff",
    "csv": "tiles.csv",
    "uncertain": "uncertain.csv",
    "geojson": "grades.geojson",
    "geojson-tiles": "tiles.geojson",
    "png": "overlay.png",
    "heat": "heat.png",
    "dicom-seg": "grades.dcm",
}

DEFAULT = ("zarr", "csv", "uncertain", "geojson", "png")
ALL = "all"
_LIMITED = {"dicom-seg": "wsikd.grade.exports.dicom_seg:check"}
"""Formats that only some slides can have, and what raises SlideError for the others."""


def formats_for(asked: Iterable[str], slide: Slide) -> tuple[str, ...]:
    """The formats to write of a slide, in the order of ``EXPORTERS``.

    Args:
        asked: entries of ``EXPORTERS``, or ``all``: those among them that the slide can have.
        slide: the open slide.

    Raises:
        ConfigError: a format is unknown.
        SlideError: one that was asked for by name cannot be had of this slide.
    """
    named = set(asked)
    for name in sorted(named - {ALL}):
        resolve(EXPORTERS, name, kind="exporters")
        if name in _LIMITED:
            resolve(_LIMITED, name, kind="checks")(slide)
    if ALL in named:
        named |= {name for name in EXPORTERS if _fits(name, slide)}
    return tuple(name for name in EXPORTERS if name in named)


def _fits(name: str, slide: Slide) -> bool:
    if name in _LIMITED:
        try:
            resolve(_LIMITED, name, kind="checks")(slide)
        except WsikdError as error:
            log.debug("%s", error)
            return False
    return True


def write_all(
    grade_map: GradeMap,
    folder: Path,
    formats: Iterable[str] = DEFAULT,
    *,
    slide: Slide | None = None,
) -> dict[str, Path]:
    """Write a grade map in several formats.

    Args:
        grade_map: what to write.
        folder: where; made if missing. Earlier results in it are replaced one by one.
        formats: entries of ``EXPORTERS``.
        slide: the open slide, for exporters that show its pixels.

    Returns:
        The file or folder written for each format.

    Raises:
        ConfigError: a format is unknown; nothing is written.
        OutputError: a file cannot be written, or a folder is in its place.
    """
    writers = {name: resolve(EXPORTERS, name, kind="exporters") for name in formats}
    paths = {name: folder / FILES.get(name, f"grades.{name}") for name in writers}
    for name, writer in writers.items():
        writer(grade_map, paths[name], slide=slide)
        progressing()
    return paths
