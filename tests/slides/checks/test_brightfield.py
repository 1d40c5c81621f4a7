"""Is a slide brightfield RGB: what pixels show, what readers refuse."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import tifffile

from tests.slides.pixels import MemorySlide, tissue_rgb
from wsikd.core.errors import NotBrightfieldError
from wsikd.slides.base import open_slide
from wsikd.slides.checks.brightfield import check_pixels, judge
from wsikd.slides.tissue.find import find_tissue

FULL = tissue_rgb(200, 150)
ON_GLASS = tissue_rgb(200, 150, (40, 30, 100, 80))


def denser(rgb, by):
    """The same tissue with so many times its optical density."""
    return (255 * (np.maximum(rgb, 1) / 255.0) ** by).round().astype(np.uint8)


def framed(rgb, level):
    frame = np.full((rgb.shape[0] * 2, rgb.shape[1] * 3, 3), level, np.uint8)
    frame[: rgb.shape[0], : rgb.shape[1]] = rgb
    return frame


def stained(*colours):
    rgb = np.full((120, 160, 3), 244, np.uint8)
    for number, colour in enumerate(colours):
        rgb[20:100, 20 + 40 * number : 50 + 40 * number] = colour
    return rgb


BRIGHTFIELD = {
    "tissue on glass": ON_GLASS,
    "no glass": FULL,
    "dense, no glass": denser(FULL, 2.0),
    "pale": denser(ON_GLASS, 0.1),
    "dim lamp": (FULL * 0.5).astype(np.uint8),
    "in black": framed(FULL, 0),
    "in white": framed(FULL, 255),
    "glass alone": np.full((90, 90, 3), 241, np.uint8),
    "brown and blue": stained((90, 50, 25), (70, 80, 150)),
    "brown fills the frame": np.full((90, 90, 3), (92, 55, 28), np.uint8),
    "blood fills the frame": np.full((90, 90, 3), (190, 40, 50), np.uint8),
    "nothing": np.zeros((0, 4, 3), np.uint8),
}


@pytest.mark.parametrize("name", BRIGHTFIELD)
def test_a_stained_slide_passes(name):
    assert judge(BRIGHTFIELD[name]) == ""


def spots(seed, colours, background):
    """Cells that emit light on a dark, noisy background."""
    rng = np.random.default_rng(seed)
    out = rng.normal(background, 1.5, (200, 260, 3))
    for colour in colours:
        plane = np.zeros((200, 260), np.float32)
        for x, y in rng.integers(0, (260, 200), (150, 2)).tolist():
            cv2.circle(plane, (x, y), 3, 1.0, -1)
        out += cv2.GaussianBlur(plane, (0, 0), 1.2)[..., None] * np.array(colour)
    return np.clip(out, 0, 255).round().astype(np.uint8)


@pytest.mark.parametrize("background", [0, 5, 12, 25])
@pytest.mark.parametrize(
    "colours", [[(0, 0, 230)], [(20, 200, 0)], [(0, 0, 220), (220, 0, 0), (0, 200, 0)]]
)
def test_light_on_dark_is_refused(colours, background):
    assert judge(spots(3, colours, background))


def test_light_that_fills_the_frame_is_refused():
    assert "pure colours" in judge(np.full((90, 90, 3), (12, 150, 20), np.uint8))
    assert "pure colours" in judge(np.full((90, 90, 3), (20, 22, 180), np.uint8))


@pytest.mark.parametrize("background", [12, 243])
def test_grey_is_refused(background):
    rgb = np.full((120, 160, 3), background, np.uint8)
    rgb[40:80, 40:100] = 130
    assert judge(rgb) == "its pixels are grey (R = G = B)"
    rgb[50:60, 50:60] = (150, 90, 140)
    assert judge(rgb) == ("its pixels are bright on a dark background" if background < 99 else "")


def test_a_little_colour_on_a_large_slide_is_found():
    rgb = np.full((3000, 4000, 3), 243, np.uint8)
    rgb[100:1000, 100:1000] = 200
    rgb[1500:1540, 2000:2040] = (180, 90, 150)
    assert judge(rgb) == ""
    rgb[1500:1540, 2000:2040] = 100
    assert "grey" in judge(rgb)


@pytest.mark.parametrize("rim", [None, 0, 255])
def test_ycbcr_that_is_taken_for_rgb_is_refused(rim):
    mistaken = cv2.cvtColor(ON_GLASS, cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]]
    if rim is not None:
        mistaken = framed(mistaken, rim)
    assert judge(mistaken) == "its pixels look like YCbCr taken for RGB"


def test_rgb_that_is_taken_for_ycbcr_is_refused():
    turned = np.ascontiguousarray(ON_GLASS[..., [0, 2, 1]])
    mistaken = cv2.cvtColor(turned, cv2.COLOR_YCrCb2RGB)
    assert judge(mistaken) == "its pixels look like RGB taken for YCbCr"


def test_black_is_refused():
    assert judge(np.full((50, 60, 3), 3, np.uint8)) == "its pixels are black"


def grey_slide(**more):
    rgb = np.repeat(ON_GLASS[..., :1], 3, 2)
    slide = MemorySlide(np.kron(rgb, np.ones((4, 4, 1), np.uint8)), mpp=(2.0, 2.0))
    slide.info = replace(slide.info, **more)
    return slide


@pytest.mark.parametrize("method", ["otsu", "all"])
def test_the_search_for_tissue_refuses_grey_unless_it_is_accepted(method):
    with pytest.raises(
        NotBrightfieldError, match=r"memory.svs: its pixels are grey.*--accept-grey"
    ):
        find_tissue(grey_slide(), method=method)
    find_tissue(grey_slide(accept_grey=True), method=method)


def test_a_mask_of_ones_own_does_not_hide_grey(tmp_path):
    cv2.imwrite(str(tmp_path / "m.png"), np.full((150, 200), 255, np.uint8))
    with pytest.raises(NotBrightfieldError, match="grey"):
        find_tissue(grey_slide(), mask_file=tmp_path / "m.png")


def test_a_slide_that_is_well_is_not_refused():
    check_pixels(grey_slide().info, ON_GLASS)


PIXELS = np.random.default_rng(0).integers(0, 256, (320, 272, 3)).astype(np.uint8)
OME = {"axes": "CYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
RES = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER", "metadata": None}
TILED, STRIPS = {"tile": (64, 64)}, {"rowsperstrip": 64}
NAMED = {**OME, "Channel": {"Name": ["DAPI", "CD8", "CK"]}}
PLANES = np.moveaxis(PIXELS, 2, 0)
TWELVE = PIXELS.astype(np.uint16) * 16
REFUSED = {
    "planes.ome.tif": (PLANES, {"photometric": "minisblack", "metadata": NAMED},
                       "its pixels are uint8 of 3 channel(s) in separate planes (DAPI, CD8, CK)"),
    "unnamed.ome.tif": (PLANES[:2], {"photometric": "minisblack", "metadata": OME},
                        "its pixels are uint8 of 2 channel(s) in separate planes"),
    "pages.tif": (PLANES, {"photometric": "minisblack", **RES},
                  "its pixels are uint8 of 3 channel(s) in separate planes"),
    "grey.tif": (PIXELS[..., 0], {"photometric": "minisblack", **RES},
                 "its pixels are uint8 of 1 channel(s)"),
    "twelve.tif": (TWELVE, {"photometric": "rgb", **RES}, "its pixels are uint16 of 3 channel(s)"),
    "grey16.tif": (TWELVE[..., 0], {"photometric": "minisblack", **RES},
                   "its pixels are uint16 of 1 channel(s)"),
    "float.tif": (PIXELS.astype(np.float32), {"photometric": "rgb", **RES},
                  "its pixels are float32 of 3 channel(s)"),
    "samples.tif": (PIXELS, {"photometric": "minisblack", "planarconfig": "contig", **RES},
                    "its photometric interpretation is grey (BlackIsZero), not RGB"),
}  # fmt: skip


@pytest.mark.parametrize("layout", [TILED, STRIPS], ids=["tiles", "strips"])
@pytest.mark.parametrize("reader", ["auto", "tiatoolbox"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_its_tags_say_is_no_rgb_is_refused_by_every_reader(name, reader, layout, tmp_path):
    pixels, how, reason = REFUSED[name]
    tifffile.imwrite(tmp_path / name, pixels, **layout, **how)
    with pytest.raises(NotBrightfieldError) as caught:
        open_slide(tmp_path / name, reader=reader)
    assert str(caught.value).startswith(f"{name}: {reason}, so it is not brightfield RGB; ")
    if name != "grey.tif":
        with pytest.raises(NotBrightfieldError):
            open_slide(tmp_path / name, reader=reader, accept_grey=True)


def test_grey_pixels_are_read_as_they_are_where_they_are_accepted(tmp_path):
    tifffile.imwrite(
        tmp_path / "grey.tif", PIXELS[..., 0], photometric="minisblack", **TILED, **RES
    )
    with open_slide(tmp_path / "grey.tif", accept_grey=True) as slide:
        assert slide.info.accept_grey
        got = slide.read_level(0, (0, 0), (272, 320))
    np.testing.assert_array_equal(got, np.repeat(PIXELS[..., :1], 3, 2))


@pytest.mark.parametrize("layout", [TILED, STRIPS], ids=["tiles", "strips"])
def test_rgb_of_every_kind_passes(layout, tmp_path):
    from wsikd.slides.readers.tiatoolbox_facts import read_facts

    for number, how in enumerate(
        ({}, {"planarconfig": "separate"}, {"compression": "jpeg"}, {"compression": "deflate"})
    ):
        path = tmp_path / f"{number}.tif"
        pixels = PLANES if "planarconfig" in how else PIXELS
        tifffile.imwrite(path, pixels, photometric="rgb", **layout, **how, **RES)
        assert read_facts(path, "tiff").doubt is None
    tifffile.imwrite(tmp_path / "a.ome.tif", PIXELS, photometric="rgb", **layout)
    assert read_facts(tmp_path / "a.ome.tif", "tiff").doubt is None
