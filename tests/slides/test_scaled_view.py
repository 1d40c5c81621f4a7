import numpy as np
import openslide
import pytest

from tests.slides.pixels import MemorySlide, area_average, level0, tissue_rgb
from wsikd.core.errors import MissingMppError, SlideError
from wsikd.core.timing import StageClock
from wsikd.slides.base import open_slide
from wsikd.slides.scaled_view import Canvas, source_level
from wsikd.synthetic.cohort import write_pyramid


@pytest.mark.parametrize("mpp", [0.499, 0.7123, 1.0, 1.9])
def test_whole_slide_is_the_average_of_openslides_pixels(slide_file, mpp):
    with open_slide(slide_file) as slide:
        canvas = Canvas.plan(slide, mpp)
        assert canvas.level == 0
        got = canvas.read(0, 0, *canvas.size)
    scale = mpp / 0.499
    exact = area_average(level0(slide_file), (0, 0), (scale, scale), canvas.size, beyond=255)
    assert canvas.size == tuple(int(np.ceil(n / scale - 1e-6)) for n in (1301, 907))
    assert np.abs(got - exact).max() <= 0.51


def test_a_coarse_canvas_averages_the_level_it_names(slide_file):
    with open_slide(slide_file) as slide:
        canvas = Canvas.plan(slide, 4.0)
        assert canvas.level == 1
        got = canvas.read(0, 0, *canvas.size)
    with openslide.OpenSlide(slide_file) as handle:
        size = handle.level_dimensions[1]
        own = np.asarray(handle.read_region((0, 0), 1, size))[..., :3]
    factor = 4.0 / 0.499 / 4
    exact = area_average(own, (0, 0), (factor, factor), canvas.size, beyond=255)
    assert np.abs(got - exact).max() <= 0.51


@pytest.mark.parametrize("mpp", [1.0, 1.7, 4.0, 5.3])
def test_blocks_join_without_a_seam(tmp_path, mpp):
    # Sizes that 16 divides: there OpenSlide's coarse levels lie on whole level-0 pixels.
    write_pyramid(tmp_path / "s.svs", tissue_rgb(1280, 896, seed=2), mpp=0.499, power=20)
    with open_slide(tmp_path / "s.svs") as slide:
        canvas = Canvas.plan(slide, mpp)
        width, height = canvas.size
        whole = canvas.read(0, 0, width, height)
        joined = np.zeros_like(whole)
        for top in range(0, height, 151):
            for left in range(0, width, 97):
                w, h = min(97, width - left), min(151, height - top)
                joined[top : top + h, left : left + w] = canvas.read(left, top, w, h)
    difference = np.abs(whole.astype(int) - joined)
    assert difference.max() <= 1  # a mean within float32 of n + 0.5 may round either way
    assert difference.mean() < 1e-3


def test_beyond_the_slide_is_background():
    slide = MemorySlide(np.zeros((40, 40, 3), np.uint8), background=(10, 200, 30))
    canvas = Canvas.plan(slide, 1.5)
    assert canvas.size == (14, 14)
    got = canvas.read(-2, -2, 18, 18)
    assert (got[:2] == (10, 200, 30)).all()
    assert (got[:, 16:] == (10, 200, 30)).all()
    assert (got[2:15, 2:15] == 0).all()
    # 13 * 3 = 39: one of three columns of the last pixel is slide.
    np.testing.assert_allclose(got[5, 15], np.array([10, 200, 30]) * 2 / 3, atol=0.51)


def test_a_canvas_begins_at_the_bounds():
    rgb = tissue_rgb(200, 160, seed=3)
    slide = MemorySlide(rgb, bounds=(31, 17, 100, 90))
    canvas = Canvas.plan(slide, 0.65)
    assert canvas.origin_xy == (31.0, 17.0)
    got = canvas.read(0, 0, *canvas.size)
    exact = area_average(rgb, (31, 17), (1.3, 1.3), canvas.size)
    assert np.abs(got - exact).max() <= 0.51


def test_pixels_that_are_not_square_are_made_so():
    rgb = tissue_rgb(240, 120, seed=4)
    canvas = Canvas.plan(MemorySlide(rgb, mpp=(0.25, 0.5)), 1.0)
    assert canvas.size == (60, 60)
    assert canvas.scale_xy == (4.0, 2.0)
    exact = rgb.reshape(60, 2, 60, 4, 3).mean((1, 3))
    assert np.abs(canvas.read(0, 0, 60, 60) - exact).max() <= 0.51


