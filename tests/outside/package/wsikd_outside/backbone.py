"""A small chain of strided convolutions."""

from torch import nn

from wsikd.core.errors import ConfigError
from wsikd.models.backbones.base import Backbone, Tap


def plain(width=1.0, weights=None):
    """Make the network.

    Args:
        width: factor on the channels, ``network.width`` of the configuration.
        weights: a state dict for ``network.init: imagenet``; None starts from random weights.

    Returns:
        Its stages, input side first; the head pools the last one.
    """
    if weights is not None:
        raise ConfigError("network.init", "there are no weights of it", "use init: random")
    stages, before = [], 3
    for index, channels in enumerate((8, 16, 32)):
        channels = round(channels * width)
        stage = nn.Sequential(
            nn.Conv2d(before, channels, 3, stride=2, padding=1), nn.BatchNorm2d(channels), nn.ReLU()
        )
        stages.append((f"F{index}", stage, Tap(channels, stride=2 ** (index + 1))))
        before = channels
    return Backbone(stages)
