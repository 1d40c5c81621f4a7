import numpy as np
import pytest
import torch

from wsikd.learn.data import augment as augment_module
from wsikd.learn.data.augment import Chance, Part, augment
from wsikd.learn.losses.maps import downsample
from wsikd.learn.patch.settings import Augment

NONE = {"flips": False, "brightness": 0, "contrast": 0, "saturation": 0, "stain": 0}


def generator(seed=0):
    return Chance(torch.Generator().manual_seed(seed))


def patches(count=64, side=8):
    return torch.randint(
        0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator(9).generator
    )


def test_nothing_asked_nothing_changed():
    x = patches()
    assert torch.equal(augment(x, Augment(**NONE), generator()), x.float())


def test_flips_are_the_eight_symmetries_all_reached():
    x = patches(1).expand(200, -1, -1, -1)
    out = augment(x, Augment(**NONE | {"flips": True}), generator()).numpy()
    base = x[0].numpy()
    turned = [np.rot90(base, n, (1, 2)) for n in range(4)]
    symmetries = [*turned, *(t[:, ::-1] for t in turned)]
    found = {next(i for i, s in enumerate(symmetries) if np.array_equal(o, s)) for o in out}
    assert found == set(range(8))


def test_full_draw_is_reproducible_bounded_and_differs_between_patches():
    options = Augment(rotate_deg=45, scale=0.2)
    x = patches(4, 32)[:1].expand(6, -1, -1, -1)
    out = augment(x, options, generator(1))
    assert torch.equal(out, augment(x, options, generator(1)))
    assert not torch.equal(out, augment(x, options, generator(2)))
    assert out.min() >= 0
    assert out.max() <= 255
    assert len({o.numpy().tobytes() for o in out}) == 6


def test_rotation_turns_about_the_centre_and_keeps_scale():
    """A disc stays where it is; a bar keeps its length."""
    side = 65
    y, x = np.mgrid[:side, :side] - side // 2
    disc = torch.from_numpy(((x**2 + y**2) < 20**2) * 255.0).float().expand(8, 3, -1, -1)
    bar = torch.from_numpy(((abs(x) < 20) & (abs(y) < 4)) * 255.0).float().expand(8, 3, -1, -1)
    options = Augment(**NONE | {"rotate_deg": 90})
    assert (augment(disc, options, generator()) - disc).abs().mean() < 4
    turned = augment(bar, options, generator())
    assert turned.sum((1, 2, 3)).numpy() == pytest.approx(bar[0].sum().item(), rel=0.02)
    assert (turned - bar).abs().mean() > 4


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_colour_changes_follow_their_meaning(name):
    x = 60 + patches(32).float() / 255 * 100
    out = augment(x, Augment(**NONE | {name: 0.3}), generator())
    luma = torch.tensor([0.299, 0.587, 0.114])
    grey = (x * luma[:, None, None]).sum(1, keepdim=True)
    mean = grey.mean((1, 2, 3), keepdim=True)
    centre = {"brightness": torch.zeros(1), "contrast": mean, "saturation": grey}[name]
    factor = ((out - centre) * (x - centre)).sum((1, 2, 3)) / (x - centre).pow(2).sum((1, 2, 3))
    assert torch.allclose(out, centre + factor[:, None, None, None] * (x - centre), atol=1e-2)
    assert 0.7 <= factor.min() < 0.85
    assert 1.15 < factor.max() <= 1.3


def test_stain_scales_optical_density_per_channel():
    x = patches(32).float()
    out = augment(x, Augment(**NONE | {"stain": 0.2}), generator())
    density, before = (-torch.log((v + s) / 256) for v, s in ((out * 256 / 255, 0), (x, 1)))
    gain = (density / before.clamp(min=1e-6))[:, :, x[0, 0] >= 0].reshape(32, 3, 8, 8)
    dark = x < 250
    for b in range(4):
        for c in range(3):
            values = gain[b, c][dark[b, c]]
            assert values.std() < 1e-3
            assert 0.8 <= values.mean() <= 1.2


def test_both_views_come_from_one_draw():
    high = augment(patches(4, 16), Augment(), generator())
    low = downsample(high, 4)
    expected = high.numpy().reshape(4, 3, 4, 4, 4, 4).mean((3, 5))
    assert np.allclose(low, expected, atol=1e-3)


