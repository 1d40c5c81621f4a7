"""Pen marks and black borders on drawn slides whose tissue is known."""

import cv2
import numpy as np
import pytest

from wsikd.slides.tissue.find import filter_areas
from wsikd.slides.tissue.otsu import ink_and_black, otsu
from wsikd.slides.tissue.stain_density import hsd
from wsikd.synthetic.tissue import plan_tissue, render_strips

MPP = 8.0
SIDE = 256
INKS = {
    "blue": (40, 60, 180),
    "navy": (20, 30, 120),
    "pale blue": (110, 140, 225),
    "green": (30, 120, 60),
    "bright green": (0, 150, 70),
    "teal": (0, 110, 110),
    "red": (200, 30, 40),
    "pure red": (255, 0, 0),
    "crimson": (220, 20, 60),
    "black": (20, 20, 25),
    "dark grey": (60, 56, 66),
}


@pytest.fixture(scope="module")
def drawn():
    """A slide at 8 um/px, and the share of each pixel that is tissue."""
    tissue = plan_tissue((3, 0), (SIDE * 8,) * 2, 1.0, ("NC", "G3", "G4", "G5"), [1.0] * 4)
    rgb = np.concatenate(list(render_strips(tissue)))
    truth = cv2.resize((tissue.label >= 0).astype(np.float32), (SIDE, SIDE), None, 0, 0, 3)
    return cv2.resize(rgb, (SIDE, SIDE), interpolation=cv2.INTER_AREA), truth


def strokes(*, width=10):
    """Lines and a ring, over tissue and glass: share of each pixel, float32."""
    fine = np.zeros((SIDE * 4, SIDE * 4), np.uint8)
    path = np.array([[10, 20], [130, 12], [236, 40], [226, 130], [248, 240]], np.int32) * 4
    cv2.polylines(fine, [path], False, 1, width * 4)
    cv2.circle(fine, (480, 520), 160, 1, width * 3)
    ink = cv2.resize(fine.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return cv2.GaussianBlur(ink, (0, 0), 0.5)


def painted(rgb, ink, colour):
    mixed = rgb * (1 - ink[..., None]) + np.float32(colour) * ink[..., None]
    return np.rint(mixed).astype(np.uint8)


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_without_ink_nothing_is_taken_for_it(drawn):
    rgb, truth = drawn
    assert not ink_and_black(rgb, MPP).any()
    assert dice(filter_areas(otsu(rgb, MPP), MPP), truth >= 0.5) >= 0.96


@pytest.mark.parametrize("width", [5, 10, 25])
@pytest.mark.parametrize("name", INKS)
def test_ink_stays_out_and_tissue_in(drawn, name, width):
    rgb, truth = drawn
    ink = strokes(width=width)
    mask = filter_areas(otsu(painted(rgb, ink, INKS[name]), MPP), MPP)
    assert (~mask[ink > 0.5]).mean() >= 0.95
    assert dice(mask, (truth >= 0.5) & (ink < 0.05)) >= 0.95


def test_a_ring_round_glass_is_no_tissue():
    rgb = np.full((200, 200, 3), 243, np.uint8)
    cv2.circle(rgb, (100, 100), 60, INKS["blue"], 6)
    assert not filter_areas(otsu(rgb, MPP), MPP).any()


@pytest.mark.parametrize("colour", [(0, 0, 0), (3, 2, 6), (25, 22, 30), (70, 66, 72)])
def test_black_borders(drawn, colour):
    rgb, truth = drawn
    rgb = rgb.copy()
    border = np.zeros((SIDE, SIDE), bool)
    border[:, :30] = border[-25:] = border[:20, 90:170] = True
    rgb[border] = colour
    noise = np.random.default_rng(1).integers(-2, 3, rgb.shape)
    rgb = np.clip(rgb + noise * border[..., None], 0, 255).astype(np.uint8)
    mask = filter_areas(otsu(rgb, MPP), MPP)
    assert (~mask[border]).mean() >= 0.99
    assert dice(mask, (truth >= 0.5) & ~border) >= 0.95


HAEMATOXYLIN, EOSIN = np.array([0.650, 0.704, 0.286]), np.array([0.072, 0.990, 0.105])


@pytest.mark.parametrize("violet", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("density", [0.15, 0.4, 0.7])
def test_stains_are_no_ink(violet, density):
    """Pure and mixed stains of Ruifrok and Johnston's vectors, from pale to dense."""
    mixed = violet * HAEMATOXYLIN + (1 - violet) * EOSIN
    colour = 255 * 10 ** -(mixed / mixed.mean() * density)
    rgb = np.full((60, 60, 3), 243, np.uint8)
    rgb[10:50, 10:50] = np.rint(colour)
    assert not ink_and_black(rgb, MPP).any()
    assert filter_areas(otsu(rgb, MPP), MPP)[12:48, 12:48].all()


@pytest.mark.parametrize("density", [0.2, 0.5, 0.9])
def test_brown_immunostain_is_no_ink(density):
    """DAB after Ruifrok and Johnston."""
    dab = np.array([0.268, 0.570, 0.776])
    rgb = np.full((60, 60, 3), 243, np.uint8)
    rgb[10:50, 10:50] = np.rint(255 * 10 ** -(dab / dab.mean() * density))
    assert filter_areas(otsu(rgb, MPP), MPP)[12:48, 12:48].all()


def test_small_red_spots_in_tissue_stay():
    rgb = np.full((100, 100, 3), (200, 120, 170), np.uint8)
    for x in range(10, 90, 12):
        rgb[40:44, x : x + 4] = (200, 40, 50)
    assert otsu(rgb, MPP).all()


def test_hue_and_saturation_do_not_follow_density():
    rng = np.random.default_rng(2)
    base = rng.uniform(0.1, 0.5, (50, 3))
    values = []
    for factor in (1.0, 1.6):
        transmitted = 256 * 10 ** -(base * factor) - 1
        density = -np.log10((np.rint(transmitted) + 1) / 256)
        mean, saturation, hue = hsd(np.rint(transmitted).astype(np.uint8)[None])
        np.testing.assert_allclose(mean[0], density.mean(1), atol=1e-5)
        values.append((saturation[0], np.exp(1j * np.radians(hue[0])) * saturation[0]))
    np.testing.assert_allclose(values[0][0], values[1][0], atol=0.05)
    np.testing.assert_allclose(values[0][1], values[1][1], atol=0.05)
    exact = (
        base[:, 0] / base.mean(1) - 1 + 1j * (base[:, 1] - base[:, 2]) / (np.sqrt(3) * base.mean(1))
    )
    np.testing.assert_allclose(values[1][1], exact, atol=0.05)


def test_real_fields_hold_no_ink(real_slides):
    folder = real_slides.parent / "patches" / "osteosarcoma_10x"
    for path in sorted(folder.glob("*/*.jpg"))[::5]:
        rgb = cv2.imread(str(path))[..., ::-1]
        seen = cv2.resize(rgb, (128, 128), interpolation=cv2.INTER_AREA)
        assert ink_and_black(seen, MPP).mean() < 0.001, path.name
