"""Which reader opens what."""

from types import SimpleNamespace

import numpy as np
import pytest
import tifffile

from tests.slides.pixels import tissue_rgb
from wsikd.core.errors import MissingMppError, RegionReadError, SlideError
from wsikd.slides.base import open_slide
from wsikd.slides.file_format import kind_of
from wsikd.slides.readers import tiatoolbox as foreign
from wsikd.synthetic.cohort import write_pyramid

RGB = tissue_rgb(1700, 500)


class Foreign:
    """In the place of TIAToolbox: remembers what it was asked."""

    def __init__(self, path, *, note, **options):
        self.path, self.note, self.options = path, note, options
        self.info = SimpleNamespace(doubt=None)


@pytest.fixture
def no_tiatoolbox(monkeypatch):
    monkeypatch.setattr("wsikd.slides.readers.tiatoolbox.ForeignReader", Foreign)


def pyramid(path):
    write_pyramid(path, RGB, mpp=0.5, power=20, downsamples=(1, 2))


def ome(path, levels):
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(RGB, tile=(64, 64), photometric="rgb", subifds=levels - 1)
        for n in range(1, levels):
            tiff.write(RGB[:: 2**n, :: 2**n], tile=(64, 64), photometric="rgb", subfiletype=1)


def test_tiled_jpeg_is_read_directly_and_shows_openslides_pixels(tmp_path, no_tiatoolbox):
    pyramid(tmp_path / "a.SVS")
    with (
        open_slide(tmp_path / "a.SVS") as auto,
        open_slide(tmp_path / "a.SVS", reader="direct") as direct,
        open_slide(tmp_path / "a.SVS", reader="openslide") as plain,
    ):
        assert (auto.info.reader, direct.info.reader, plain.info.reader) == (
            "direct", "direct", "openslide",
        )  # fmt: skip
        assert auto.info.reader_note
        assert auto.info.fingerprint == plain.info.fingerprint
        box = (0, (100, 50), (300, 200))
        np.testing.assert_array_equal(auto.read_level(*box), plain.read_level(*box))


def test_other_tiles_are_left_to_openslide(tmp_path, no_tiatoolbox):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RGB, tile=(64, 64), photometric="rgb", compression="zlib")
    with open_slide(path) as slide:
        assert slide.info.reader == "openslide"
        assert slide.info.reader_note.startswith("not read directly: ")
    with pytest.raises(SlideError, match=r"not read directly: .*; open it with --reader auto"):
        open_slide(path, reader="direct")


@pytest.mark.parametrize(("levels", "reader"), [(1, "openslide"), (2, "tiatoolbox")])
def test_an_ome_tiff_whose_levels_openslide_does_not_see(levels, reader, tmp_path, no_tiatoolbox):
    ome(tmp_path / "a.ome.tiff", levels)
    slide = open_slide(tmp_path / "a.ome.tiff", slide_mpp=0.5, mpp_source="x", name="n")
    if reader == "tiatoolbox":
        assert isinstance(slide, Foreign)
        assert "does not see the lower levels" in slide.note
        assert slide.options == {"slide_mpp": 0.5, "mpp_source": "x", "name": "n", "series": None}
    else:
        assert slide.info.reader == "openslide"
        slide.close()


def test_what_openslide_does_not_know_goes_to_tiatoolbox(tmp_path, no_tiatoolbox):
    tifffile.imwrite(tmp_path / "strips.svs", RGB, photometric="rgb")
    (tmp_path / "a.jp2").write_bytes(b"\0\0\0\x0cjP  \r\n\x87\n")
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / ".zattrs").write_text('{"multiscales": []}')
    for name in ("strips.svs", "a.jp2", "a.zarr"):
        assert isinstance(open_slide(tmp_path / name), Foreign)
    for name in ("strips.svs", "a.jp2", "a.zarr"):
        with pytest.raises(SlideError):
            open_slide(tmp_path / name, reader="openslide")


def test_an_implausible_resolution_is_not_handed_on(tmp_path, no_tiatoolbox):
    pyramid(tmp_path / "a.svs")
    with pytest.raises(MissingMppError, match="implausible"):
        open_slide(tmp_path / "a.svs", slide_mpp=260)


@pytest.mark.parametrize("reader", ["auto", "openslide", "direct", "tiatoolbox"])
@pytest.mark.parametrize("make", ["missing", "folder", "text", "empty"])
def test_no_slide_is_one_line_whoever_is_asked(reader, make, tmp_path, monkeypatch):
    monkeypatch.setattr(foreign, "resolve", None)  # TIAToolbox is not even imported
    path = tmp_path / "bad.svs"
    if make == "folder":
        path.mkdir()
    elif make != "missing":
        path.write_text("no slide" if make == "text" else "")
    with pytest.raises(SlideError) as caught:
        open_slide(path, reader=reader)
    assert "bad.svs: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_kinds_by_first_bytes(tmp_path):
    for head, kind in (
        (b"II*\0", "tiff"), (b"MM\0*", "tiff"), (b"II+\0", "tiff"), (b"MM\0+", "tiff"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "jp2"), (b"\xff\xd8\xff\xe0", None), (b"", None),
    ):  # fmt: skip
        (tmp_path / "x").write_bytes(head)
        assert kind_of(tmp_path / "x") == kind
    assert kind_of(tmp_path) is None
    assert kind_of(tmp_path / "none") is None


def _use(slide):
    slide.read_level(0, (0, 0), slide.info.dimensions)
    return slide.mpp


@pytest.mark.parametrize(
    ("file", "reader", "error"),
    [
        ("wsic_JPEG.ome.tiff", "tifffile", MissingMppError),
        ("openslidepy_unopenable.tiff", None, SlideError),
        ("histolab_broken.svs", None, SlideError),
        ("openslidepy_unreadable.svs", "openslide", RegionReadError),
        ("CMU-1-Small-Region.jpeg.tiff", "direct", MissingMppError),
        ("openslidepy_boxes.tiff", "openslide", MissingMppError),
        ("openslidepy_small.svs", "direct", None),
    ],
)
def test_odd_files(real_slides, file, reader, error):
    path = real_slides / "odd" / file
    if reader is None:
        with pytest.raises(error) as caught:
            open_slide(path)
    else:
        with open_slide(path) as slide:
            assert slide.info.reader == reader
            if error is None:
                assert slide.read_level(0, (0, 0), slide.info.dimensions).any()
                assert slide.mpp.x == 0.499
                return
            with pytest.raises(error) as caught:
                _use(slide)
    assert type(caught.value) is error
    assert str(caught.value).startswith(file)
    assert "\n" not in str(caught.value)
