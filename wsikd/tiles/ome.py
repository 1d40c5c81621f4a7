"""OME-Zarr metadata, versions 0.5 and 0.4 (https://ngff.openmicroscopy.org/0.5/, /0.4/).

The two say the same in other places: 0.5 puts everything, and one version, under the attribute
``ome``; 0.4 has no such roof, and a version in each part. Both are Zarr attributes of a group.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

_SPACE = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "yx"]
_COLOURS = (("red", "FF0000"), ("green", "00FF00"), ("blue", "0000FF"))


def image(
    name: str,
    mpps: Sequence[float],
    origin_um: tuple[float, float],
    *,
    version: str = "0.5",
    downscaling: str = "area",
) -> dict[str, Any]:
    """Metadata of an RGB multiscale image with axes c, y, x.

    Args:
        name: shown by viewers.
        mpps: um/px of each dataset, finest first; dataset ``i`` has path ``str(i)``.
        origin_um: (x, y) of the images' common corner. OME-Zarr places pixel *centres*, hence the
            half pixel in each translation: the corners coincide.
        version: "0.5" for what belongs under the attribute ``ome``, "0.4" for the attributes
            themselves.
        downscaling: how the lower resolutions were made; OME-Zarr's ``type``.
    """
    datasets = [_dataset(str(i), m, origin_um, channel=True) for i, m in enumerate(mpps)]
    axes = [{"name": "c", "type": "channel"}, *_SPACE]
    multiscale = {"name": name, "axes": axes, "datasets": datasets, "type": downscaling}
    omero: dict[str, Any] = {
        "channels": [_channel(label, colour) for label, colour in _COLOURS],
        "rdefs": {"defaultT": 0, "defaultZ": 0, "model": "color"},
    }
    if version == "0.4":
        omero = {"id": 1, "name": name, "version": version, **omero}
    return _versioned(version, multiscale, {"omero": omero})


def label(
    name: str,
    mpp: float,
    origin_um: tuple[float, float],
    *,
    version: str = "0.5",
    levels: int = 1,
) -> dict[str, Any]:
    """Metadata of a label image with axes y, x: 0 background, 1 ``name``.

    Dataset ``i`` has ``mpp * 2**i`` um/px. OME-Zarr wants as many ``levels`` as the image has.
    """
    multiscale = {
        "name": name,
        "axes": list(_SPACE),
        "datasets": [_dataset(str(i), mpp * 2**i, origin_um, channel=False) for i in range(levels)],
    }
    about: dict[str, Any] = {
        "colors": [{"label-value": 1, "rgba": [0, 158, 115, 128]}],
        "properties": [{"label-value": 1, "name": name}],
        "source": {"image": "../../"},
    }
    if version == "0.4":
        about = {"version": version, **about}
    return _versioned(version, multiscale, {"image-label": about})


def labels(names: Sequence[str], *, version: str = "0.5") -> dict[str, Any]:
    """Metadata of the group ``labels``, which lists the label images in it."""
    return {"labels": list(names)} if version == "0.4" else {"version": "0.5", "labels": [*names]}


def attributes(metadata: dict[str, Any], *, version: str) -> dict[str, Any]:
    """The attributes of a group that hold such metadata: under ``ome`` since 0.5."""
    return dict(metadata) if version == "0.4" else {"ome": metadata}


def _versioned(version: str, multiscale: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    if version == "0.4":
        return {"multiscales": [{"version": version, **multiscale}], **more}
    return {"version": version, "multiscales": [multiscale], **more}


def _channel(label: str, colour: str) -> dict[str, Any]:
    return {
        "label": label,
        "color": colour,
        "active": True,
        "coefficient": 1,
        "family": "linear",
        "inverted": False,
        "window": {"start": 0, "end": 255, "min": 0, "max": 255},
    }


def _dataset(
    path: str, mpp: float, origin_um: tuple[float, float], *, channel: bool
) -> dict[str, Any]:
    lead = ([1.0], [0.0]) if channel else ([], [])
    centre = [origin_um[1] + mpp / 2, origin_um[0] + mpp / 2]
    return {
        "path": path,
        "coordinateTransformations": [
            {"type": "scale", "scale": [*lead[0], mpp, mpp]},
            {"type": "translation", "translation": [*lead[1], *centre]},
        ],
    }
