"""OME-TIFF, OME-Zarr and JPEG 2000 files, as other programs write them."""

import glymur
import imagecodecs
import numpy as np
import pytest
import tifffile
from zarr import create_group


def write_ome(path, rgb, levels=3, tile=(64, 64), unit="\N{MICRO SIGN}m", size=0.5, **options):
    about = {
        "axes": "YXS",
        **{f"PhysicalSize{axis}": size for axis in "XY"},
        **{f"PhysicalSize{axis}Unit": unit for axis in "XY"},
    }
    with tifffile.TiffWriter(path, ome=True) as tiff:
        options = {"tile": tile, "photometric": "rgb", **options}
        tiff.write(rgb, subifds=levels - 1, metadata=about if size else {"axes": "YXS"}, **options)
        for n in range(1, levels):
            tiff.write(rgb[:: 2**n, :: 2**n], subfiletype=1, **options)
    return [rgb[:: 2**n, :: 2**n] for n in range(levels)]


def write_zarr(path, rgb, axes="cyx", levels=3, unit="micrometer", omero=True, name=str, zarr=2):
    """OME-Zarr 0.4 (Zarr format 2) or 0.5 (format 3) as its specification has it."""
    stored = [rgb[:: 2**n, :: 2**n] for n in range(levels)]
    group = create_group(path, zarr_format=zarr)
    for n, level in enumerate(stored):
        data = level.transpose(["yxc".index(a) for a in axes if a in "yxc"])
        data = np.expand_dims(data, [axes.index(a) for a in axes if a not in "yxc"])
        chunks = tuple({"c": 3, "y": 64, "x": 64}.get(a, 1) for a in axes)
        array = group.create_array(name(n), shape=data.shape, chunks=chunks, dtype="u1")
        array[:] = data
    about = [
        {"name": a, "type": "channel" if a == "c" else "space"}
        | ({"unit": unit} if a in "yx" and unit else {})
        for a in axes
    ]
    scales = [[0.5 * 2**n if a in "yx" else 1.0 for a in axes] for n in range(levels)]
    datasets = [
        {"path": name(n), "coordinateTransformations": [{"type": "scale", "scale": s}]}
        for n, s in enumerate(scales)
    ]
    image = {"multiscales": [{"version": "0.4", "axes": about, "datasets": datasets}]}
    channel = {
        "active": True, "coefficient": 1, "color": "FF0000", "family": "linear",
        "inverted": False, "label": "red", "window": {"start": 0, "end": 255, "min": 0, "max": 255},
    }  # fmt: skip
    if omero:
        image["omero"] = {
            "id": 1, "name": "x", "version": "0.4", "channels": [channel] * 3,
            "rdefs": {"defaultT": 0, "defaultZ": 0, "model": "color"},
        }  # fmt: skip
    group.attrs.update(image if zarr == 2 else {"ome": {"version": "0.5", **image}})
    return stored


def write_jp2(path, rgb, levels=3, mpp=None):
    if glymur.version.openjpeg_version_tuple < (2, 4, 0):
        pytest.skip("OpenJPEG is missing (on Debian: apt-get install libopenjp2-7)")
    jp2 = imagecodecs.jpeg2k_encode(
        rgb, codecformat="jp2", level=0, reversible=True, mct=False, resolutions=levels + 1
    )
    path.write_bytes(jp2)
    image = glymur.Jp2k(path)
    if mpp is not None:  # a capture resolution of n pixels per metre, as a box in the header box
        path.write_bytes(with_capture_resolution(jp2, round(1e6 / mpp)))
    return [image[:: 2**n, :: 2**n] for n in range(levels)]


def with_capture_resolution(jp2, per_metre):
    at = jp2.index(b"jp2h") - 4
    length = int.from_bytes(jp2[at : at + 4], "big")
    numbers = b"".join(n.to_bytes(2, "big") for n in (per_metre // 1000, 1, per_metre // 1000, 1))
    resc = (18).to_bytes(4, "big") + b"resc" + numbers + b"\x03\x03"
    res = (8 + len(resc)).to_bytes(4, "big") + b"res " + resc
    head = (length + len(res)).to_bytes(4, "big") + jp2[at + 4 : at + length]
    return jp2[:at] + head + res + jp2[at + length :]
