import pytest
import torch
from torch import nn

from wsikd.core.errors import ConfigError
from wsikd.models.backbones.base import macs
from wsikd.models.backbones.open import build_backbone
from wsikd.models.graders.pooled import Grader, build_grader
from wsikd.models.tables import BACKBONES


@pytest.fixture(params=BACKBONES)
def backbone(request):
    torch.manual_seed(0)
    return build_backbone(request.param).eval()


def test_taps_are_as_declared_and_never_overwritten(backbone):
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        together = backbone.forward_taps(x, backbone.taps)
        for name, tap in backbone.taps.items():
            assert together[name].shape == (2, tap.channels, 64 // tap.stride, 64 // tap.stride)
            assert torch.equal(together[name], backbone.forward_taps(x, [name])[name])
    assert backbone.deepest == "F4"
    assert not any(getattr(m, "inplace", False) for m in backbone.modules())


def test_unknown_tap_lists_the_known(backbone):
    with pytest.raises(ConfigError, match=r"F9: no tap of this network.*F4"):
        backbone.forward_taps(torch.zeros(1, 3, 64, 64), ["F9"])


def test_vgg16_is_the_paper_s():
    net = build_backbone("vgg16")
    assert sum(p.numel() for p in net.parameters()) == 14_714_688
    with torch.device("meta"):
        shape = build_backbone("vgg16").forward(torch.zeros(1, 3, 512, 512)).shape
    assert shape == (1, 512, 32, 32)
    assert macs(net, 64) / 1e9 == pytest.approx(1.25, abs=0.005)
    assert macs(net, 512) / 1e9 == pytest.approx(80.18, abs=0.005)
    assert isinstance(list(net.stages["F4"])[-1], nn.Conv2d)


def test_vgg16_taps_equal_torchvision_s_own_chain():
    from torchvision.models import vgg16

    torch.manual_seed(3)
    theirs = vgg16(weights=None).eval()
    ours = build_backbone("vgg16", weights=theirs.state_dict()).eval()
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        taps = ours.forward_taps(x, ["F0", "F3", "F4"])
        assert torch.allclose(taps["F0"], theirs.features[:5](x))
        assert torch.allclose(taps["F3"], theirs.features[:24](x))
        assert torch.allclose(taps["F4"], theirs.features[:29](x))
        assert (taps["F4"] < 0).any()


def test_resnet_equals_torchvision_s():
    from torchvision.models import resnet18

    torch.manual_seed(3)
    theirs = resnet18(weights=None).eval()
    ours = Grader(build_backbone("resnet18", weights=theirs.state_dict()), 1000).eval()
    ours.head.load_state_dict(theirs.fc.state_dict())
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(ours(x * 255), theirs(x), atol=1e-4)


def test_small_one_is_cheap_and_scales():
    net = build_backbone("vgg_small")
    assert macs(net, 256) <= 0.25e9
    assert net(torch.zeros(1, 3, 256, 256)).shape == (1, 128, 16, 16)
    assert net(torch.zeros(1, 3, 64, 64)).shape == (1, 128, 4, 4)
    assert build_backbone("vgg_small", width=0.5).taps["F4"].channels == 64


def test_macs_equal_a_count_by_hand():
    conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
    assert macs(conv, 16) == 3 * 8 * 9 * 16 * 16


def test_student_input_costs_what_it_says():
    native, half, full = (
        macs(build_grader("vgg_small", 4, upsample=u).backbone, 64 * u) for u in (1, 2, 4)
    )
    assert half / native == pytest.approx(4)
    assert full / native == pytest.approx(16)
    assert macs(build_grader("vgg_small", 4, upsample=4), 64) == pytest.approx(full, rel=1e-4)


def test_bytes_and_floats_are_read_alike_and_normalised():
    torch.manual_seed(0)
    grader = build_grader("vgg_small", 4, width=0.25, input_norm="imagenet").eval()
    generator = torch.Generator().manual_seed(0)
    patches = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=generator)
    assert torch.equal(grader(patches), grader(patches.float()))
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    expected = (patches.float() / 255 - mean) / std
    assert torch.allclose(grader.normalise(patches), expected, atol=1e-5)


def test_enlarging_is_half_pixel_centred():
    grader = build_grader("vgg_small", 2, width=0.25, upsample=4)
    ramp = torch.arange(8.0).expand(1, 3, 8, 8) * 8
    out = grader.normalise(ramp)[0, 0, 0] * 255
    centres = ((torch.arange(32) + 0.5) / 4 - 0.5) * 8
    assert torch.allclose(out[2:-2], centres[2:-2], atol=1e-4)


def test_logits_and_taps_come_from_one_pass():
    torch.manual_seed(0)
    grader = build_grader("vgg_small", 4, width=0.25).eval()
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 255
    logits, taps = grader.with_taps(x, ["F2"])
    assert torch.equal(logits, grader(x))
    pooled = taps["F4"].mean((2, 3))
    assert torch.allclose(logits, pooled @ grader.head.weight.T + grader.head.bias)
    assert set(taps) == {"F2", "F4"}
