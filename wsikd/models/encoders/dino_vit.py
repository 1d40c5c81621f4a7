"""Vision transformers trained by DINO, from a file of their weights: HIPT's ViT-256 among them.

========================  ======================================================================
``hipt:FILE``, ``FILE``   R. J. Chen et al., "Scaling Vision Transformers to Gigapixel Images via
                          Hierarchical Self-Supervised Learning", CVPR 2022: patches of 256 px read
                          as they are, mean and deviation 0.5 on all channels
``dino:FILE``             M. Caron et al., "Emerging Properties in Self-Supervised Vision
                          Transformers", ICCV 2021: patches resized to 224 px, ImageNet's mean and
                          deviation
========================  ======================================================================

The file is a checkpoint of DINO, whose teacher is taken, or a state dict; width, depth, side of a
token and grid of positions are read off its shapes, heads are 64 wide as in all of theirs.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from wsikd.core.errors import ConfigError
from wsikd.models.encoders.base import (
    Encoder,
    EncoderSpec,
    load_weights,
    read_state,
    refuse_weights,
    state_digest,
)
from wsikd.models.slide_level.region_vit import positions

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger(__name__)
_TRANSFORMS: dict[str, dict[str, Any]] = {
    "hipt": {"input_px": None, "mean": (0.5,) * 3, "std": (0.5,) * 3, "patch_px": 256},
    "dino": {"input_px": 224, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
}
_HEAD = 64


class DinoViT(nn.Module):
    """Normalised patches (B, 3, H, W), sides a multiple of a token's, to class tokens (B, D)."""

    def __init__(self, *, width: int, depth: int, token_px: int, table: int) -> None:
        """A network of timm; ``table`` is the side of the grid that positions were learnt for."""
        from timm.models.vision_transformer import VisionTransformer

        super().__init__()
        self.token_px, self.table = token_px, table
        self.net: Any = VisionTransformer(
            img_size=table * token_px, patch_size=token_px, embed_dim=width, depth=depth,
            num_heads=width // _HEAD, num_classes=0,
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """The class token behind the last norm. Raises ConfigError for sides that do not fit."""
        height, width = x.shape[-2:]
        if height % self.token_px or width % self.token_px:
            raise ConfigError(
                f"--patch-size {height}", f"is not a multiple of the network's {self.token_px} px",
                "give another",
            )  # fmt: skip
        tokens = self.net.patch_embed.proj(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.net.cls_token.expand(len(x), -1, -1), tokens], 1)
        tokens = tokens + self.positions(height // self.token_px, width // self.token_px)
        return self.net.norm(self.net.blocks(tokens))[:, 0]  # type: ignore[no-any-return]

    def positions(self, height: int, width: int) -> Tensor:
        """See :func:`wsikd.models.slide_level.region_vit.positions`."""
        return positions(self.net.pos_embed, self.table, height, width)


def open_hipt(file: str, *, weights: str | None = None, licence: str | None = None) -> Encoder:
    """Open a file of weights as an encoder, with the transform of HIPT.

    Args:
        file: a checkpoint of DINO, or a state dict by torch or as ``.safetensors``.
        weights: None; the file brings its own.
        licence: terms of the weights, to be recorded.

    Raises:
        ConfigError: it is not a vision transformer, or cannot be read.
    """
    refuse_weights(weights)
    return _open(Path(file), "hipt", licence)


def open_dino(file: str, *, weights: str | None = None, licence: str | None = None) -> Encoder:
    """As :func:`open_hipt`, with the transform of DINO."""
    refuse_weights(weights)
    return _open(Path(file), "dino", licence)


def _open(file: Path, kind: str, licence: str | None) -> Encoder:
    subject = f"--encoder {file}"
    state = read_state(file)
    network = DinoViT(**_sizes(state, subject))
    load_weights(network.net, state, subject, file.name)
    transform = _TRANSFORMS[kind]
    logger.info(
        "%s: a transformer of width %d; mean %s, deviation %s, as in %s",
        file.name, network.net.embed_dim, transform["mean"], transform["std"], kind.upper(),
    )  # fmt: skip
    spec = EncoderSpec(
        id=f"{kind}:{file.name}",
        licence=licence or "not stated; ask its authors",
        dim=int(network.net.embed_dim),
        sha256=state_digest(network.net),
        **transform,
    )
    return Encoder(network, spec)


def _sizes(state: Mapping[str, Tensor], subject: str) -> dict[str, int]:
    """Sizes of the network that a state dict is of. Raises ConfigError."""
    names = {k.removeprefix("module.").removeprefix("backbone."): v for k, v in state.items()}
    try:
        _, positions, width = names["pos_embed"].shape
        kernel = names["patch_embed.proj.weight"].shape
        blocks = {int(k.split(".")[1]) for k in names if k.startswith("blocks.")}
        table = round((positions - 1) ** 0.5)
        fits = table**2 == positions - 1 and width % _HEAD == 0
        if not fits or kernel[2] != kernel[3] or blocks != set(range(len(blocks))):
            raise ValueError
        return {"width": width, "depth": len(blocks), "token_px": kernel[2], "table": table}
    except (LookupError, ValueError) as error:
        raise ConfigError(
            subject, "holds no vision transformer as DINO trains them",
            "give its weights, a bundle, or timm:NAME with --weights",
        ) from error  # fmt: skip
