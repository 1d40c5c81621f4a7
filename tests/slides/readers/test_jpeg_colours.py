"""JPEG data whose colours are not those that their file claims."""

import io
import warnings
from contextlib import suppress

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.slides.dicom_slides import frames_of, write_level, ycbcr
from tests.slides.pixels import tissue_rgb
from wsikd.core.errors import NotBrightfieldError
from wsikd.slides.base import open_slide
from wsikd.slides.dicom.frames import frame_colours, frame_levels
from wsikd.slides.readers.direct_tiff_index import TileLevelError
from wsikd.slides.readers.jpeg_colours import JFIF_MARK, RGB_MARK, START, colours_of, framings
from wsikd.slides.tissue.find import find_tissue
from wsikd.synthetic.cohort import write_pyramid

RGB = tissue_rgb(640, 512, (100, 80, 300, 200))
SCALE = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER", "metadata": None}
PHOTOMETRIC = 262


def rgb_stream(rgb):
    """Not converted; its components are called R, G, B."""
    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, "JPEG", quality=95, keep_rgb=True, subsampling=0)
    return stream.getvalue()


def without_jfif(stream):
    return stream[:2] + stream[20:] if stream[6:10] == b"JFIF" else stream


@pytest.mark.parametrize(
    ("stream", "colours"),
    [
        (ycbcr(RGB), "YCbCr"),
        (ycbcr(RGB, "444"), "YCbCr"),
        (without_jfif(ycbcr(RGB)), "YCbCr"),
        (without_jfif(ycbcr(RGB, "444")), None),
        (rgb_stream(RGB), "RGB"),
        (START + RGB_MARK + without_jfif(ycbcr(RGB, "444"))[2:], "RGB"),
        (START + JFIF_MARK + rgb_stream(RGB)[2:], "YCbCr"),
        (b"", None),
        (START, None),
    ],
)
def test_markers_say_what_a_stream_is(stream, colours):
    assert colours_of(stream) == colours


def test_no_mutant_of_a_stream_is_a_fault():
    rng = np.random.default_rng(0)
    whole = ycbcr(RGB[:64, :64])[:700]
    for _ in range(500):
        mutant = bytearray(whole[: rng.integers(len(whole))])
        for place in rng.integers(0, max(1, len(mutant)), 4).tolist()[: len(mutant)]:
            mutant[place] = rng.integers(256)
        assert colours_of(bytes(mutant)) in ("RGB", "YCbCr", None)
        framings("RGB", bytes(mutant))


def tiled(path, streams, claim, size=(640, 512)):
    """A TIFF of 256 px tiles whose tag says what it likes; Aperio's, so that OpenSlide opens it."""
    blank = np.zeros((size[1], size[0], 3), np.uint8)
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(
            iter(streams), shape=blank.shape, dtype=np.uint8, photometric="ycbcr",
            subsampling=(1, 1), compression="jpeg", tile=(256, 256), **SCALE,
            description="Aperio Image Library v1\r\n640x512 |MPP = 0.5|AppMag = 20",
        )  # fmt: skip
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[0].tags[PHOTOMETRIC].overwrite(claim)


def tiles(encode):
    return frames_of(RGB, encode)


KINDS = {
    "jfif": ycbcr,
    "subsampled alone": lambda rgb: without_jfif(ycbcr(rgb)),
    "rgb": rgb_stream,
}


