"""Networks of timm held against timm's own way of reading their maps."""

import pytest
import timm
import torch

from wsikd.core.errors import ConfigError
from wsikd.models.backbones.base import macs
from wsikd.models.backbones.open import build_backbone
from wsikd.models.backbones.pretrained import open_weights
from wsikd.models.files.bundle import InputSpec, load_bundle, save_bundle
from wsikd.models.graders.pooled import build_grader

CHAINS = ["test_convnext", "test_resnet", "test_efficientnet", "mobilenetv3_small_050"]
TRANSFORMERS = ["test_vit", "vit_tiny_patch16_224"]


def images(*size, seed=1):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", CHAINS)
def test_taps_are_timm_s_features(name):
    torch.manual_seed(0)
    theirs = timm.create_model(name, num_classes=7).eval()
    ours = build_backbone(f"timm:{name}", weights=theirs.state_dict()).eval()
    x = images(2, 3, 64, 96)
    with torch.no_grad():
        taps = ours.forward_taps(x, ours.taps)
        maps = theirs.forward_intermediates(x, intermediates_only=True)
    assert ours.deepest == "F4"
    assert len(taps) == len(maps)
    for (key, tap), other in zip(ours.taps.items(), maps, strict=True):
        assert taps[key].shape == (2, tap.channels, 64 // tap.stride, 96 // tap.stride)
        assert torch.allclose(taps[key], other, atol=1e-5)
        assert torch.equal(ours.forward_taps(x, [key])[key], taps[key])


@pytest.mark.parametrize("name", TRANSFORMERS)
@pytest.mark.parametrize("side", [32, 160])
def test_a_transformer_takes_patches_of_any_size(name, side):
    torch.manual_seed(0)
    theirs = timm.create_model(name, num_classes=7, dynamic_img_size=True).eval()
    ours = build_backbone(f"timm:{name}", weights=theirs.state_dict()).eval()
    x = images(2, 3, side, side)
    with torch.no_grad():
        taps = ours.forward_taps(x, ours.taps)
        tokens = theirs.forward_features(x)[:, theirs.num_prefix_tokens :]
    stride = ours.taps["F4"].stride
    cells = side // stride
    assert set(taps) == {"F1", "F2", "F3", "F4"}
    assert all(t.shape == (2, tokens.shape[2], cells, cells) for t in taps.values())
    assert torch.allclose(taps["F4"].flatten(2).transpose(1, 2), tokens, atol=1e-4)
    with torch.no_grad():
        padded = ours(images(1, 3, side + 1, side))
    assert padded.shape[-2:] == (cells + 1, cells)


@pytest.mark.parametrize("name", [*CHAINS, *TRANSFORMERS])
def test_every_weight_is_trained(name):
    """Parameters without a gradient would stop a training on several processes."""
    grader = build_grader(f"timm:{name}", 3).train()
    grader(images(2, 3, 64, 64)).sum().backward()
    assert [n for n, p in grader.named_parameters() if p.grad is None] == []
    assert macs(grader, 64) > 0


@pytest.mark.parametrize("name", ["test_vit", "regnety_002"])
def test_a_bundle_carries_one(name, tmp_path):
    torch.manual_seed(0)
    net = build_grader(f"timm:{name}", 3).eval()
    spec = InputSpec(4.0, 64, (0.0,) * 3, (1.0,) * 3, ("NC", "G3", "G4"))
    again = load_bundle(save_bundle(tmp_path, net, spec, arch=f"timm:{name}")).network()
    x = images(2, 3, 64, 64)
    assert torch.equal(again(x), net(x))


def test_weights_from_a_file(tmp_path):
    torch.manual_seed(0)
    state = timm.create_model("test_resnet").state_dict()
    torch.save(state, tmp_path / "w.pth")
    read = open_weights("timm:test_resnet", str(tmp_path / "w.pth")).state
    ours = build_backbone("timm:test_resnet", weights=read).state_dict()
    assert all(torch.equal(v, state[k.removeprefix("stages.net.")]) for k, v in ours.items())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build_backbone("timm:convnext_tinny"), "did you mean 'timm:convnext_tiny'"),
        (lambda: build_backbone("timm:test_vit", width=0.5), "one width"),
        (lambda: build_backbone("timm:vgg11"), "no intermediate maps"),
        (lambda: build_backbone("timm:test_vit", weights={}), "do not match"),
        (lambda: open_weights("timm:vit_base_patch32_plus_256", None), "no weights for it"),
    ],
)
def test_faults_are_one_line(call, message):
    with torch.device("meta"), pytest.raises(ConfigError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
