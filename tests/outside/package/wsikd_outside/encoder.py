"""Embeddings that are the mean colours of a grid of cells, e.g. ``outside:2`` of 2 x 2."""

from torch import nn

from wsikd.core.errors import ConfigError
from wsikd.models.encoders.base import Encoder, EncoderSpec, refuse_weights, state_digest


def open_colours(argument, *, weights=None, licence=None):
    """Open the encoder.

    Args:
        argument: what the user wrote behind ``outside:``, here the cells on a side.
        weights: the user's ``--weights``, if any.
        licence: the user's ``--licence``, if any.
    """
    refuse_weights(weights)
    if not argument.isdecimal() or int(argument) < 1:
        raise ConfigError(f"--encoder outside:{argument}", "is not a number", "give e.g. outside:2")
    side = int(argument)
    network = nn.Sequential(nn.AdaptiveAvgPool2d(side), nn.Flatten())
    spec = EncoderSpec(
        id=f"outside:{side}",
        licence=licence or "CC0",
        dim=3 * side * side,
        sha256=state_digest(network),
        input_px=None,  # patches are read as they are, not resized
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        mpp=1.0,  # the resolution and patch that it is meant for
        patch_px=64,
    )
    return Encoder(network, spec)
