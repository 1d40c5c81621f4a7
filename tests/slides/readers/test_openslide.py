import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from tests.slides.pixels import break_tile, level0, tissue_rgb
from wsikd.core.errors import ConfigError, MissingMppError, RegionReadError, SlideError
from wsikd.slides import base
from wsikd.slides.base import READERS, Slide
from wsikd.slides.dicom.grouping import dicom_files, group_series
from wsikd.slides.file_format import fingerprint
from wsikd.slides.listing.manifest import find_slides
from wsikd.slides.readers.openslide import OpenSlideReader, exact_downsamples
from wsikd.synthetic.cohort import write_pyramid

open_slide = partial(base.open_slide, reader="openslide")


@pytest.fixture
def broken_file(slide_file, tmp_path):
    """The slide with its level-0 tile (2, 1) of 6 x 4 unreadable: pixels x 512-767, y 256-511."""
    path = tmp_path / "broken.svs"
    shutil.copy(slide_file, path)
    break_tile(path, 1 * 6 + 2)
    return path


def test_without_openslide_a_slide_fails_by_a_line(slide_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "openslide", None)
    with pytest.raises(
        SlideError, match=r"OpenSlide cannot be imported.*; pip install openslide-p"
    ):
        open_slide(slide_file)


def test_what_is_told_of_a_slide(slide_file):
    with open_slide(slide_file, name="mine") as slide:
        assert isinstance(slide, Slide)
        info = slide.info
    assert (info.name, info.file, info.vendor, info.reader) == (
        "mine", "odd.svs", "aperio", "openslide",
    )  # fmt: skip
    assert info.dimensions == (1301, 907)
    assert info.level_dimensions == ((1301, 907), (325, 226), (81, 56))
    assert info.level_downsamples == ((1.0, 1.0), (4.0, 4.0), (16.0, 16.0))
    assert info.bounds == (0, 0, 1301, 907)
    assert info.objective_power == 20
    assert info.background == (255, 255, 255)
    assert info.mpp is not None
    assert (info.mpp.x, info.mpp.y, info.mpp.source) == (0.499, 0.499, "aperio.MPP")


def test_level0_pixels_are_openslides(slide_file):
    own = level0(slide_file)
    with open_slide(slide_file) as slide:
        np.testing.assert_array_equal(
            slide.read_level(0, (400, 301), (333, 222)), own[301:523, 400:733]
        )
        beyond = slide.read_level(0, (-7, 900), (20, 20))
    np.testing.assert_array_equal(beyond[:7, 7:], own[900:, :13])
    assert (beyond[:, :7] == 255).all()
    assert (beyond[7:] == 255).all()


@pytest.mark.parametrize("level", [1, 2])
def test_coarse_pixels_are_shifted_by_at_most_half_a_level0_pixel(slide_file, level):
    """OpenSlide places a coarse level by its mean downsample, here 4.008 and 16.13."""
    with openslide.OpenSlide(slide_file) as handle:
        size = handle.level_dimensions[level]
        own = np.asarray(handle.read_region((0, 0), level, size))[..., :3].astype(float)
    near = np.stack([np.roll(own, (dy, dx), (0, 1)) for dy in (-1, 0, 1) for dx in (-1, 0, 1)])
    slack = near.max(0) - near.min(0)
    shift = 0.5 / 4**level
    with open_slide(slide_file) as slide:
        for x, y in ((3, 5), (37, 21), (50, 33)):
            got = slide.read_level(level, (x, y), (20, 15))
            there = (slice(y, y + 15), slice(x, x + 20))
            assert (np.abs(got - own[there]) <= 2 * shift * slack[there] + 2).all()


