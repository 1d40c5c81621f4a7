"""A DICOM slide that claims what it does not hold is refused; absent frames are not read."""

import re
import time
import warnings
from contextlib import suppress

import numpy as np
import pydicom
import pytest

from tests.slides.dicom_slides import FRAME, frames_of, write_level
from tests.slides.pixels import tissue_rgb
from wsikd.core.errors import SlideError
from wsikd.slides.base import open_slide
from wsikd.slides.dicom.claims import stored_frames
from wsikd.slides.dicom.header import read_header
from wsikd.slides.tissue.find import find_tissue

RGB = tissue_rgb(2 * FRAME, 2 * FRAME)
FRAMES = frames_of(RGB)
HUGE = (60000, 60000)
ALL = [(0, 0), (1, 0), (0, 1), (1, 1)]


def refused(path, **how):
    start = time.process_time()
    with pytest.raises(SlideError) as caught:
        open_slide(path, **how)
    assert time.process_time() - start < 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("count", "size", "more", "fault"),
    [
        (4, HUGE, {}, "holds 4 of the 55225 frames that its 60000 x 60000 px take"),
        (3, (512, 512), {}, "holds 3 of the 4 frames"),
        (3, (512, 512), {"DimensionOrganizationType": None}, "holds 3 of the 4 frames"),
        (
            4,
            HUGE,
            {"NumberOfFrames": 55225},
            "claims 3619.2 million pixels, which [0-9]+ bytes cannot hold",
        ),
        (4, HUGE, {"DimensionOrganizationType": "TILED_SPARSE"}, "holds 4 of the 55225"),
        (4, (512, 512), {"NumberOfFrames": None}, "holds 1 of the 4 frames"),
        (4, (512, 512), {"NumberOfFrames": 0}, "says NumberOfFrames '0', which is not a number"),
        (4, (512, 512), {"NumberOfFrames": -3}, "says NumberOfFrames '-3', which is not a number"),
        (4, (512, 512), {"NumberOfFrames": 2_000_000_000}, "claims .*bytes cannot hold"),
        (4, (0, 512), {}, "claims 0 x 512 px in frames of 256 x 256 px"),
        (4, (512, 512), {"Rows": 0}, "claims 512 x 512 px in frames of 256 x 0 px"),
        (4, (2**32 - 1, 2**32 - 1), {}, "holds 4 of the 281474976710656 frames"),
    ],
)
def test_what_the_frames_cannot_hold_is_refused(count, size, more, fault, tmp_path):
    file = tmp_path / "slide" / "0.dcm"
    write_level(file, FRAMES[:count], size, **more)
    for path in (file, file.parent):
        said = refused(path)
        assert re.search(rf"^0\.dcm: {fault}", said), said


def test_a_single_frame_need_not_be_counted(tmp_path):
    write_level(tmp_path / "0.dcm", FRAMES[:1], (256, 256), NumberOfFrames=None)
    with open_slide(tmp_path / "0.dcm") as slide:
        assert (
            np.abs(slide.read_level(0, (0, 0), (256, 256)) - RGB[:256, :256].astype(int)).mean() < 3
        )


def test_absent_frames_of_a_sparse_slide_are_background_and_cost_nothing(tmp_path):
    places = [(3, 7), (150, 20)]
    write_level(tmp_path / "0.dcm", FRAMES[:2], (40960, 40960), places=places)
    start = time.process_time()
    with open_slide(tmp_path / "0.dcm") as slide:
        assert slide.absent.covers(0, 0, 0, 3 * FRAME, 40960)
        assert not slide.absent.covers(0, 150 * FRAME, 20 * FRAME, 1, 1)
        tissue = find_tissue(slide, workers=1, picture=True)
        got = slide.read_level(0, (3 * FRAME - 50, 7 * FRAME), (FRAME + 50, FRAME))
    assert time.process_time() - start < 12  # reading all of it takes a minute
    assert (got[:, :50] == 255).all()
    assert np.abs(got[:, 50:] - RGB[:FRAME, :FRAME].astype(int)).mean() < 6
    assert (tissue.thumbnail.min(2) < 240).sum() == 2 * 16 * 16


def test_the_name_of_a_file_need_not_end_in_dcm(tmp_path):
    write_level(tmp_path / "IM0001", FRAMES[:3], (512, 512))
    assert "IM0001: holds 3 of the 4 frames" in refused(tmp_path / "IM0001")


