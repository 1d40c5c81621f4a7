"""Slides and masks: files that C libraries decode."""

import os
import shutil
from contextlib import suppress
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import tifffile

from tests.fuzz.runner import Target
from tests.slides.pixels import MemorySlide, tissue_rgb

SIZE = (640, 480)
_REAL = "CMU-1-Small-Region-dicom"


def pixels():
    return tissue_rgb(*SIZE, (100, 80, 400, 300))


def build_svs(folder):
    from wsikd.synthetic.cohort import write_pyramid

    write_pyramid(
        folder / "s.svs", pixels(), mpp=0.5, power=20, tile_px=128, downsamples=(1, 4), quality=60
    )
    return ["s.svs"]


def build_tiled(folder):
    """A generic pyramid in JPEG tiles, which OpenSlide reads."""
    rgb = pixels()
    options = {"photometric": "rgb", "tile": (128, 128), "compression": "jpeg",
               "resolutionunit": 3}  # fmt: skip
    with tifffile.TiffWriter(folder / "s.tif") as tiff:
        tiff.write(rgb, resolution=(20_000, 20_000), description="MPP = 0.5", **options)
        tiff.write(np.ascontiguousarray(rgb[::4, ::4]), resolution=(5000, 5000), **options)
    return ["s.tif"]


def build_strips(folder):
    """Deflated strips, of which nobody but TIAToolbox's reader of whole images makes a slide."""
    tifffile.imwrite(
        folder / "s.tif", pixels(), photometric="rgb", rowsperstrip=16, compression="zlib",
        resolution=(20_000, 20_000), resolutionunit=3,
    )  # fmt: skip
    return ["s.tif"]


def build_ome(folder):
    """An OME-TIFF whose lower level is in a SubIFD."""
    rgb = pixels()
    options = {"photometric": "rgb", "tile": (128, 128), "compression": "jpeg"}
    sizes = {f"PhysicalSize{axis}": 0.5 for axis in "XY"}
    with tifffile.TiffWriter(folder / "s.ome.tif", ome=True) as tiff:
        tiff.write(rgb, subifds=1, metadata={"axes": "YXS", **sizes}, **options)
        tiff.write(np.ascontiguousarray(rgb[::4, ::4]), subfiletype=1, **options)
    return ["s.ome.tif"]


def build_jp2(folder):
    data = imagecodecs.jpeg2k_encode(pixels(), codecformat="jp2", level=40, resolutions=3)
    (folder / "s.jp2").write_bytes(data)
    return ["s.jp2"]


def build_ome_zarr(folder):
    import zarr

    rgb = pixels()
    path = folder / "s.zarr"
    group = zarr.create_group(path, zarr_format=2)
    axes = [{"name": "c", "type": "channel"}]
    axes += [{"name": n, "type": "space", "unit": "micrometer"} for n in "yx"]
    datasets = []
    for level, step in enumerate((1, 4)):
        data = np.ascontiguousarray(rgb[::step, ::step].transpose(2, 0, 1))
        group.create_array(str(level), data=data, chunks=(3, 128, 128),
                           chunk_key_encoding={"name": "v2", "separator": "/"})  # fmt: skip
        scale = [{"type": "scale", "scale": [1.0, 0.5 * step, 0.5 * step]}]
        datasets.append({"path": str(level), "coordinateTransformations": scale})
    multiscale = {"version": "0.4", "axes": axes, "datasets": datasets, "name": "s"}
    group.attrs["multiscales"] = [multiscale]
    group.attrs["omero"] = {
        "channels": [
            {"label": n, "color": "FF0000", "window": {"min": 0, "max": 255}, "active": True}
            for n in "rgb"
        ],
        "rdefs": {"model": "color"},
    }
    names = ("s.zarr/.zattrs", "s.zarr/.zattrs", "s.zarr/0/.zarray", "s.zarr/1/.zarray")
    return [*names, "s.zarr/0/0/0/0"]


def build_dicom(folder):
    """Two levels of a slide in JPEG tiles, as pydicom writes them."""
    from tests.fuzz.dicom import write_level

    (folder / "s").mkdir()
    rgb = pixels()
    write_level(folder / "s" / "0.dcm", rgb, 0.5, number=1)
    write_level(folder / "s" / "1.dcm", np.ascontiguousarray(rgb[::4, ::4]), 2.0, number=2)
    return ["s/0.dcm", "s/1.dcm"]


def build_real_dicom(folder):
    """Small levels of a real slide, in a real order of elements."""
    place = Path(os.environ["WSIKD_TEST_DATA"]) / "slides" / _REAL
    (folder / "s").mkdir()
    names = []
    for number in (3, 4, 5):
        file = next(place.glob(f"level-{number}-*"))
        names.append(f"s/{file.name}")
        shutil.copy(file, folder / names[-1])
        (folder / names[-1]).chmod(0o644)
    return names


def use_slide(folder):
    """Open it, find its tissue and read it, as ``wsikd info`` and ``wsikd infer`` do."""
    from wsikd.slides.base import FILLS_GAPS
    from wsikd.slides.listing.manifest import SlideEntry, open_entry
    from wsikd.tiles.runs.info import Asked, describe_job

    entry = SlideEntry(next(folder.iterdir()), "s", mpp=0.5, mpp_source=FILLS_GAPS)
    describe_job(lambda *_: None, entry, Asked((10.0, 2.5), 64, "otsu", 0.1, 2))
    with open_entry(entry) as slide:
        assert slide.mpp.x > 0
        for level, (width, height) in enumerate(slide.info.level_dimensions):
            for corner in ((0, 0), (width - 100, height - 70), (width // 2, height // 3)):
                assert slide.read_level(level, corner, (128, 96)).shape == (96, 128, 3)


def build_mask(folder):
    values = np.zeros((120, 160), np.uint8)
    values[20:90, 30:120] = 1
    values[50:60, 40:70] = 2
    tifffile.imwrite(folder / "m.tif", values, tile=(64, 64), compression="zlib")
    return ["m.tif"]


def build_png_mask(folder):
    values = np.zeros((120, 160), np.uint8)
    values[20:90, 30:120] = 1
    cv2.imwrite(str(folder / "m.png"), values)
    return ["m.png"]


def use_mask(folder):
    from tests.fuzz.text_targets import BOXES, CLASSES
    from wsikd.core.errors import ConfigError
    from wsikd.slides.annotations.read import read_annotation
    from wsikd.slides.annotations.survey import survey_annotation
    from wsikd.slides.tissue.find import find_tissue

    file = next(folder.iterdir())
    slide = MemorySlide(np.full((960, 1280, 3), 200, np.uint8))
    named = {"1": "NC", "2": "G3"}
    read_annotation(file, slide, named).label(BOXES, CLASSES)
    find_tissue(slide, method="all", mask_file=file)
    survey_annotation(file, named)
    with suppress(ConfigError):  # it lists the values that want a class
        survey_annotation(file, {})


SLIDES = (
    Target("svs", build_svs, use_slide),
    Target("tiff_tiles", build_tiled, use_slide),
    Target("tiff_strips", build_strips, use_slide),
    Target("ome_tiff", build_ome, use_slide),
    Target("jp2", build_jp2, use_slide),
    Target("ome_zarr", build_ome_zarr, use_slide),
    Target("dicom", build_dicom, use_slide),
    Target("mask", build_mask, use_mask),
    Target("png_mask", build_png_mask, use_mask),
)
REAL = (Target("real_dicom", build_real_dicom, use_slide),)
