"""Colour and texture of fields: invariance, size, what the numbers answer to."""

import numpy as np
import pytest

from tests.slides.pixels import tissue_rgb
from wsikd.slides.altered import blurred, compressed, from_coarser, stained
from wsikd.slides.texture import texture, tissue_share


def fields(count=4, side=64, seed=0):
    rgb = tissue_rgb(side, side * count, (0, 0, side, side * count), seed=seed)
    return np.stack(np.split(rgb, count))


@pytest.mark.parametrize("colour", [True, False])
def test_turning_and_mirroring_change_nothing(colour):
    one = fields()
    for other in (one[:, ::-1], one[:, :, ::-1], one.transpose(0, 2, 1, 3)):
        np.testing.assert_allclose(
            texture(one, colour=colour), texture(other, colour=colour), atol=1e-4
        )


@pytest.mark.parametrize("side", [4, 16, 31, 64])
def test_the_count_depends_on_the_size_alone_and_all_is_finite(side):
    white = np.full((2, side, side, 3), 255, np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (3, side, side, 3)).astype(np.uint8)
    assert texture(white).shape[1] == texture(noise).shape[1]
    assert np.isfinite(texture(white)).all()
    assert texture(noise, colour=False).shape[1] < texture(noise).shape[1]


def test_a_field_does_not_depend_on_the_others():
    one = fields(5)
    np.testing.assert_allclose(texture(one)[2], texture(one[2:3])[0], atol=1e-5)


def test_grey_numbers_ignore_the_stain():
    one = fields()
    red = np.ascontiguousarray(one[..., [2, 1, 0]])
    np.testing.assert_allclose(texture(one, colour=False), texture(red, colour=False), atol=1e-5)
    assert np.abs(texture(one) - texture(red)).max() > 0.01


def test_alterations_move_the_numbers():
    one = fields(1)
    for other in (
        blurred(one[0], 1.0), stained(one[0], (1.25, 1.0, 0.75)), compressed(one[0], 30),
        from_coarser(one[0], 80),
    ):  # fmt: skip
        assert other.shape == one[0].shape
        assert np.abs(texture(other[None]) - texture(one)).max() > 0.01
    np.testing.assert_array_equal(stained(one[0], (1.0, 1.0, 1.0)), one[0])


def test_glass_is_no_tissue():
    half = np.full((1, 8, 8, 3), 250, np.uint8)
    half[:, :4] = 150
    assert tissue_share(half).tolist() == [0.5]