@pytest.mark.parametrize("organization", ["TILED_SPARSE", None])
def test_a_sparse_slide_of_no_frame_that_counts_holds_no_pixels(organization, tmp_path):
    write_level(
        tmp_path / "0.dcm", FRAMES[:1], (8000, 8000), places=[(99, 99)],
        DimensionOrganizationType=organization,
    )  # fmt: skip
    assert "holds no pixels: all its 1024 tiles are absent" in refused(tmp_path / "0.dcm")


def test_a_lower_level_that_lacks_frames_of_level_0_is_refused(tmp_path):
    blank = np.full((4 * FRAME, 4 * FRAME, 3), 200, np.uint8)
    series = write_level(tmp_path / "0.dcm", frames_of(blank), (1024, 1024))
    low = {"series": series, "mm": 0.001, "places": ALL[:3]}
    write_level(tmp_path / "1.dcm", FRAMES[:3], (512, 512), **low)
    assert "level 1 lacks 25% of the frames that level 0 has" in refused(tmp_path)
    absent = {(2, 2), (3, 2), (2, 3), (3, 3)}
    places = [(x, y) for y in range(4) for x in range(4) if (x, y) not in absent]
    frames = frames_of(blank)[: len(places)]
    write_level(tmp_path / "0.dcm", frames, (1024, 1024), places=places, series=series)
    with open_slide(tmp_path) as slide:
        assert slide.info.level_dimensions == ((1024, 1024), (512, 512))
        assert slide.absent.covers(1, 256, 256, 256, 256)


def test_the_frames_of_a_concatenation_count_together(tmp_path):
    together = pydicom.uid.generate_uid()

    def part(number, frames, offset, series=None):
        return write_level(
            tmp_path / f"{number}.dcm", frames, (512, 512), series=series,
            ConcatenationUID=together, InConcatenationNumber=number,
            InConcatenationTotalNumber=2, ConcatenationFrameOffsetNumber=offset,
        )  # fmt: skip

    series = part(1, FRAMES[:2], 0)
    assert "holds 2 of the 4 frames" in refused(tmp_path)
    part(2, FRAMES[2:], 2, series)
    with open_slide(tmp_path) as slide:
        got = slide.read_level(0, (0, 0), (512, 512))
    assert np.abs(got - RGB.astype(int)).mean() < 6


def test_no_mutant_of_the_headers_is_a_fault(tmp_path):
    write_level(tmp_path / "0.dcm", FRAMES[:3], (2048, 512), places=ALL[:3])
    file = tmp_path / "0.dcm"
    whole = file.read_bytes()
    start = whole.index(b"\xe0\x7f\x10\x00")
    rng = np.random.default_rng(4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pydicom
        for _ in range(150):
            mutant = bytearray(whole)
            for place in rng.integers(132, start, 4).tolist():
                mutant[place] = rng.integers(256)
            file.write_bytes(mutant)
            with suppress(SlideError):
                stored_frames(file)


@pytest.mark.parametrize(
    "syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"]
)
def test_a_header_says_its_frames_in_every_byte_order(syntax, tmp_path):
    write_level(tmp_path / "a.dcm", FRAMES, (512, 500))
    whole, made = pydicom.dcmread(tmp_path / "a.dcm"), pydicom.Dataset()
    made.file_meta = whole.file_meta
    made.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    for element in whole:
        if element.VR != "SQ" and element.keyword != "PixelData":
            made.add(element)
    made.save_as(
        tmp_path / "b.dcm", enforce_file_format=True,
        implicit_vr=syntax == pydicom.uid.ImplicitVRLittleEndian,
        little_endian=syntax != pydicom.uid.ExplicitVRBigEndian,
    )  # fmt: skip
    claim = read_header(tmp_path / "b.dcm").frames
    assert (claim.size, claim.frame_px, claim.count) == ((512, 500), (256, 256), "4")
    assert (claim.organization, claim.photometric, claim.bits) == ("TILED_FULL", "YBR_FULL_422", 24)


def test_the_real_dicom_slide_stores_all_its_frames(real_slides):
    found = stored_frames(real_slides / "CMU-1-Small-Region-dicom" / "level-0-frames-0-30.dcm")
    assert len(found) == 12
    assert not any(found.values())