def test_bounds_and_background_of_a_mirax_slide(slide_file, monkeypatch):
    """The plane of an MRXS is the whole glass; its bounds are what was scanned."""
    told = {
        "openslide.bounds-x": "300",
        "openslide.bounds-y": "200",
        "openslide.bounds-width": "640",
        "openslide.bounds-height": "480",
        "openslide.background-color": "F0E0D0",
        "openslide.icc-size": "588",
    }
    with openslide.OpenSlide(slide_file) as handle:
        told = {**handle.properties, **told}
    monkeypatch.setattr(openslide.OpenSlide, "properties", told, raising=False)
    with open_slide(slide_file) as slide:
        assert slide.info.bounds == (300, 200, 640, 480)
        assert slide.info.background == (0xF0, 0xE0, 0xD0)
        assert slide.info.icc_profile
        beyond = slide.read_level(0, (1300, 906), (3, 3))
    assert (beyond[1:, 1:] == (0xF0, 0xE0, 0xD0)).all()


def test_a_mirax_suffix_in_capitals_is_told(tmp_path):
    (tmp_path / "A.MRXS").write_bytes(b"\xff\xd8 no OpenSlide knows it")
    with pytest.raises(SlideError, match=r"rename it to A\.mrxs"):
        open_slide(tmp_path / "A.MRXS")


def test_alpha_is_composed_on_the_background(slide_file, monkeypatch):
    rgba = np.random.default_rng(6).integers(0, 256, (9, 40, 4)).astype(np.uint8)
    rgba[0, :4, 3] = (0, 1, 128, 255)
    with open_slide(slide_file) as slide:
        monkeypatch.setattr(
            openslide.OpenSlide, "read_region", lambda *_: Image.fromarray(rgba, "RGBA")
        )
        got = slide.read_level(0, (0, 0), (40, 9))
    alpha = rgba[..., 3:] / 255
    assert np.abs(got - (rgba[..., :3] * alpha + 255 * (1 - alpha))).max() <= 0.51
    assert (got[0, 0] == 255).all()
    assert (got[0, 3] == rgba[0, 3, :3]).all()


def test_a_damaged_region_is_told_and_the_others_still_read(slide_file, broken_file):
    own = level0(slide_file)
    with open_slide(broken_file) as slide:
        before = slide.read_level(0, (0, 0), (200, 200))
        for _ in range(2):
            with pytest.raises(RegionReadError) as caught:
                slide.read_level(0, (600, 300), (50, 50))
            after = slide.read_level(0, (900, 600), (200, 200))
            np.testing.assert_array_equal(after, own[600:800, 900:1100])
    np.testing.assert_array_equal(before, own[:200, :200])
    text = str(caught.value)
    assert text.startswith("broken.svs: level 0 cannot be read at level-0 x=600, y=300 (")
    assert "\n" not in text


def test_a_handle_that_another_thread_spoilt_is_replaced_once(broken_file, monkeypatch):
    with open_slide(broken_file) as slide:
        with pytest.raises(openslide.OpenSlideError):
            slide._handle.read_region((600, 300), 0, (50, 50))
        first = slide.read_level(0, (900, 600), (50, 50))
        monkeypatch.setattr("wsikd.slides.readers.openslide._open", None)
        np.testing.assert_array_equal(slide.read_level(0, (900, 600), (50, 50)), first)


def test_damage_in_one_thread_does_not_spoil_the_others(slide_file, broken_file):
    own = level0(slide_file)
    corners = [(x, y) for y in range(0, 800, 100) for x in range(0, 1200, 100)] * 2
    bad = {c for c in corners if 412 < c[0] < 768 and 156 < c[1] < 512}

    def read(corner):
        try:
            return slide.read_level(0, corner, (100, 100))
        except RegionReadError:
            return None

    with open_slide(broken_file) as slide, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(read, corners))
    for (x, y), pixels in zip(corners, found, strict=True):
        if (x, y) in bad:
            assert pixels is None
        else:
            np.testing.assert_array_equal(pixels, own[y : y + 100, x : x + 100])


