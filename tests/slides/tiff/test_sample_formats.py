"""Every kind of TIFF: read as it was written, in its place and scale, or refused in one line.

The table is that of public collections: sample formats, compressions, tiles and strips, planes,
orientations, photometric interpretations, and ways to lay out levels and images.
"""

import itertools

import numpy as np
import pytest
import tifffile

from tests.slides.pixels import tissue_rgb
from wsikd.core.errors import MissingMppError, SlideError
from wsikd.slides.base import open_slide

pytestmark = pytest.mark.filterwarnings("ignore")  # tifffile warns of what it is asked to write
RGB = tissue_rgb(160, 112, (30, 20, 90, 60), seed=2)
SCAN = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
OVERVIEW = {"resolution": (5000, 5000), "resolutionunit": "CENTIMETER"}
TILES, STRIPS = {"tile": (32, 32)}, {"rowsperstrip": 16}
LOSSY = {"jpeg": 4.0, "jpeg rgb": 4.0, "webp": 4.0, "jpeg2000": 0.1}
"""Mean of the absolute errors that is due to the compression; 0 for the others."""
COMPRESSIONS = {
    "none": {},
    "packbits": {"compression": "packbits"},
    "lzw": {"compression": "lzw"},
    "deflate": {"compression": "zlib"},
    "deflate predictor": {"compression": "zlib", "predictor": True},
    "zstd": {"compression": "zstd"},
    "jpeg": {"compression": "jpeg", "compressionargs": {"level": 95}},
    "jpeg rgb": {
        "compression": "jpeg",
        "compressionargs": {"level": 95, "outcolorspace": "rgb"},
    },
    "jpeg2000": {"compression": "jpeg2000"},
    "webp": {"compression": "webp", "compressionargs": {"level": 95}},
}
GREY = RGB[..., 1].copy()
ALPHA = np.dstack([RGB, np.full_like(GREY, 255)])
PALETTE = np.random.default_rng(0).integers(0, 65536, (3, 256)).astype(np.uint16)
# Name: pixels, how they are written, and whether they may be read as RGB at all.
SAMPLES = {
    "rgb": (RGB, {"photometric": "rgb"}, True),
    "rgb planes": (
        RGB.transpose(2, 0, 1).copy(),
        {"photometric": "rgb", "planarconfig": "separate"},
        True,
    ),
    "rgba": (ALPHA, {"photometric": "rgb", "extrasamples": ["unassalpha"]}, True),
    "rgba premultiplied": (ALPHA, {"photometric": "rgb", "extrasamples": ["assocalpha"]}, True),
    "rgb and a fourth": (
        np.dstack([RGB, GREY // 2]),
        {"photometric": "rgb", "extrasamples": ["unspecified"]},
        False,
    ),
    "grey": (GREY, {"photometric": "minisblack"}, False),
    "inverted grey": (GREY, {"photometric": "miniswhite"}, False),
    "bits": (GREY > 200, {"photometric": "minisblack"}, False),
    "palette": (GREY, {"photometric": "palette", "colormap": PALETTE}, False),
    "16 bit": (RGB.astype(np.uint16) * 257, {"photometric": "rgb"}, False),
    "12 in 16 bit": (RGB.astype(np.uint16) * 16, {"photometric": "rgb"}, False),
    "signed": ((RGB // 2).astype(np.int8), {"photometric": "rgb"}, False),
    "float": ((RGB / 255).astype(np.float32), {"photometric": "rgb"}, False),
    "half": ((RGB / 255).astype(np.float16), {"photometric": "rgb"}, False),
    "cmyk": (ALPHA, {"photometric": "separated"}, False),
    "cielab": (RGB, {"photometric": "cielab"}, False),
    "icclab": (RGB, {"photometric": "icclab"}, False),
    "stored ycbcr": (RGB, {"photometric": "ycbcr"}, False),
    "three planes of grey": (
        np.stack([GREY, GREY // 2, GREY // 3]),
        {"photometric": "minisblack"},
        False,
    ),
}
OTHER_COLOURS = ("cmyk", "cielab", "icclab", "stored ycbcr")


def wrong(path, truth, mpp=0.5, *, most=0, levels=(), reader="auto", refused_only=False):
    """What is wrong about what a reader shows of a file; empty for the truth or one line."""
    try:
        with open_slide(path, reader=reader) as slide:
            if refused_only:
                return f"{slide.info.reader} reads it"
            for level in range(len(slide.info.level_dimensions)):
                size = slide.info.level_dimensions[level]
                own = (truth, *levels)[level]
                if size != (own.shape[1], own.shape[0]):
                    return f"level {level} of {slide.info.reader} is {size}"
                got = slide.read_level(level, (0, 0), size)
                error = float(np.abs(got.astype(int) - own).mean())
                if error > most:
                    return f"level {level} of {slide.info.reader} is off by {error:.2f}"
            if (slide.mpp.x, slide.mpp.y) != (mpp, mpp):
                return f"{slide.mpp}"
    except MissingMppError as error:
        return f"no scale: {error}"
    except SlideError as error:
        return "two lines" if "\n" in str(error) else ""
    return ""


def read(path):
    try:
        with open_slide(path) as slide:
            return slide.info.reader
    except SlideError:
        return ""


@pytest.mark.parametrize("reader", ["auto", "openslide", "tiatoolbox"])
@pytest.mark.parametrize("kind", SAMPLES)
def test_samples_and_compressions(kind, reader, tmp_path):
    pixels, how, rgb = SAMPLES[kind]
    found, shown = {}, 0
    for name, layout in itertools.product(COMPRESSIONS, (TILES, STRIPS)):
        path = tmp_path / f"{name} {'tiles' if layout is TILES else 'strips'}.tif"
        options = {**how, **COMPRESSIONS[name]}
        if kind in OTHER_COLOURS and name.startswith("jpeg"):
            continue  # tifffile converts them in ways of its own
        try:
            tifffile.imwrite(path, pixels, metadata=None, **layout, **options, **SCAN)
        except Exception:  # noqa: BLE001 - no such file can be written
            path.unlink(missing_ok=True)
            continue
        fault = wrong(path, RGB, most=LOSSY.get(name, 0), reader=reader, refused_only=not rgb)
        if fault:
            found[path.name] = fault
        shown += bool(rgb and read(path)) if reader == "auto" else 0
    assert found == {}
    if kind in ("rgb", "rgb planes", "rgba") and reader == "auto":
        assert shown >= 14  # a refusal is not a way out for plain files


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations(orientation, tmp_path):
    found = {}
    for name, layout in itertools.product(("none", "deflate", "jpeg"), (TILES, STRIPS)):
        path = tmp_path / f"{name} {'tiles' if layout is TILES else 'strips'}.tif"
        tags = [(274, 3, 1, orientation, True)] if orientation > 1 else []
        how = {**layout, **COMPRESSIONS[name], **SCAN, "photometric": "rgb", "metadata": None}
        tifffile.imwrite(path, RGB, extratags=tags, **how)
        found[path.name] = wrong(path, RGB, most=LOSSY.get(name, 0), refused_only=orientation > 1)
    assert set(found.values()) == {""}


HALF, QUARTER = RGB[::2, ::2], RGB[::4, ::4]
LAYOUTS = {
    "single": [("scan", RGB, [])],
    "subifds": [("scan", RGB, ["sub"])],
    "directories": [("scan", RGB, ["reduced"])],
    "overview first": [("overview", QUARTER, []), ("scan", RGB, [])],
    "overview last": [("scan", RGB, []), ("overview", QUARTER, [])],
    "overview first, subifds": [("overview", QUARTER, []), ("scan", RGB, ["sub"])],
    "overview first, directories": [("overview", QUARTER, []), ("scan", RGB, ["reduced"])],
    "overview last, directories": [("scan", RGB, ["reduced"]), ("overview", QUARTER, [])],
    "label first": [("label", np.repeat(RGB, 2, 1)[::2], []), ("scan", RGB, ["reduced"])],
    "two scans": [("scan", RGB, ["reduced"]), ("other", 255 - RGB, ["reduced"])],
}
CONTAINERS = {
    "plain": {},
    "big": {"bigtiff": True},
    "ome": {"ome": True},
    "ome big": {"ome": True, "bigtiff": True},
    "big-endian": {"byteorder": ">"},
}


def lay_out(path, images, container, **options):
    with tifffile.TiffWriter(path, **CONTAINERS[container]) as out:
        for name, rgb, pyramid in images:
            scale = OVERVIEW if name == "overview" else SCAN
            mpp = 2.0 if name == "overview" else 0.5
            about = {"axes": "YXS", "PhysicalSizeX": mpp, "PhysicalSizeY": mpp, "Name": name}
            how = {"photometric": "rgb", **options}
            reduced = [rgb[::2, ::2], rgb[::4, ::4]] if pyramid else []
            subs = {"subifds": len(reduced)} if pyramid == ["sub"] else {}
            if "ome" in container:
                out.write(rgb, metadata=about, **subs, **how)
            else:
                tags = [(285, "s", 0, name, True)]
                out.write(rgb, metadata=None, extratags=tags, **subs, **how, **scale)
            for level in reduced:
                out.write(level, subfiletype=1, metadata=None, **how)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_and_containers(layout, container, tmp_path):
    found = {}
    for name, blocks in itertools.product(("deflate", "webp", "none"), (TILES, STRIPS)):
        path = tmp_path / f"{name} {'tiles' if blocks is TILES else 'strips'}.tif"
        try:
            lay_out(path, LAYOUTS[layout], container, **blocks, **COMPRESSIONS[name])
        except Exception:  # noqa: BLE001 - no such file can be written
            continue
        found[path.name] = wrong(path, RGB, most=LOSSY.get(name, 0), levels=(HALF, QUARTER))
    assert found
    assert {name: fault for name, fault in found.items() if fault} == {}
    assert read(path) if path.exists() else True


def test_series_of_every_layout_can_be_asked_for(tmp_path):
    path = tmp_path / "a.tif"
    lay_out(path, LAYOUTS["overview first, directories"], "plain", **TILES)
    with open_slide(path, series=0) as slide:
        assert slide.mpp.x == 2.0
        np.testing.assert_array_equal(slide.read_level(0, (0, 0), (40, 28)), QUARTER)
