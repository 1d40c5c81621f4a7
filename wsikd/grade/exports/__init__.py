"""Files a grade map can be written to.

An exporter is a function ``(grade_map, path, *, slide=None, **options) -> None``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wsikd.core.errors import OutputError
from wsikd.core.run import aside, remove_path
from wsikd.core.tables import resolve

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from wsikd.grade.grademap import GradeMap
    from wsikd.slides.base import Slide

__all__ = ["EXPORTERS", "FILES", "aside", "write_all"]

EXPORTERS: dict[str, str] = {
    "zarr": "wsikd.grade.exports.ome_zarr:write",
    "csv": "wsikd.grade.exports.csv:write",
    "geojson": "wsikd.grade.exports.geojson:write",
    "png": "wsikd.grade.exports.png:write",
}

FILES: dict[str, str] = {
    "zarr": "grades.zarr",
    "csv": "tiles.csv",
    "geojson": "grades.geojson",
    "png": "overlay.png",
}


def write_all(
    grade_map: GradeMap,
    folder: Path,
    formats: Iterable[str] = tuple(EXPORTERS),
    *,
    slide: Slide | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Path]:
    """Write a grade map in several formats.

    Args:
        grade_map: what to write.
        folder: where; made if missing. Earlier results in it are replaced one by one.
        formats: entries of ``EXPORTERS``.
        slide: the open slide, for exporters that show its pixels.
        options: keyword arguments by format.

    Returns:
        The file or folder written for each format.

    Raises:
        ConfigError: a format is unknown; nothing is written.
        OutputError: a file cannot be written.
    """
    writers = {name: resolve(EXPORTERS, name, kind="exporters") for name in formats}
    paths = {name: folder / FILES.get(name, f"grades.{name}") for name in writers}
    _clear(paths.values())
    for name, writer in writers.items():
        writer(grade_map, paths[name], slide=slide, **(options or {}).get(name, {}))
    return paths


def _clear(paths: Iterable[Path]) -> None:
    """Remove what a killed run of an older version left beside its results."""
    for path in paths:
        for ending in ("part", "old"):
            try:
                remove_path(path.with_name(f"{path.name}.{ending}"))
            except OSError as error:
                fault = f"cannot be removed ({error.strerror or error})"
                raise OutputError(f"{path}.{ending}", fault, "remove it yourself") from error