@pytest.mark.parametrize("reader", ["auto", "tiatoolbox"])
@pytest.mark.parametrize("claim", [2, 6], ids=["says RGB", "says YCbCr"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_tiff_is_decoded_as_what_its_tiles_are(kind, claim, reader, tmp_path):
    tiled(tmp_path / "a.svs", tiles(KINDS[kind]), claim)
    with open_slide(tmp_path / "a.svs", reader=reader) as slide:
        got = slide.read_level(0, (0, 0), (640, 512)).astype(int)
        find_tissue(slide)
        wrong = (claim == 2) != (kind == "rgb") and (claim == 2 or slide.info.reader == "direct")
        assert slide.info.marks == ({"colours_corrected": True} if wrong else {})
    assert np.abs(got - RGB).mean() < 3
    assert np.abs(got - RGB).mean((0, 1)).max() < 4


def test_openslide_alone_refuses_it(tmp_path):
    tiled(tmp_path / "a.svs", tiles(ycbcr), 2)
    with pytest.raises(NotBrightfieldError) as caught:
        open_slide(tmp_path / "a.svs", reader="openslide", accept_grey=True)
    assert "its metadata say RGB and its JPEG data are YCbCr" in str(caught.value)
    assert "--reader auto" in str(caught.value)


def test_where_the_tiles_cannot_be_read_directly_it_is_refused(tmp_path):
    streams = tiles(ycbcr)
    streams[5] = streams[5][:300]
    tiled(tmp_path / "a.svs", streams, 2)
    with pytest.raises(NotBrightfieldError, match="its JPEG data are YCbCr"):
        open_slide(tmp_path / "a.svs")


def test_a_slide_of_one_mind_is_read_as_before(tmp_path):
    write_pyramid(tmp_path / "a.svs", RGB, mpp=0.5, power=20)
    with open_slide(tmp_path / "a.svs") as slide:
        assert slide.info.reader_note == "tiled JPEG; sampled tiles are OpenSlide's to the bit"
        assert slide.info.doubt is None


def dicom(path, claim, encode, organization="TILED_FULL"):
    """A DICOM slide of one level and 256 px frames."""
    frames, places = frames_of(RGB, encode), None
    if organization != "TILED_FULL":
        order = [5, 0, 3, 1, 4, 2]
        frames, places = [frames[i] for i in order], [(i % 3, i // 3) for i in order]
    write_level(path / "level-0.dcm", frames, (640, 512), claim=claim, places=places)


@pytest.mark.parametrize("organization", ["TILED_FULL", "TILED_SPARSE"])
@pytest.mark.parametrize(
    ("claim", "encode"),
    [("RGB", ycbcr), ("YBR_FULL_422", ycbcr), ("RGB", rgb_stream), ("YBR_FULL_422", rgb_stream)],
    ids=["ycbcr says rgb", "ycbcr", "rgb", "rgb says ycbcr"],
)
def test_a_dicom_slide_is_decoded_as_what_its_frames_are(claim, encode, organization, tmp_path):
    dicom(tmp_path / "slide", claim, encode, organization)
    with open_slide(tmp_path / "slide") as slide:
        got = slide.read_level(0, (0, 0), (640, 512)).astype(int)
        assert slide.info.reader == (
            "direct" if (claim == "RGB") == (encode is ycbcr) else "openslide"
        )
    assert np.abs(got - RGB).mean() < 3


def test_absent_frames_of_wrong_colours_are_background(tmp_path):
    frames = frames_of(RGB)
    write_level(
        tmp_path / "0.dcm", [frames[4], frames[0]], (640, 512), claim="RGB",
        places=[(1, 1), (0, 0)],
    )  # fmt: skip
    with open_slide(tmp_path / "0.dcm") as slide:
        assert slide.info.reader == "direct"
        got = slide.read_level(0, (0, 0), (640, 512)).astype(int)
    there = np.zeros((512, 640), bool)
    there[:256, :256] = there[256:, 256:512] = True
    assert np.abs(got - RGB)[there].mean() < 3
    assert (got[~there] == 255).all()


def test_no_mutant_of_a_dicom_file_is_a_fault(tmp_path):
    dicom(tmp_path / "slide", "RGB", ycbcr)
    file = tmp_path / "slide" / "level-0.dcm"
    whole = file.read_bytes()
    start = whole.index(b"\xe0\x7f\x10\x00") + 300
    rng = np.random.default_rng(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pydicom
        for _ in range(100):
            mutant = bytearray(whole)
            for place in rng.integers(128, start, 5).tolist():
                mutant[place] = rng.integers(256)
            file.write_bytes(mutant[: rng.integers(start, len(whole))])
            assert frame_colours(file) in (None, ("RGB", "YCbCr"))
            with suppress(TileLevelError):
                frame_levels(file, [(640, 512)])


@pytest.mark.parametrize("name", ["CMU-1-Small-Region-dicom", "CMU-1-Small-Region.svs"])
def test_the_sample_of_a_wrong_claim_has_the_tissue_of_the_same_slide(real_slides, name):
    with open_slide(real_slides / name) as slide:
        assert find_tissue(slide).fraction == pytest.approx(0.394, abs=0.01)
        grey = slide.read_level(0, (0, 0), (200, 200)).astype(int)
    assert grey.mean((0, 1)) == pytest.approx([239.9, 238, 239], abs=1)
