"""What is seen of every pixel in one pass, against the equations pixel by pixel."""

import numpy as np
import pytest

from wsikd.slides.tissue import stain_density as optical
from wsikd.slides.tissue.otsu import _COLD, _RED, _within
from wsikd.slides.tissue.stain_density import BLACK, MAY_BE_INK, STAINED, hsd, look


@pytest.fixture(autouse=True)
def worth(monkeypatch):
    """The kernel is used from the first pixel on."""
    monkeypatch.setattr(optical._by_numpy, "most", 0)


def colours(height, width, seed=0):
    """Noise of all colours, and of some that differ little from white, grey and the stains."""
    rng = np.random.default_rng(seed)
    rgb = rng.integers(0, 256, (height, width, 3))
    kind = rng.integers(0, 5, (height, width, 1))
    for number, base in enumerate(
        [(243, 243, 243), (110, 108, 112), (200, 120, 170), (30, 25, 40)]
    ):
        rgb = np.where(kind == number, base + rng.integers(-9, 10, rgb.shape), rgb)
    return np.clip(rgb, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("shape", [(1, 1), (2, 7), (1, 16), (1, 17), (3, 33), (120, 131)])
@pytest.mark.parametrize("compiled", [True, False])
def test_it_is_what_the_equations_give(shape, compiled, monkeypatch):
    """float32 divides by the range's end, so a level may be one off that of float64."""
    if not compiled:
        monkeypatch.setattr(optical, "_kernel", lambda: None)
    rgb = colours(*shape)
    seen = look(rgb)
    values = rgb.astype(np.float64)
    density = -np.log10((values + 1) / 256).mean(2)
    top, low = values.max(2), values.min(2)
    for got, exact, bound in (
        (seen.density, density, 0.10),
        (seen.saturation, (top - low) / np.maximum(top, 1), 0.06),
    ):
        level = np.clip(exact / bound * 127.5, 0, 255)
        assert np.abs(got - level + 0.5).max() <= 0.51
    np.testing.assert_array_equal(seen.marks & STAINED > 0, top - low >= 8)
    np.testing.assert_array_equal(seen.marks & BLACK > 0, top < 50)


def test_the_compiled_pass_is_numpys_to_the_bit(monkeypatch):
    assert optical._kernel() is not None
    rgb = colours(300, 401, seed=3)
    fast = look(rgb)
    monkeypatch.setattr(optical, "_kernel", lambda: None)
    for one, other in zip(fast, look(rgb), strict=True):
        np.testing.assert_array_equal(one, other)


def test_all_inks_and_greys_are_marked_and_few_others():
    """Every colour in steps of five, so that every hue is there at many densities."""
    steps = np.arange(0, 256, 5, np.uint8)
    rgb = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(52, -1, 3)
    density, saturation, hue = hsd(rgb)
    ink = _within(_COLD, hue, saturation, density) | _within(_RED, hue, saturation, density)
    ink |= (density > optical.GREY_DENSITY) & (saturation < optical.GREY_SATURATION)
    marked = look(rgb).marks & MAY_BE_INK > 0
    assert ink.any()
    assert not (ink & ~marked).any()
    eosin_to_haematoxylin = (hue > 80) & (hue < 145) & (saturation > 0.2)
    assert eosin_to_haematoxylin.any()
    assert not marked[eosin_to_haematoxylin].any()