def test_crops_lie_anywhere_in_the_patch_with_equal_chance():
    place = torch.arange(64).float().reshape(1, 1, 8, 8).expand(4000, 3, 8, 8)
    out = augment(place, Augment(**NONE | {"crop_px": 6}), generator(3))
    assert out.shape == (4000, 3, 6, 6)
    corner = out[:, 0, 0, 0].long()
    assert torch.equal(out[:, 1], corner[:, None, None] + place[0, 0, :6, :6])
    counts = torch.bincount(corner, minlength=64).reshape(8, 8)
    assert counts[3:].sum() == counts[:, 3:].sum() == 0
    assert (counts[:3, :3] - 4000 / 9).abs().max() < 5 * (4000 / 9) ** 0.5


def test_part_of_a_batch_is_drawn_as_in_the_whole():
    """However a step is divided, each patch gets the draw that it gets in one piece."""
    x = patches(12, 16)
    options = Augment(rotate_deg=30, scale=0.1, shift=0.1, probability=0.5, crop_px=12)
    whole = augment(x, options, generator(5))
    for start, stop in ((0, 4), (4, 12), (7, 8)):
        share = Chance(torch.Generator().manual_seed(5), Part(start, 12))
        part = augment(x[start:stop], options, share)
        torch.testing.assert_close(part, whole[start:stop], rtol=1e-5, atol=1e-3)


def test_each_change_comes_with_its_own_coin():
    """A patch is left alone by a change with probability 1 - p, apart from the other changes."""
    x = patches(1, 16).expand(400, -1, -1, -1)
    for change in ({"rotate_deg": 45}, {"scale_range": (1.1, 1.2)}, {"shift": 0.2},
                   {"brightness": 0.3}, {"stain": 0.3}):  # fmt: skip
        options = Augment(**NONE | change | {"probability": 0.5})
        out = augment(x, options, generator())
        same = (out - x).abs().amax((1, 2, 3)) < 1e-2
        assert 0.4 < same.float().mean() < 0.6, change
        always = augment(x, Augment(**NONE | change), generator())
        assert ((always - x).abs().amax((1, 2, 3)) < 1e-2).float().mean() < 0.05, change


def test_horizontal_flips_shifts_and_black_corners():
    x = patches(1, 16).expand(300, -1, -1, -1).float()
    out = augment(x, Augment(**NONE | {"flips": "horizontal"}), generator())
    mirrored = torch.tensor([torch.equal(o, x[0].flip(-1)) for o in out])
    same = torch.tensor([torch.equal(o, x[0]) for o in out])
    assert (mirrored ^ same).all()
    assert 0.4 < mirrored.float().mean() < 0.6
    white = torch.full((300, 3, 20, 20), 255.0)
    moved = augment(white, Augment(**NONE | {"shift": 0.1, "padding": "zero"}), generator(1))
    dark = (moved < 254).float()
    assert dark[:, :, :, 2:-2].max() == 0  # by up to a tenth of the width: two columns
    assert dark[:, :, :, :2].amax((1, 2, 3)).mean() == pytest.approx(0.5, abs=0.1)
    assert dark[:, :, :, -2:].amax((1, 2, 3)).mean() == pytest.approx(0.5, abs=0.1)
    mirror = augment(white, Augment(**NONE | {"shift": 0.1}), generator(1))
    assert mirror.min() > 254


def test_a_range_of_scales_is_not_symmetric():
    side = 33
    y, x = np.mgrid[:side, :side] - side // 2
    disc = torch.from_numpy(((x**2 + y**2) < 8**2) * 255.0).float().expand(200, 3, -1, -1)
    options = Augment(**NONE | {"scale_range": (1.0, 1.5)})
    areas = augment(disc, options, generator()).sum((1, 2, 3)) / disc[0].sum()
    assert areas.min() > 0.97
    assert areas.max() < 2.3
    assert areas.mean().item() == pytest.approx(np.mean(np.linspace(1, 1.5, 100) ** 2), rel=0.05)


@pytest.mark.parametrize("size", [(6, 6), (6, 4)])
def test_turning_a_batch_at_once_is_turning_each(size):
    x = torch.randint(0, 256, (8, 3, *size), dtype=torch.uint8)
    turns = torch.tensor([[bool(n & bit) for n in range(8)] for bit in (1, 2, 4)])
    found = augment_module._turned_at_once(x, turns, square=size[0] == size[1])
    assert torch.equal(found, augment_module.turned(x, turns))
