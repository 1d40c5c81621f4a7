"""OME-Zarr 0.5 metadata (https://ngff.openmicroscopy.org/0.5/)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

_SPACE = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "yx"]


def image(name: str, mpps: Sequence[float], origin_um: tuple[float, float]) -> dict[str, Any]:
    """Metadata of an RGB multiscale image with axes c, y, x.

    Args:
        name: shown by viewers.
        mpps: um/px of each dataset, finest first; dataset ``i`` has path ``str(i)``.
        origin_um: (x, y) of the images' common corner. OME-Zarr places pixel *centres*, hence the
            half pixel in each translation: the corners coincide.
    """
    datasets = [_dataset(str(i), m, origin_um, channel=True) for i, m in enumerate(mpps)]
    axes = [{"name": "c", "type": "channel"}, *_SPACE]
    channels = [
        {
            "label": label,
            "color": color,
            "active": True,
            "window": {"start": 0, "end": 255, "min": 0, "max": 255},
        }
        for label, color in (("red", "FF0000"), ("green", "00FF00"), ("blue", "0000FF"))
    ]
    return {
        "version": "0.5",
        "multiscales": [{"name": name, "axes": axes, "datasets": datasets, "type": "area"}],
        "omero": {"channels": channels, "rdefs": {"model": "color"}},
    }


def label(name: str, mpp: float, origin_um: tuple[float, float]) -> dict[str, Any]:
    """Metadata of a label image with axes y, x and one dataset: 0 background, 1 ``name``."""
    return {
        "version": "0.5",
        "multiscales": [
            {
                "name": name,
                "axes": list(_SPACE),
                "datasets": [_dataset("0", mpp, origin_um, channel=False)],
            }
        ],
        "image-label": {
            "colors": [{"label-value": 1, "rgba": [0, 158, 115, 128]}],
            "properties": [{"label-value": 1, "name": name}],
            "source": {"image": "../../"},
        },
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
