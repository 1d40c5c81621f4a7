"""An embedder: a frozen trunk and a small trained adapter that speaks another encoder's language.

The network of "D2VFM": the trunk's feature map is averaged, the adapter maps it to the embedding of
a vision foundation model. On disk it is a folder of ``model.safetensors`` and ``card.json``, as a
student's, of kind "embedder".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from wsikd.core.errors import BundleError, ConfigError
from wsikd.core.registry import nearest
from wsikd.models.backbones.open import build_backbone
from wsikd.models.encoders.base import Encoder, EncoderSpec
from wsikd.models.files.card import CARD, REMEDY, EmbedderCard
from wsikd.models.files.folder import read_network, write_network
from wsikd.models.names import card_entry, install_it

if TYPE_CHECKING:
    from pathlib import Path

    from wsikd.models.backbones.base import Backbone

ADAPTERS = ("p", "m", "mp", "mpa")


class Adapter(nn.Module):
    """Pooled features (B, C) to an embedding (B, D), r being ReLU, h = C / 4.

    ========  ======================================
    ``p``     P(r x)
    ``m``     F2(r F1(r x)), of widths C, h, D
    ``mp``    P(r F2(r F1(r x))), of widths C, h, C, D
    ``mpa``   P(r (x + F2(r F1(r x))))
    ========  ======================================
    """

    def __init__(self, kind: str, channels: int, dim: int) -> None:
        """Weights by Kaiming's uniform rule, zero biases. Raises ConfigError."""
        super().__init__()
        if kind not in ADAPTERS:
            raise ConfigError(f"adapter '{kind}'", "is unknown", nearest(kind, ADAPTERS))
        self.kind = kind
        hidden = channels // 4
        if kind != "p":
            self.first = nn.Linear(channels, hidden)
            self.second = nn.Linear(hidden, dim if kind == "m" else channels)
        if kind != "m":
            self.out = nn.Linear(channels, dim)
        for layer in self.children():
            assert isinstance(layer, nn.Linear)
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        if self.kind == "p":
            return self.out(x.relu())  # type: ignore[no-any-return]
        inner = self.second(self.first(x.relu()).relu())
        if self.kind == "m":
            return inner  # type: ignore[no-any-return]
        return self.out((inner + x if self.kind == "mpa" else inner).relu())  # type: ignore[no-any-return]


def masked_mean(maps: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean of maps (B, C, h, w) over places, or over those of ``mask`` bool (B, h, w): (B, C)."""
    if mask is None:
        return maps.mean((2, 3))
    share = mask.to(maps.dtype)
    return (maps * share[:, None]).sum((2, 3)) / share.sum((1, 2)).clamp_min(1)[:, None]


class Embedder(nn.Module):
    """Normalised patches (B, 3, H, W) to embeddings (B, D).

    Attributes:
        trunk: frozen, in eval mode whatever the trainer sets; cut behind ``tap``.
        adapter: what is trained.
        shift: float (D,), added to the scaled output: the targets' mean where they were
            standardised.
        scale: float (D,), their deviation.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, trunk: Backbone, tap: str, adapter: Adapter, dim: int) -> None:
        """Read ``tap`` of ``trunk``. Raises ConfigError where there is none."""
        super().__init__()
        if tap not in trunk.taps:
            raise ConfigError(f"tap '{tap}'", "is none of the trunk", nearest(tap, trunk.taps))
        self.trunk, self.tap, self.adapter = cut_behind(trunk, tap), tap, adapter
        self.register_buffer("shift", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(dim))
        self.trunk.requires_grad_(requires_grad=False).eval()

    def train(self, mode: bool = True) -> Embedder:  # noqa: FBT001, FBT002 - torch's signature
        """The trunk stays in eval mode."""
        super().train(mode)
        self.trunk.eval()
        return self

    def standardised(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The output before scaling, for comparison with standardised targets: (B, D)."""
        with torch.no_grad():
            maps = self.trunk.forward_taps(x, [self.tap])[self.tap]
        return self.adapter(masked_mean(maps, mask))  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """Embeddings in the teacher's own scale."""
        return self.standardised(x) * self.scale + self.shift


def cut_behind(trunk: Backbone, tap: str) -> Backbone:
    """Drop the stages behind a tap: they would be computed for nothing."""
    if tap in trunk.stages:
        names = list(trunk.stages)
        for name in names[names.index(tap) + 1 :]:
            del trunk.stages[name]
            del trunk.taps[name]
        trunk.deepest = tap
    return trunk


def save_embedder(
    folder: Path, embedder: Embedder, spec: EncoderSpec, *, arch: str, **card: Any
) -> Path:
    """Write an embedder; the card comes last.

    Args:
        folder: where to.
        embedder: the network.
        spec: what it is to be given; its digest is that of the file.
        arch: its trunk, an entry of ``BACKBONES`` or "timm:NAME".
        card: further entries: the teacher with its licence, metrics, ...

    Raises:
        OutputError: the folder cannot be written.
        ValueError: an entry of the card has the wrong type or is out of range.
    """
    network = {
        "arch": arch, "tap": embedder.tap, "adapter": embedder.adapter.kind, "dim": spec.dim,
        "channels": embedder.trunk.taps[embedder.tap].channels,
    }  # fmt: skip
    about = {"network": network, "encoder": spec.record(), **card_entry(arch, "backbones"), **card}
    return write_network(folder, embedder.state_dict(), EmbedderCard, about)


def load_embedder(folder: Path) -> Encoder:
    """Read an embedder as an encoder, in eval mode. Raises BundleError."""
    place, card, weights = read_network(folder, EmbedderCard)
    try:
        network, about = card.network, card.encoder
        adapter = Adapter(network.adapter, network.channels, network.dim)
        embedder = Embedder(build_backbone(network.arch), network.tap, adapter, network.dim)
        embedder.load_state_dict(weights)
        spec = EncoderSpec(
            about.id, about.licence, about.dim, card.sha256, about.input_px, tuple(about.mean),
            tuple(about.std), about.mpp, about.patch_px,
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        reason = error.fault if isinstance(error, ConfigError) else type(error).__name__
        remedy = install_it(card.package, REMEDY)
        raise BundleError(
            place / CARD, f"does not match its weights ({reason:.200})", remedy
        ) from error
    return Encoder(embedder, spec).eval()
