"""Files a grade map can be written to.

An exporter is a function ``(grade_map, path, *, slide=None, **options) -> None``.
"""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from wsikd.core.errors import OutputError
from wsikd.core.tables import resolve

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from wsikd.grade.grademap import GradeMap
    from wsikd.slides.base import Slide

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
    for name, writer in writers.items():
        writer(grade_map, paths[name], slide=slide, **(options or {}).get(name, {}))
    return paths


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """A place beside ``path`` to write to; moved onto ``path`` if all went well, else removed.

    Works for files and folders, so that what stands at ``path`` is always whole.

    Raises:
        OutputError: the place cannot be written.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(part)
        yield part
        _move(part, path)
    except BaseException as error:
        _remove_quietly(part)
        if isinstance(error, OSError):
            fault = f"cannot be written ({error.strerror or error})"
            remedy = "free space there, or name another folder with -o"
            raise OutputError(path, fault, remedy) from error
        raise


def _move(part: Path, path: Path) -> None:
    old = path.with_name(f"{path.name}.old")
    _remove(old)
    if path.is_dir() or (part.is_dir() and path.exists()):
        path.replace(old)  # a folder can only be moved to where nothing is
    os.replace(part, path)  # noqa: PTH105
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _remove_quietly(path: Path) -> None:
    try:
        _remove(path)
    except OSError:
        return