def test_threads_share_a_reader(slide_file):
    own = level0(slide_file)
    corners = [(x, y) for y in range(0, 700, 130) for x in range(0, 1100, 90)]
    with open_slide(slide_file) as slide, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda c: slide.read_level(0, c, (200, 200)), corners))
    for (x, y), pixels in zip(corners, found, strict=True):
        np.testing.assert_array_equal(pixels, own[y : y + 200, x : x + 200])


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(46000, 32914), (11500, 8228)], [1, 4]),  # ratios 4 and 4.000243
        ([(2220, 2967), (1110, 1483)], [1, 2]),  # the odd row dropped
        ([(2221, 2967), (1111, 1484)], [1, 2]),  # or rounded up
        ([(99187, 66126), (24796, 16531), (6199, 4132), (3099, 2066)], [1, 4, 16, 32]),
        ([(132813, 65532), (33203, 16383)], [1, 4]),  # 4.000030 and 4.000000
        ([(1000, 1000), (333, 333)], [1, 3]),
    ],
)
def test_downsamples_that_are_meant_whole_are_whole(sizes, expected):
    assert exact_downsamples(sizes) == tuple((float(d), float(d)) for d in expected)


def test_downsamples_that_are_not_whole_stay_the_ratio():
    assert exact_downsamples([(1000, 900), (400, 300)]) == ((1.0, 1.0), (2.5, 3.0))


def test_fingerprint_follows_the_content(slide_file, tmp_path):
    copy = tmp_path / "renamed.svs"
    shutil.copy(slide_file, copy)
    assert fingerprint(copy) == fingerprint(slide_file)
    with copy.open("r+b") as stream:
        stream.seek(-1, 2)
        last = stream.read(1)
        stream.seek(-1, 2)
        stream.write(bytes([last[0] ^ 1]))
    changed = fingerprint(copy)
    assert changed != fingerprint(slide_file)
    with copy.open("ab") as stream:
        stream.write(b"\0")
    assert fingerprint(copy) not in (changed, fingerprint(slide_file))


def test_fingerprint_of_a_folder_counts_every_file(tmp_path):
    (tmp_path / "a.dcm").write_bytes(b"one")
    (tmp_path / "b.dcm").write_bytes(b"two")
    before = fingerprint(tmp_path)
    (tmp_path / "b.dcm").write_bytes(b"2wo")
    assert fingerprint(tmp_path) != before


def test_label_and_macro_are_never_read(slide_file, monkeypatch):
    def refuse(_):
        raise AssertionError("associated images were asked for")

    monkeypatch.setattr(openslide.OpenSlide, "associated_images", property(refuse))
    with open_slide(slide_file) as slide:
        slide.read_level(2, (0, 0), (50, 50))


def test_a_slide_without_resolution_opens_but_tells_no_mpp(tmp_path):
    path = tmp_path / "bare.svs"
    write_pyramid(path, tissue_rgb(300, 200), mpp=0.5, power=20, omit_mpp=True, downsamples=(1, 4))
    with open_slide(path) as slide:
        assert slide.info.mpp is None
        with pytest.raises(MissingMppError, match=r"^bare\.svs: no resolution .*--slide-mpp"):
            slide.mpp  # noqa: B018
    with open_slide(path, slide_mpp=0.26) as slide:
        assert (slide.mpp.x, slide.mpp.y, slide.mpp.source) == (0.26, 0.26, "slide_mpp")
    with pytest.raises(MissingMppError, match="implausible"):
        open_slide(path, slide_mpp=260)


def test_a_name_that_is_no_utf8_is_spelt_out(slide_file, tmp_path):
    path = tmp_path / os.fsdecode(b"M\xfcller.svs")
    shutil.copy(slide_file, path)
    with open_slide(path) as slide:
        assert (slide.info.name, slide.info.file) == ("M\\xfcller", "M\\xfcller.svs")
    path.write_text("no slide")
    with pytest.raises(SlideError) as caught:
        open_slide(path)
    assert str(caught.value).startswith("M\\xfcller.svs: not a slide")


def _text(path):
    path.write_text("no slide at all")


def _truncated(path):
    write_pyramid(path, tissue_rgb(900, 700), mpp=0.5, power=20)
    path.write_bytes(path.read_bytes()[:5000])


def _plain(path):
    tifffile.imwrite(path, np.zeros((64, 64, 3), np.uint8))


