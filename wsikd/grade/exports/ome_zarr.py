"""Grade maps as OME-Zarr 0.5 (https://ngff.openmicroscopy.org/0.5/)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from wsikd.core.errors import UNREADABLE, StoreNotFoundError
from wsikd.core.output.markers import GRADES
from wsikd.core.output.place import Place
from wsikd.grade.exports import MAP_FILE, Exporter
from wsikd.grade.exports.zarr_files import write_array, write_group
from wsikd.grade.grademap import DETAIL
from wsikd.grade.reports.class_colours import class_colour

if TYPE_CHECKING:
    from pathlib import Path

    import zarr
    from numpy.typing import NDArray

    from wsikd.grade.grademap import GradeMap
    from wsikd.slides.base import Slide, SlideInfo

_MOST = 1 << 27
_WHO = "labels/said_by/0"
_MASK = "tissue_mask"


def write(grade_map: GradeMap, path: Path, *, slide: Slide | None = None) -> None:
    """Write an OME-Zarr group.

    Array ``0`` holds the probabilities: float32, axes c, y, x, NaN where nothing was read.
    ``tissue`` holds each cell's share of tissue: float32, axes y, x. ``tissue_mask`` holds where it
    is: uint8, axes y, x, 1 on tissue, 8 x 8 values a cell. ``labels/grade`` holds the
    most probable class: uint8, axes y, x, 0 where nothing was read, class index + 1 elsewhere.
    With an escalation, ``labels/said_by`` holds the network that graded a field: 0 none, 1 student,
    2 teacher. Transformations map the array index of a pixel centre to um from the slide's level-0
    corner. Attribute ``wsikd`` repeats the placement in level-0 px and holds the temperature that
    the probabilities are calibrated with (null: they are not), and the slide's name, dimensions,
    mpp and bounds. Its ``complete`` is written last.

    Raises:
        OutputError: the folder cannot be written.
    """
    classes, again = grade_map.classes, grade_map.escalated_hw
    image = _multiscale(grade_map, "probability", "cyx")
    channels = [_channel(name, index) for index, name in enumerate(classes)]
    ome = {"ome": image | {"omero": {"channels": channels}}}
    wanted = np.result_type(np.uint8, np.min_scalar_type(len(classes)))
    with Place(path, GRADES, path.parent).made() as part:
        write_group(part, ome)
        write_array(part / "0", grade_map.probability_khw.astype(np.float32), "cyx", np.nan)
        write_array(part / "tissue", grade_map.tissue_hw.astype(np.float32), "yx", 0.0)
        if grade_map.tissue_mask_hw is not None:
            write_array(part / _MASK, grade_map.tissue_mask_hw.astype(np.uint8), "yx", 0)
        named = ["grade"] if again is None else ["grade", "said_by"]
        write_group(part / "labels", {"ome": _version(labels=named)})
        grade = (grade_map.grade_hw + 1).astype(wanted)
        _save_label(part / "labels", grade_map, "grade", grade, _image_label(classes))
        if again is not None:
            said_by = grade_map.valid_hw.astype(np.uint8) + again
            _save_label(part / "labels", grade_map, "said_by", said_by, _who_label())
        write_group(part, ome | {"wsikd": _placement(grade_map)})


def _save_label(
    part: Path, grade_map: GradeMap, name: str, data: NDArray[Any], label: dict[str, Any]
) -> None:
    """Write a label image of a map, 0 where nothing was read."""
    ome = _multiscale(grade_map, name, "yx") | {"image-label": label}
    write_group(part / name, {"ome": ome})
    write_array(part / name / "0", data, "yx", 0)


def read(path: Path, slide: SlideInfo) -> GradeMap:
    """Read a map that :func:`write` wrote of ``slide``.

    Raises:
        StoreNotFoundError: there is no complete grade map at ``path``.
    """
    import zarr

    from wsikd.grade.grademap import GradeMap

    try:
        group = zarr.open_group(path, mode="r")
        placement: Any = group.attrs["wsikd"]
        probability, tissue = _read(group, "0"), _read(group, "tissue")
        again = np.asarray(group[_WHO]) == 2 if _WHO in group else None
        if not placement["complete"]:
            raise KeyError("complete")
        classes = tuple(map(str, placement["classes"]))
        if probability.shape != (len(classes), *tissue.shape) or tissue.ndim != 2:
            raise ValueError(f"{probability.shape} for {len(classes)} classes")
        mpp, *cell_px = _sizes(placement["mpp"], *placement["cell_px"])
        x, y = (float(v) for v in placement["origin_xy"])
        return GradeMap(
            probability_khw=probability,
            valid_hw=np.asarray(~np.isnan(probability).any(0), np.bool_),
            tissue_hw=tissue,
            mpp=mpp,
            origin_xy=(x, y),
            cell_px=(cell_px[0], cell_px[1]),
            classes=classes,
            slide=slide,
            temperature=placement.get("temperature"),
            escalated_hw=again,
            tissue_mask_hw=_mask(group, tissue.shape),
        )
    except UNREADABLE as error:
        raise _no_map(path) from error


def _mask(group: zarr.Group, shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """The tissue within cells; None in maps of earlier versions. Raises ValueError."""
    array: Any = group.get(_MASK)
    if array is None:
        return None
    if array.shape != tuple(DETAIL * side for side in shape) or math.prod(array.shape) > _MOST:
        raise ValueError(f"a mask of {array.shape}")
    return np.asarray(array[...], np.bool_)


def _sizes(*values: Any) -> list[float]:
    """Convert to positive numbers of a plausible size. Raises TypeError, ValueError."""
    found = [float(v) for v in values]
    if not all(1e-6 < v < 2**40 for v in found):
        raise ValueError(f"sizes {found}")
    return found


def _read(group: zarr.Group, name: str) -> NDArray[np.float32]:
    """Read an array of a map. Raises ValueError if its shape is implausibly large."""
    array: Any = group[name]
    if math.prod(array.shape) > _MOST or array.dtype.kind != "f":
        raise ValueError(f"claims {array.shape} values")
    return np.asarray(array[...], np.float32)


def _no_map(path: Path) -> StoreNotFoundError:
    return StoreNotFoundError(path, "no complete grade map", "run wsikd infer again")


def read_alone(path: Path) -> GradeMap:
    """Read a grade map without its slide: only the slide's name, size, mpp and bounds are known.

    Raises:
        StoreNotFoundError: there is no complete grade map at ``path``.
    """
    import zarr

    from wsikd.slides.base import Mpp, SlideInfo

    try:
        kept: Any = zarr.open_group(path, mode="r").attrs["wsikd"]
        slide = {"name": "slide", **kept["slide"]}
        width, height = (int(v) for v in _sizes(*slide["dimensions"]))
        x, y, box_width, box_height = (int(v) for v in slide["bounds"])
        mpp_x, mpp_y, _, _ = _sizes(*slide["mpp"], box_width, box_height)
    except UNREADABLE as error:
        raise _no_map(path) from error
    info = SlideInfo(
        name=str(slide["name"]), file=str(slide["name"]), fingerprint="", vendor="", reader="",
        dimensions=(width, height), level_dimensions=((width, height),),
        level_downsamples=((1.0, 1.0),), mpp=Mpp(mpp_x, mpp_y, "grade map"), objective_power=None,
        bounds=(x, y, box_width, box_height), background=(255, 255, 255),
    )  # fmt: skip
    return read(path, info)


def _version(**entries: Any) -> dict[str, Any]:
    return {"version": "0.5"} | entries


def _multiscale(grade_map: GradeMap, name: str, axes: str) -> dict[str, Any]:
    cell_um = grade_map.mpp
    first = [
        (start / size + 0.5) * cell_um
        for start, size in zip(grade_map.origin_xy, grade_map.cell_px, strict=True)
    ]
    channel = [1.0] if "c" in axes else []
    return _version(
        multiscales=[
            {
                "name": name,
                "axes": [_axis(axis) for axis in axes],
                "datasets": [
                    {
                        "path": "0",
                        "coordinateTransformations": [
                            {"type": "scale", "scale": [*channel, cell_um, cell_um]},
                            {
                                "type": "translation",
                                "translation": [0.0] * len(channel) + first[::-1],
                            },
                        ],
                    }
                ],
            }
        ]
    )


def _axis(name: str) -> dict[str, str]:
    if name == "c":
        return {"name": "c", "type": "channel"}
    return {"name": name, "type": "space", "unit": "micrometer"}


def _channel(name: str, index: int) -> dict[str, Any]:
    window = {"min": 0.0, "max": 1.0, "start": 0.0, "end": 1.0}
    colour = bytes(class_colour(name, index)).hex().upper()
    return {"label": name, "color": colour, "active": True, "window": window}


def _image_label(classes: tuple[str, ...]) -> dict[str, Any]:
    colours = [
        {"label-value": index + 1, "rgba": [*class_colour(name, index), 255]}
        for index, name in enumerate(classes)
    ]
    return {
        "colors": [{"label-value": 0, "rgba": [0, 0, 0, 0]}, *colours],
        "properties": [{"label-value": i + 1, "class": name} for i, name in enumerate(classes)],
        "source": {"image": "../../"},
    }


def _who_label() -> dict[str, Any]:
    colours = {0: (0, 0, 0, 0), 1: (68, 119, 170, 255), 2: (238, 119, 51, 255)}
    names = {1: "student", 2: "teacher"}
    return {
        "colors": [{"label-value": k, "rgba": list(rgba)} for k, rgba in colours.items()],
        "properties": [{"label-value": k, "said_by": name} for k, name in names.items()],
        "source": {"image": "../../"},
    }


def _placement(grade_map: GradeMap) -> dict[str, Any]:
    slide = grade_map.slide
    return {
        "classes": list(grade_map.classes),
        "origin_xy": list(grade_map.origin_xy),
        "cell_px": list(grade_map.cell_px),
        "mpp": grade_map.mpp,
        "temperature": grade_map.temperature,
        "slide": {
            "name": slide.name,
            "dimensions": list(slide.dimensions),
            "mpp": [slide.mpp.x, slide.mpp.y] if slide.mpp else None,
            "bounds": list(slide.bounds),
        },
        "complete": True,
    }


ZARR = Exporter(MAP_FILE, write)
