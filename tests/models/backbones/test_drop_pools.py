"""Networks without their last halvings, held against the same weights with them."""

import pytest
import torch

from wsikd.core.errors import ConfigError
from wsikd.models.backbones.base import macs
from wsikd.models.backbones.open import build_backbone
from wsikd.models.files.bundle import InputSpec, load_bundle, save_bundle
from wsikd.models.graders.pooled import build_grader
from wsikd.models.tables import BACKBONES

EXACT = ("vgg_small", "vgg16", "resnet18")  # the others squeeze whole maps


def pair(arch, count, **options):
    torch.manual_seed(0)
    whole = build_backbone(arch, **options).eval()
    dropped = build_backbone(arch, drop_pools=count, weights=None, **options).eval()
    dropped.load_state_dict(whole.state_dict())
    return whole, dropped


@pytest.mark.parametrize("arch", BACKBONES)
@pytest.mark.parametrize("count", [1, 3])
def test_every_second_cell_is_a_cell_of_the_whole_network(arch, count):
    if arch == "strided_small":
        count = min(count, 2)  # it has no more
    whole, dropped = pair(arch, count)
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        coarse, fine = whole.forward_taps(x, whole.taps), dropped.forward_taps(x, dropped.taps)
    for name, tap in dropped.taps.items():
        assert fine[name].shape == (1, tap.channels, 64 // tap.stride, 64 // tap.stride)
        step = whole.taps[name].stride // tap.stride
        error = (fine[name][:, :, ::step, ::step] - coarse[name]).abs().max()
        assert error <= (1e-5 if arch in EXACT else 1e-2) * coarse[name].abs().max(), name
    assert dropped.taps[dropped.deepest].stride == whole.taps[whole.deepest].stride // 2**count


def test_small_patches_keep_a_grid_of_eight():
    for arch, count in (("vgg_small", 1), ("vgg16", 1), ("resnet18", 2)):
        with torch.device("meta"):
            net = build_backbone(arch, drop_pools=count)
            assert net(torch.zeros(1, 3, 64, 64)).shape[-2:] == (8, 8), arch


def test_cost_is_counted_on_the_finer_grid():
    whole, dropped = pair("vgg16", 1)
    convolution = 512 * 512 * 9  # F4 has three, on 4 x 4 cells at 64 px, now on 8 x 8
    assert macs(dropped, 64) - macs(whole, 64) == 3 * convolution * (64 - 16)


def test_a_bundle_remembers(tmp_path):
    torch.manual_seed(0)
    net = build_grader("vgg_small", 3, width=0.25, drop_pools=2).eval()
    spec = InputSpec(4.0, 32, (0.0,) * 3, (1.0,) * 3, ("NC", "G3", "G4"))
    save_bundle(tmp_path, net, spec, arch="vgg_small", width=0.25)
    again = load_bundle(tmp_path).network()
    assert load_bundle(tmp_path).drop_pools == again.backbone.drop_pools == 2
    x = torch.rand(2, 3, 32, 32) * 255
    assert again.with_taps(x, ["F4"])[1]["F4"].shape[-2:] == (8, 8)
    assert torch.equal(again(x), net(x))


@pytest.mark.parametrize(
    ("arch", "count", "known"), [("vgg_small", 4, 3), ("timm:test_vit", 1, 0), ("vgg16", 4, 3)]
)
def test_more_than_there_are_is_refused(arch, count, known):
    with pytest.raises(ConfigError, match=f"has {known} halvings that can be left out"):
        build_backbone(arch, drop_pools=count)