def _nothing(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("make", [_text, _truncated, _plain, _nothing])
def test_no_slide_is_one_line(tmp_path, make):
    path = tmp_path / "bad.svs"
    make(path)
    with pytest.raises(SlideError) as caught:
        open_slide(path)
    assert str(caught.value).startswith("bad.svs: ")
    assert "\n" not in str(caught.value)


def test_missing_file_and_empty_folder(tmp_path):
    with pytest.raises(SlideError, match="no such file"):
        open_slide(tmp_path / "none.svs")
    with pytest.raises(SlideError, match="without DICOM files"):
        open_slide(tmp_path)


def test_unknown_reader_lists_the_known(slide_file):
    with pytest.raises(ConfigError, match=", ".join(READERS)):
        open_slide(slide_file, reader="bioformats")


def test_dicom_folder_shows_the_svs_it_came_from(real_slides):
    with (
        base.open_slide(real_slides / "CMU-1-Small-Region-dicom") as dicom,
        open_slide(real_slides / "CMU-1-Small-Region.svs") as svs,
    ):
        assert dicom.info.name == "CMU-1-Small-Region-dicom"
        assert dicom.info.vendor == "dicom"
        assert dicom.info.dimensions == svs.info.dimensions
        assert dicom.info.objective_power is None
        assert dicom.mpp.x == pytest.approx(svs.mpp.x, rel=1e-3)
        # These files call their YCbCr frames RGB, and OpenSlide would believe them.
        own = svs.read_level(0, (900, 900), (64, 64))
        assert np.abs(dicom.read_level(0, (900, 900), (64, 64)).astype(int) - own).mean() < 12


def test_a_dicom_series_among_others_is_read_alone(real_slides, tmp_path):
    own = real_slides / "CMU-1-Small-Region-dicom"
    uid = next(iter(group_series(dicom_files(own))[0])).uid
    for level, name in ((1, "a"), (2, "a"), (3, "b"), (4, "b")):
        (file,) = own.glob(f"level-{level}-*.dcm")
        data = file.read_bytes().replace(uid.encode(), (uid[:-1] + "7").encode())
        content = data if name == "b" else file.read_bytes()
        (tmp_path / f"{name}{level}.dcm").write_bytes(content)
    sizes = {}
    for entry in find_slides([tmp_path]):
        with OpenSlideReader(entry.path) as slide:
            sizes[entry.name] = slide.info.level_dimensions
            assert slide.info.fingerprint == fingerprint(entry.path)
    assert list(sizes) == ["a1", "b3"]
    assert {len(levels) for levels in sizes.values()} == {2}
    assert sizes["a1"][0][0] > sizes["a1"][1][0] > sizes["b3"][0][0]
    with pytest.raises(SlideError, match="a folder with 2 DICOM slides; name a file of one, as a1"):
        OpenSlideReader(tmp_path)


@pytest.mark.parametrize(
    ("file", "error"),
    [
        ("wsic_JPEG.ome.tiff", SlideError),
        ("openslidepy_unopenable.tiff", SlideError),
        ("histolab_broken.svs", SlideError),
        ("openslidepy_unreadable.svs", RegionReadError),
        ("CMU-1-Small-Region.jpeg.tiff", MissingMppError),
        ("openslidepy_boxes.tiff", MissingMppError),
    ],
)
def test_odd_files(real_slides, file, error):
    def read():
        with open_slide(real_slides / "odd" / file) as slide:
            assert slide.read_level(0, (0, 0), slide.info.dimensions).any()
            return slide.mpp

    with pytest.raises(error) as caught:
        read()
    assert type(caught.value) is error
    assert str(caught.value).startswith(file)


def test_a_slide_of_sixteen_pixels(real_slides):
    with open_slide(real_slides / "odd" / "openslidepy_small.svs") as slide:
        assert slide.info.dimensions == (16, 16)
        assert slide.read_level(0, (0, 0), (16, 16)).shape == (16, 16, 3)


def test_a_jpeg2000_slide_without_resolution(real_slides):
    with open_slide(real_slides / "tcga-cr-7395-01a-01-ts1.svs") as slide:
        assert slide.info.mpp is None
        assert slide.info.level_downsamples[1] == (2.0, 2.0)
        assert slide.read_level(1, (500, 500), (100, 80)).std() > 1