@pytest.mark.parametrize(
    ("scale", "level"),
    [(1.0, 0), (1.99, 0), (3.999, 0), (4.0, 1), (3.9999999, 1), (15.9, 1), (16.0, 2), (99.0, 2)],
)
def test_source_is_the_coarsest_level_that_is_fine_enough(scale, level):
    assert source_level(((1.0, 1.0), (4.0, 4.0), (16.0, 16.0)), (scale, scale)) == level


def test_source_is_fine_enough_on_both_axes():
    assert source_level(((1.0, 1.0), (4.0, 4.1)), (4.0, 4.0)) == 0


def test_finer_than_the_slide_is_refused(slide_file):
    with open_slide(slide_file) as slide, pytest.raises(SlideError) as caught:
        Canvas.plan(slide, 0.25)
    assert str(caught.value) == (
        "odd.svs: 0.25 um/px is finer than its own 0.499 um/px; "
        "ask for a lower magnification (--mag) or a larger --mpp"
    )


def test_no_resolution_no_canvas():
    with pytest.raises(MissingMppError):
        Canvas.plan(MemorySlide(np.zeros((8, 8, 3), np.uint8), mpp=None), 1.0)


def test_the_clock_is_told(slide_file):
    clock = StageClock()
    with open_slide(slide_file) as slide:
        Canvas.plan(slide, 1.0).read(0, 0, 64, 64, clock)
    assert set(clock.seconds) == {"read", "resize"}
    assert min(clock.seconds.values()) > 0


def test_real_slide_is_the_average_of_openslides_pixels(real_slides):
    path = real_slides / "CMU-1-Small-Region.svs"
    with open_slide(path) as slide:
        canvas = Canvas.plan(slide, 1.0)
        got = canvas.read(311, 702, 600, 400)
    with openslide.OpenSlide(path) as handle:
        own = np.asarray(handle.read_region((600, 1300), 0, (1250, 1000)))[..., :3]
    scale = 1 / slide.mpp.x
    start = (311 * scale - 600, 702 * scale - 1300)
    assert np.abs(got - area_average(own, start, (scale, scale), (600, 400))).max() <= 0.51


def reduced_pair(slide, mpp):
    """(canvas that the decoder may reduce for inference, reference as slow averages)."""
    canvas = Canvas.plan(slide, mpp, close=True)
    scale = (mpp / slide.mpp.x, mpp / slide.mpp.y)
    size = tuple(int(v / s) for v, s in zip(slide.info.dimensions, scale, strict=True))
    averages = area_average(level0(slide.path), (0.0, 0.0), scale, size)
    return canvas, canvas.read(0, 0, *size).astype(np.float64), averages


@pytest.mark.parametrize(
    ("mpp", "wanted", "reduction"),
    [(0.5, 4.0, 8), (0.499, 4.0, 2), (0.2527, 4.0, 4), (0.25, 4.0, 8), (0.25, 1.0, 1),
     (0.2527, 1.0, 1), (0.5, 1.0, 1), (1.0, 4.0, 1), (0.2527, 2.0, 2), (0.5, 8.0, 8)],
)  # fmt: skip
def test_what_the_decoder_reduces_for_inference_is_near_the_average(
    tmp_path, mpp, wanted, reduction
):
    rng = np.random.default_rng(2)
    rgb = tissue_rgb(1100, 900, seed=6, coarse=3)
    rgb = np.clip(rgb + rng.normal(0, 12, rgb.shape), 0, 255).astype(np.uint8)
    path = tmp_path / "s.svs"
    write_pyramid(path, rgb, mpp=mpp, power=20, downsamples=(1,), quality=80)
    with open_slide(path) as slide:
        canvas, found, averages = reduced_pair(slide, wanted)
        assert canvas.reduction == reduction
        assert np.sqrt(np.mean((found - averages) ** 2)) <= 1.5


def test_a_level_that_is_near_is_read_in_full(slide_file):
    with open_slide(slide_file) as slide:
        assert Canvas.plan(slide, 4.0, close=True).reduction == 1


@pytest.mark.slides
@pytest.mark.parametrize("wanted", [2.0, 4.0, 8.0])
def test_a_real_slide_reduced_by_the_decoder_is_near_its_average(real_slides, wanted):
    with open_slide(real_slides / "CMU-1-Small-Region.svs") as slide:
        canvas, found, averages = reduced_pair(slide, wanted)
        assert canvas.reduction > 1 or wanted == 2.0
        assert np.sqrt(np.mean((found - averages) ** 2)) <= 1.5
