"""State dicts of detectors: the ResNet-50 in them gives torchvision's features."""

import pytest
import torch
from torchvision import models
from torchvision.models import resnet50
from torchvision.models.detection import fasterrcnn_resnet50_fpn

from wsikd.core.errors import ConfigError
from wsikd.models.backbones.open import build_backbone
from wsikd.models.backbones.resnet_trunks import arch_of, resnet_weights


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    found = resnet50().eval()
    for module in found.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return found


def features(net, x):
    x = net.maxpool(net.relu(net.bn1(net.conv1(x))))
    return net.layer4(net.layer3(net.layer2(net.layer1(x))))


def check(state, net):
    weights = resnet_weights(state, "file")
    full = {**weights, "fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}
    backbone = build_backbone("resnet50", weights=full).eval()
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(backbone(x), features(net, x))


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "backbone.",
        "backbone.0.body.",
        "model.backbone.conv_encoder.model.",
        "detr.backbone.0.body.",
    ],
)
def test_prefixes(net, prefix):
    state = {prefix + k: v for k, v in net.state_dict().items()}
    frozen = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    check({**frozen, "class_embed.weight": torch.zeros(2)}, net)


def test_torchvisions_own_detector(net):
    detector = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    body = {k: v for k, v in net.state_dict().items() if not k.startswith("fc.")}
    detector.backbone.body.load_state_dict(body, strict=False)
    check(detector.state_dict(), net)


def test_detectron(net):
    state = {}
    for key, value in net.state_dict().items():
        parts = key.split(".")
        if parts[0] in ("conv1", "bn1"):
            name = ["stem", "conv1", *(["norm"] if parts[0] == "bn1" else []), parts[-1]]
        elif parts[0].startswith("layer"):
            block = [f"res{int(parts[0][5]) + 1}", parts[1]]
            if parts[2] == "downsample":
                name = [*block, "shortcut", *(["norm"] if parts[3] == "1" else []), parts[-1]]
            else:
                norm = ["norm"] if parts[2].startswith("bn") else []
                name = [*block, f"conv{parts[2][-1]}", *norm, parts[-1]]
        else:
            continue
        state["backbone.bottom_up." + ".".join(name)] = value
    check(state, net)


@pytest.mark.parametrize("arch", ["resnet18", "resnet34", "resnet50", "resnet101"])
def test_depths_are_told_apart(arch):
    with torch.device("meta"):
        state = getattr(models, arch)().state_dict()
    assert arch_of(resnet_weights(state, "file")) == arch


def test_what_holds_none():
    with pytest.raises(ConfigError, match="no ResNet that is recognised"):
        resnet_weights({"conv.weight": torch.zeros(1)}, "file")
    twice = {f"{p}layer1.0.conv1.weight": torch.zeros(1) for p in ("a.", "b.")}
    with pytest.raises(ConfigError, match=r"several ResNets \(a\., b\.\)"):
        resnet_weights(twice, "file")
