"""Grade maps as pyramidal OME-TIFF, over the whole plane of the slide."""

from __future__ import annotations

import hashlib
import math
import uuid
from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.core.about import RESEARCH_USE
from wsikd.grade.exports import Exporter, aside
from wsikd.grade.reports.class_colours import class_colour

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import tifffile
    from numpy.typing import NDArray

    from wsikd.grade.grademap import GradeMap
    from wsikd.slides.base import Slide

_TILE_PX = 256
_PX_PER_CELL = 16
_LONGEST_PX = 8192
_BIGTIFF_BYTES = 2**31
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "wsikd.grade.exports.ome_tiff")


def write(grade_map: GradeMap, path: Path, *, slide: Slide | None = None) -> None:
    """Write an OME-TIFF of three tiled images, with lower resolutions as SubIFDs.

    ``colours``: the colour of the most probable class, RGB, white where nothing was read. It is the
    first image, since OpenSlide and TIAToolbox read only the first and need RGB. ``grade``: the
    most probable class, uint8, 0 where nothing was read, class index + 1 elsewhere (uint16 for
    more than 255 classes). ``probability``: one channel per class, uint8, 255 for 1, 0 where
    nothing was read.

    Pixel (0, 0) starts at the slide's level-0 corner, not at its bounds, so that viewers can lay
    the map over the slide. A pixel (see :func:`pixel_px`) has the value of the cell at its centre.
    Tiles are made one by one: memory does not grow with the slide.

    Args:
        grade_map: the map to write.
        path: the file.
        slide: not needed.

    Raises:
        OutputError: the file cannot be written.
    """
    import tifffile

    step = pixel_px(grade_map)
    count = len(grade_map.classes)
    label = (grade_map.grade_hw + 1).astype(np.uint8 if count < 256 else np.uint16)
    scaled = np.round(np.nan_to_num(grade_map.probability_khw) * 255).astype(np.uint8)
    width, height = (math.ceil(side / step) for side in grade_map.slide.dimensions)
    big = width * height * (3 + label.itemsize + count) * 4 // 3 > _BIGTIFF_BYTES
    table = np.asarray([(255, 255, 255), *_colours(grade_map.classes)], np.uint8)
    images = {
        "colours": (table[label][None], "rgb", "YXS"),
        "grade": (label[None], "minisblack", "YX"),
        "probability": (scaled, "minisblack", "CYX"),
    }
    with aside(path) as part, tifffile.TiffWriter(part, bigtiff=big, ome=True) as file:
        for name, (planes, photometric, axes) in images.items():
            metadata = _metadata(grade_map, name, step) | {"axes": axes}
            _image(file, grade_map, planes, metadata, step, photometric)


def pixel_px(grade_map: GradeMap) -> int:
    """Side of a pixel of the finest resolution, in level-0 px: a power of two.

    It is at most 1/16 of a cell, or 1/4 on large slides with small cells.
    """
    cell, longest = min(grade_map.cell_px), max(grade_map.slide.dimensions)
    step = int(2 ** max(math.floor(math.log2(cell / _PX_PER_CELL)), 0))
    while longest / step > _LONGEST_PX and 2 * step <= cell / 4:
        step *= 2
    return step


def _image(
    file: tifffile.TiffWriter,
    grade_map: GradeMap,
    planes: NDArray[Any],
    metadata: dict[str, Any],
    step: int,
    photometric: str,
) -> None:
    """Write an image at all resolutions; ``planes``: cells (channels, rows, columns[, 3])."""
    sizes = _sizes(grade_map, step)
    lengths = {"C": len(planes), "S": 3}
    per_cm = [1e4 / metadata[key] for key in ("PhysicalSizeX", "PhysicalSizeY")]
    for level, (width, height) in enumerate(sizes):
        lengths |= {"X": width, "Y": height}
        file.write(
            _tiles(grade_map, planes, (width, height), step << level),
            shape=tuple(lengths[axis] for axis in metadata["axes"]),
            dtype=planes.dtype,
            tile=(_TILE_PX, _TILE_PX),
            compression="zlib",
            photometric=photometric,
            subifds=len(sizes) - 1 if level == 0 else 0,
            subfiletype=int(level > 0),
            metadata=None if level else metadata,
            resolution=(per_cm[0] / 2**level, per_cm[1] / 2**level),
            resolutionunit="CENTIMETER",
            software="wsikd",
        )


def _sizes(grade_map: GradeMap, step: int) -> list[tuple[int, int]]:
    """(width, height) of every resolution, halved until the image fits in one tile."""
    sizes = []
    while True:
        width, height = (math.ceil(side / step) for side in grade_map.slide.dimensions)
        sizes.append((width, height))
        if max(width, height) <= _TILE_PX:
            return sizes
        step *= 2


def _tiles(
    grade_map: GradeMap, planes: NDArray[Any], size: tuple[int, int], step: int
) -> Iterator[NDArray[Any]]:
    """Yield the tiles of all planes at one resolution, all of the same size.

    Pixels beyond the map are 0, in RGB white.
    """
    column, row = (
        grade_map.cells_at(axis, (np.arange(size[axis]) + 0.5) * step) for axis in (0, 1)
    )
    empty = 255 if planes.ndim == 4 else 0
    for plane in planes:
        for top in range(0, size[1], _TILE_PX):
            for left in range(0, size[0], _TILE_PX):
                rows, columns = row[top : top + _TILE_PX], column[left : left + _TILE_PX]
                tile = np.full((_TILE_PX, _TILE_PX, *plane.shape[2:]), empty, plane.dtype)
                cells = plane[np.ix_(np.maximum(rows, 0), np.maximum(columns, 0))]
                cells[rows < 0] = cells[:, columns < 0] = empty
                tile[: len(rows), : len(columns)] = cells
                yield tile


def _metadata(grade_map: GradeMap, name: str, step: int) -> dict[str, Any]:
    classes = grade_map.classes
    channels: dict[str, Any] = {"Name": [name]}
    if name == "probability":
        channels = {"Name": list(classes), "Color": [_rgba(*c) for c in _colours(classes)]}
    um = [grade_map.mpp / cell * step for cell in grade_map.cell_px]
    values = "; ".join(f"{index} {name}" for index, name in enumerate(classes, 1))
    calibrated = (
        "not calibrated"
        if grade_map.temperature is None
        else f"calibrated with temperature {grade_map.temperature:.6g}"
    )
    content = hashlib.sha256(grade_map.probability_khw.tobytes()).hexdigest()
    return {
        "Name": name,
        "Description": f"grade: 0 not read; {values}. probability: 255 for 1, {calibrated}. "
        f"One pixel is {step} level-0 px. {RESEARCH_USE}",
        "PhysicalSizeX": um[0],
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": um[1],
        "PhysicalSizeYUnit": "µm",
        "Channel": channels,
        "UUID": f"urn:uuid:{uuid.uuid5(_NAMESPACE, f'{grade_map.slide.fingerprint}/{content}')}",
        "Creator": "wsikd",
    }


def _colours(classes: tuple[str, ...]) -> list[tuple[int, int, int]]:
    return [class_colour(name, index) for index, name in enumerate(classes)]


def _rgba(red: int, green: int, blue: int) -> int:
    """An opaque colour as OME encodes it: a signed 32-bit integer, red first."""
    value = red << 24 | green << 16 | blue << 8 | 255
    return value - 2**32 if value >= 2**31 else value


OME_TIFF = Exporter("grades.ome.tiff", write)
