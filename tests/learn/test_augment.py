import numpy as np
import pytest
import torch

from wsikd.learn.augment import augment
from wsikd.learn.losses import downsample
from wsikd.learn.settings import Augment

NONE = {"flips": False, "brightness": 0, "contrast": 0, "saturation": 0, "stain": 0}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def patches(count=64, side=8):
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator(9))


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
