"""Mixup and CutMix against slow loops over pixels."""

import numpy as np
import pytest
import torch

from wsikd.learn.data.augment import Chance, Part
from wsikd.learn.data.augment_settings import Mix
from wsikd.learn.data.mixing import BLOCK, draw_mix, draw_partners, mix
from wsikd.learn.losses.maps import cross_entropy, downsample
from wsikd.learn.methods.base import Batch


def chance(seed=0, part=None):
    return Chance(torch.Generator().manual_seed(seed), part)


def views(count=8, side=16, factor=4):
    high = torch.rand((count, 3, side, side), generator=torch.Generator().manual_seed(1)) * 255
    return {"high": high, "low": downsample(high, factor)}


def slow(view, draw, partners, scale):
    """Pixel by pixel, in double precision."""
    x = view.double().numpy()
    made = np.empty_like(x)
    for i, j in enumerate(partners.tolist()):
        for row in range(x.shape[2]):
            for column in range(x.shape[3]):
                if draw.box is None:
                    pair = (
                        draw.share * x[i, :, row, column],
                        (1 - draw.share) * x[j, :, row, column],
                    )
                    made[i, :, row, column] = sum(pair)
                    continue
                top, bottom, left, right = (scale * e for e in draw.box)
                inside = top <= row < bottom and left <= column < right
                made[i, :, row, column] = x[j if inside else i, :, row, column]
    return made


@pytest.mark.parametrize("options", [Mix(mixup=0.5), Mix(cutmix=1.0)], ids=["mixup", "cutmix"])
def test_both_views_are_mixed_alike(options):
    given, partners = views(), draw_partners(8, chance())
    boxes = set()
    for step in range(3):
        draw = draw_mix(options, (3, 0, step), (4, 4))
        made, mixed = mix(given, draw, partners)
        for name, scale in (("high", 4), ("low", 1)):
            expected = slow(given[name], draw, partners, scale)
            assert made[name].numpy() == pytest.approx(expected, abs=1e-3)
        torch.testing.assert_close(downsample(made["high"], 4), made["low"], rtol=1e-5, atol=1e-3)
        assert torch.equal(mixed.partner, partners)
        assert mixed.share == draw.share
        boxes.add(draw.box)
    assert len(boxes) > 1 or options.mixup


def test_the_share_of_cutmix_is_the_area_that_is_left():
    shares = []
    for step in range(300):
        draw = draw_mix(Mix(cutmix=1.0), (0, 0, step), (64, 32))
        top, bottom, left, right = draw.box
        assert 0 <= top <= bottom <= 64
        assert 0 <= left <= right <= 32
        area = (bottom - top) * (right - left)
        assert draw.share == pytest.approx(1 - area / (64 * 32))
        shares.append(draw.share)
    assert 0.5 < np.mean(shares) < 0.75  # boxes are clipped at the border, so above a half


def test_the_weight_of_mixup_is_of_its_beta():
    drawn = [draw_mix(Mix(mixup=0.2), (0, 0, step), (8, 8)).share for step in range(2000)]
    assert np.mean(drawn) == pytest.approx(0.5, abs=0.03)
    assert np.var(drawn) == pytest.approx(0.2**2 / ((0.4**2) * 1.4), abs=0.01)


def test_either_kind_or_none():
    options = Mix(mixup=0.2, cutmix=1.0, probability=0.5)
    drawn = [draw_mix(options, (0, 1, step), (8, 8)) for step in range(600)]
    kinds = [None if d is None else d.box is None for d in drawn]
    assert kinds.count(None) == pytest.approx(300, abs=50)
    assert kinds.count(True) == pytest.approx(kinds.count(False), abs=60)
    assert draw_mix(options, (0, 1, 7), (8, 8)) == drawn[7]


def test_partners_are_permutations_of_blocks_whoever_holds_them():
    whole = draw_partners(4 * BLOCK, chance())
    assert sorted(whole.tolist()) == list(range(4 * BLOCK))
    assert (whole // BLOCK == torch.arange(4 * BLOCK) // BLOCK).all()
    for start in (0, 2 * BLOCK):
        part = draw_partners(2 * BLOCK, chance(part=Part(start, 4 * BLOCK)))
        assert torch.equal(part + start, whole[start : start + 2 * BLOCK])
    odd = draw_partners(5, chance(part=Part(3, 20)))
    assert sorted(odd.tolist()) == list(range(5))
    firsts = {int(draw_partners(BLOCK, chance(seed))[0]) for seed in range(60)}
    assert firsts == set(range(BLOCK))


def test_labels_are_mixed_for_terms_of_labels():
    draw, partners = draw_mix(Mix(mixup=1.0), (0, 0, 0), (8, 8)), draw_partners(6, chance())
    made, mixed = mix(views(6), draw, partners)
    label = torch.tensor([0, 1, 2, 0, 1, 2])
    batch = Batch(made, label, ("s",) * 6, torch.arange(6), mixed=mixed)
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    found = batch.on_labels(lambda given: cross_entropy(logits, given))
    soft = draw.share * torch.eye(3)[label] + (1 - draw.share) * torch.eye(3)[label[partners]]
    expected = -(soft * torch.log_softmax(logits, 1)).sum(1).mean()
    torch.testing.assert_close(found, expected)
