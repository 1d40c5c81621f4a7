"""The networks of ``BACKBONES``: torchvision's, cut into stages, and a small one of our own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from torch import Tensor, nn

from wsikd.core.errors import ConfigError
from wsikd.models.backbones.base import Backbone, Tap

if TYPE_CHECKING:
    from collections.abc import Mapping

    State = Mapping[str, Tensor] | None

SMALL_WIDTHS = (16, 32, 64, 128)
STRIDED_WIDTHS = (16, 32, 64)


def vgg_small(width: float = 1.0, weights: State = None) -> Backbone:
    """A VGG of eight convolutions with batch norm, 0.23 G multiply-accumulates at 256 px.

    Four stages F1 to F4 at strides 2, 4, 8, 16. Small enough to train on two CPU cores.
    """
    if weights is not None:
        raise ConfigError("vgg_small", "has no ImageNet weights", "use network.init: random")
    widths = [max(4, round(w * width)) for w in SMALL_WIDTHS]
    stem = nn.Sequential(*_conv(3, widths[0], 5, stride=2), *_conv(widths[0], widths[0], 3))
    stages = [("F1", stem, Tap(widths[0], 2))]
    for i in range(1, 4):
        block = nn.Sequential(
            nn.MaxPool2d(2),
            *_conv(widths[i - 1], widths[i], 3),
            *_conv(widths[i], widths[i], 3),
        )
        stages.append((f"F{i + 1}", block, Tap(widths[i], 2 ** (i + 1))))
    return Backbone(stages)


def strided_small(width: float = 1.0, weights: State = None) -> Backbone:
    """Five convolutions with batch norm behind a stem of stride 4: 0.038 G at 256 px.

    Three stages F2 to F4 at strides 4, 8, 16, for studies of many trainings on a CPU.
    """
    if weights is not None:
        raise ConfigError("strided_small", "has no ImageNet weights", "use network.init: random")
    widths = [max(4, round(w * width)) for w in STRIDED_WIDTHS]
    stages = [("F2", nn.Sequential(*_conv(3, widths[0], 7, stride=4)), Tap(widths[0], 4))]
    for i in (1, 2):
        block = nn.Sequential(
            *_conv(widths[i - 1], widths[i], 3, stride=2), *_conv(widths[i], widths[i], 3)
        )
        stages.append((f"F{i + 2}", block, Tap(widths[i], 4 * 2**i)))
    return Backbone(stages)


def _conv(inside: int, outside: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inside, outside, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return [conv, nn.BatchNorm2d(outside), nn.ReLU()]


def vgg16(width: float = 1.0, weights: State = None) -> Backbone:
    """VGG-16 without batch norm (Simonyan and Zisserman 2015), cut as in the released AT+ code.

    F4 ends with the last convolution, before its ReLU and pooling, so it is signed.
    """
    from torchvision.models.vgg import cfgs, make_layers

    _refuse_width("vgg16", width)
    features = make_layers(cfgs["D"])  # without the classifier's 124 million weights
    for module in features:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(cast("Tensor", module.bias))
    if weights is not None:
        prefix = "features."
        own = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
        features.load_state_dict(own)
    cuts = [(0, 5, 64, 2), (5, 10, 128, 4), (10, 17, 256, 8), (17, 24, 512, 16), (24, 29, 512, 16)]
    return Backbone([(f"F{i}", features[a:b], Tap(c, s)) for i, (a, b, c, s) in enumerate(cuts)])


def resnet18(width: float = 1.0, weights: State = None) -> Backbone:
    """ResNet-18 (He et al. 2016): F0 the stem, F1 to F4 the four groups of blocks."""
    return _resnet(_torchvision("resnet18", width, weights), 64)


def resnet50(width: float = 1.0, weights: State = None) -> Backbone:
    """ResNet-50 (He et al. 2016), cut as ResNet-18: F2, F3, F4 are its layer2, layer3, layer4."""
    return _resnet(_torchvision("resnet50", width, weights), 256)


def _resnet(net: Any, channels: int) -> Backbone:
    stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
    stages = [("F0", stem, Tap(64, 4))]
    groups = (net.layer1, net.layer2, net.layer3, net.layer4)
    stages += [
        (f"F{i}", group, Tap(channels << (i - 1), 2 ** (i + 1)))
        for i, group in enumerate(groups, start=1)
    ]
    return Backbone(stages)


def mobilenet_v3_large(width: float = 1.0, weights: State = None) -> Backbone:
    """MobileNetV3-Large (Howard et al. 2019), cut where the resolution halves."""
    features = _torchvision("mobilenet_v3_large", 1.0, weights, width_mult=width).features
    return _cut(features, [(0, 2), (2, 4), (4, 7), (7, 13), (13, 17)])


def efficientnet_b0(width: float = 1.0, weights: State = None) -> Backbone:
    """EfficientNet-B0 (Tan and Le 2019), cut where the resolution halves."""
    features = _torchvision("efficientnet_b0", width, weights).features
    return _cut(features, [(0, 2), (2, 3), (3, 4), (4, 6), (6, 9)])


def _cut(features: nn.Sequential, cuts: list[tuple[int, int]]) -> Backbone:
    """Stages at strides 2, 4, 8, 16, 32; the channels are those of the last convolution."""
    stages = []
    for i, (a, b) in enumerate(cuts):
        stage = features[a:b]
        convs = [m for m in stage.modules() if isinstance(m, nn.Conv2d)]
        stages.append((f"F{i}", stage, Tap(convs[-1].out_channels, 2 ** (i + 1))))
    return Backbone(stages)


def _refuse_width(name: str, width: float) -> None:
    if width != 1:
        raise ConfigError(f"network.width {width:g}", f"{name} has one width", "leave it at 1")


def _torchvision(name: str, width: float, weights: State, **options: Any) -> Any:
    from torchvision import models

    _refuse_width(name, width)
    net = models.get_model(name, weights=None, **options)
    if weights is not None:
        net.load_state_dict(dict(weights))
    return net


def torchvision_weights(arch: str) -> Mapping[str, Tensor]:
    """Weights trained on ImageNet, from torchvision's hub.

    Raises:
        ConfigError: there are none, or they cannot be downloaded.
    """
    from torchvision import models

    try:
        choice = models.get_model_weights(arch).DEFAULT
        if arch == "vgg16":
            choice = models.VGG16_Weights.IMAGENET1K_V1
        return choice.get_state_dict(progress=False, check_hash=True)  # type: ignore[no-any-return]
    except ValueError as error:
        raise ConfigError(
            arch, "torchvision has no ImageNet weights for it", "use network.init: random"
        ) from error
    except OSError as error:
        raise ConfigError(
            "network.init: imagenet",
            f"the weights of {arch} cannot be downloaded",
            "set network.weights to a local copy, or network.init: random",
        ) from error
