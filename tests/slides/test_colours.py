import cv2
import numpy as np
import pytest

from tests.slides.pixels import tissue_rgb
from wsikd.slides.base import open_slide
from wsikd.slides.colours import odd_white
from wsikd.slides.tissue import find_tissue


def test_stained_tissue_on_glass_is_well():
    assert odd_white(tissue_rgb(200, 150, (40, 30, 100, 80))) is None


def test_a_lumen_is_glass_enough():
    rgb = tissue_rgb(200, 150)
    assert odd_white(rgb) is not None
    rgb[60:75, 90:105] = 243
    assert odd_white(rgb) is None


def test_ycc_pixels_that_are_taken_for_rgb_are_odd():
    rgb = tissue_rgb(200, 150, (40, 30, 100, 80))
    rgb[:5, :20] = 255
    ycc = cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]]
    ycc[:, :2] = 255  # a rim that was never scanned
    assert odd_white(ycc) == (243, 128, 128)


def test_pure_white_glass_is_well_and_nothing_is_well():
    pink = np.full((20, 20, 3), (255, 128, 128), np.uint8)
    pink[:2] = 255
    assert odd_white(pink) is None
    assert odd_white(pink[:0]) is None


@pytest.mark.parametrize(
    ("slide", "odd"), [("CMU-1-Small-Region-dicom", True), ("CMU-1-Small-Region.svs", False)]
)
def test_a_dicom_slide_that_calls_its_ycbcr_rgb(real_slides, slide, odd):
    with open_slide(real_slides / slide) as opened:
        picture = find_tissue(opened, picture=True).thumbnail
    assert (odd_white(picture) is not None) is odd
