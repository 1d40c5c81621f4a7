"""The predictor against a slow one, and against tiles read one by one."""

import numpy as np
import pytest
import torch

from tests.grade.maps import FakeSlide
from wsikd.core.errors import ConfigError, RegionReadError, SlideError
from wsikd.core.timing import StageClock
from wsikd.grade.predict import PredictSettings, SlidePredictor
from wsikd.models.files.bundle import InputSpec
from wsikd.slides.scaled_view import Canvas

CLASSES = ("NC", "G3", "G4")


class Means(torch.nn.Module):
    """Logits are a patch's mean red, green and blue."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def forward(self, x):
        assert x.dtype == torch.uint8
        self.batches.append(len(x))
        return x.float().mean((2, 3)) / 10


def picture(seed, width=1501, height=1203):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (height // 50 + 1, width // 50 + 1, 3), dtype=np.uint8)
    return np.repeat(np.repeat(coarse, 50, 0), 50, 1)[:height, :width]


def spec(patch_px=32, mpp=2.0):
    return InputSpec(mpp, patch_px, (0.0,) * 3, (1.0,) * 3, CLASSES)


def predictor(settings=None, **kwargs):
    settings = settings or PredictSettings(tissue="all", batch_size=7)
    return SlidePredictor(Means(), spec(**kwargs), device="cpu", settings=settings)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_each_field_is_the_area_average_of_its_own_box():
    slide = FakeSlide(picture(0))
    found = predictor().predict(slide)
    canvas = Canvas.plan(slide, 2.0)
    assert found.valid_hw.all()
    for row, column in [(0, 0), (3, 5), (found.valid_hw.shape[0] - 1, found.valid_hw.shape[1] - 1)]:
        pixels = canvas.read(column * 32, row * 32, 32, 32)
        expected = softmax(pixels.astype(float).mean((0, 1)) / 10)
        np.testing.assert_allclose(found.probability_khw[:, row, column], expected, atol=1e-5)
    scale = 2.0 / slide.mpp.x
    assert found.cell_px == pytest.approx((32 * scale, 32 * scale))
    assert found.mpp == 64.0


@pytest.mark.parametrize(("workers", "batch"), [(1, 1), (2, 7), (3, 1000)])
def test_threads_and_batches_change_nothing(workers, batch):
    slide = FakeSlide(picture(1))
    settings = PredictSettings(tissue="all", workers=workers, batch_size=batch)
    one = predictor(PredictSettings(tissue="all", workers=1, batch_size=3)).predict(slide)
    other = predictor(settings).predict(slide)
    np.testing.assert_allclose(one.probability_khw, other.probability_khw, atol=1e-6)


@pytest.mark.parametrize("most", [32 << 20, 1000], ids=["read", "too many"])
@pytest.mark.parametrize("overlap", [32, 16], ids=["apart", "overlapping"])
def test_a_slide_prepared_ahead_of_its_turn_gets_the_same_map(monkeypatch, most, overlap):
    monkeypatch.setattr("wsikd.grade.predict.MOST_BYTES", most)
    made, slide = predictor(PredictSettings(tissue="all", stride_px=overlap)), FakeSlide(picture(9))
    clock, shown = StageClock(), []
    ahead = made.prepare(slide, None, clock)
    assert (ahead.batches is None) == (most == 1000)
    assert ("read" in clock.seconds) == (most != 1000)
    found = made.predict(slide, prepared=ahead, watch=lambda *seen: shown.append(len(seen[0])))
    wanted = made.predict(slide)
    np.testing.assert_array_equal(found.probability_khw, wanted.probability_khw)
    assert sum(shown) == wanted.valid_hw.sum()


def test_batches_are_full_but_the_last():
    made = predictor()
    found = made.predict(FakeSlide(picture(2)))
    sizes = made.network.build().batches
    assert sum(sizes) == found.valid_hw.sum()
    assert set(sizes[:-1]) == {7}


def test_stride_places_a_cell_in_the_middle_of_its_field():
    slide = FakeSlide(picture(3))
    settings = PredictSettings(tissue="all", stride_px=8)
    found = predictor(settings).predict(slide)
    scale = 2.0 / slide.mpp.x
    assert found.cell_px == pytest.approx((8 * scale, 8 * scale))
    assert found.origin_xy == pytest.approx((12 * scale, 12 * scale))
    coarse = predictor().predict(slide)
    np.testing.assert_allclose(
        found.probability_khw[:, ::4, ::4][:, :5, :5], coarse.probability_khw[:, :5, :5], atol=1e-6
    )


def test_glass_is_not_read():
    rgb = np.full((1203, 1501, 3), 245, np.uint8)
    rgb[200:800, 300:900] = (190, 90, 150)
    slide = FakeSlide(rgb)
    found = predictor(PredictSettings(min_tissue=0.5)).predict(slide)
    scale = 32 * 2.0 / slide.mpp.x
    rows, columns = np.nonzero(found.valid_hw)
    assert 0 < len(rows) < found.valid_hw.size / 2
    inside = (columns + 0.5) * scale
    assert inside.min() > 300 - scale / 2
    assert inside.max() < 900 + scale / 2
    assert np.isnan(found.probability_khw[:, ~found.valid_hw]).all()


def test_no_tissue_is_a_map_without_fields():
    found = predictor(PredictSettings()).predict(FakeSlide(np.full((900, 900, 3), 245, np.uint8)))
    assert not found.valid_hw.any()
    assert (found.grade_hw == -1).all()


def test_max_fields_takes_an_even_sample():
    settings = PredictSettings(tissue="all", max_fields=10)
    found = predictor(settings).predict(FakeSlide(picture(4)))
    assert found.valid_hw.sum() == 10
    rows = np.nonzero(found.valid_hw)[0]
    assert rows.min() == 0
    assert rows.max() == found.valid_hw.shape[0] - 1


def test_a_read_error_rises_and_stops_the_threads():
    slide = FakeSlide(picture(5))
    read = slide.read_level

    def broken(level, location, size):
        if location[1] > 500:
            raise RegionReadError("s.svs", "cut", "copy it")
        return read(level, location, size)

    slide.read_level = broken
    settings = PredictSettings(tissue="all", workers=2)
    with pytest.raises(RegionReadError, match=r"s\.svs: cut; copy it"):
        predictor(settings).predict(slide)


def test_stride_beyond_the_patch_is_refused():
    with pytest.raises(ConfigError, match="--stride: 33 px is larger than the patch or below 1"):
        predictor(PredictSettings(stride_px=33))


def test_whoever_watches_sees_every_field_once():
    slide = FakeSlide(picture(3))
    seen = {}

    def watch(index, count, patches):
        assert patches.dtype == np.uint8
        for number, patch in zip(index.tolist(), patches, strict=True):
            assert number not in seen
            seen[number] = (count, patch.astype(float).mean((0, 1)) / 10)

    found = predictor().predict(slide, watch=watch)
    order = np.argwhere(found.valid_hw)
    assert sorted(seen) == list(range(len(order)))
    for number, (row, column) in enumerate(order):
        count, logits = seen[number]
        assert count == len(order)
        np.testing.assert_allclose(
            found.probability_khw[:, row, column], softmax(logits), atol=1e-5
        )


def test_calibrating_a_map_equals_dividing_its_logits():
    slide = FakeSlide(picture(4))
    plain = predictor().predict(slide)
    warm = plain.calibrated(1.7)
    logits = np.log(plain.probability_khw.astype(float))
    expected = softmax(np.moveaxis(logits, 0, -1) / 1.7)
    np.testing.assert_allclose(np.moveaxis(warm.probability_khw, 0, -1), expected, atol=1e-6)
    np.testing.assert_array_equal(warm.grade_hw, plain.grade_hw)
    assert (plain.temperature, warm.temperature) == (None, 1.7)
    assert plain.calibrated(None) is plain
    with pytest.raises(ValueError, match="calibrated already"):
        warm.calibrated(1.7)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_outputs_that_overflow_are_an_error_and_no_map(value):
    class Overflowing(torch.nn.Module):
        def forward(self, x):
            logits = x.float().mean((2, 3))
            logits[-1, 0] = value
            return logits

    slide = FakeSlide(picture(0))
    network = SlidePredictor(Overflowing(), spec(), settings=PredictSettings(tissue="all"))
    with pytest.raises(SlideError, match=r"outputs are NaN or infinite \(engine .*\); use"):
        network.predict(slide)
