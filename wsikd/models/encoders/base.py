"""A frozen network that turns patches into embeddings, its specification, and its weights."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsikd.core.errors import ConfigError
from wsikd.models.files.weights import digest_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

RANDOM = "random"


@dataclass(frozen=True)
class EncoderSpec:
    """Description of an encoder, with the exact transform of a patch.

    Attributes:
        id: name of the network and its weights.
        licence: terms of the weights, as their source states them.
        dim: numbers in an embedding.
        sha256: digest of the weights.
        input_px: patches are resized to this side (bilinear, antialiased); None: read as they are.
        mean: per channel, in units of 0 to 1.
        std: per channel, in units of 0 to 1.
        mpp: um per pixel that it was made for; None if unknown.
        patch_px: side of a patch at ``mpp``; None as before.
    """

    id: str
    licence: str
    dim: int
    sha256: str
    input_px: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mpp: float | None = None
    patch_px: int | None = None

    def record(self) -> dict[str, Any]:
        """The entries of bags."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}


class Encoder(nn.Module):
    """uint8 or float (B, 3, H, W) of 0 to 255 -> float (B, dim)."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, spec: EncoderSpec) -> None:
        """``network`` maps normalised (B, 3, input_px, input_px) to (B, dim)."""
        super().__init__()
        self.network, self.spec = network, spec
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1), persistent=False)

    def normalise(self, x: Tensor) -> Tensor:
        """The normalised input of the network."""
        x = (x.to(self.mean.dtype) - 255 * self.mean) / (255 * self.std)
        side = self.spec.input_px
        if side is not None and x.shape[-2:] != (side, side):
            x = functional.interpolate(
                x, size=(side, side), mode="bilinear", align_corners=False, antialias=True
            )
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Embeddings."""
        return self.network(self.normalise(x))  # type: ignore[no-any-return]


def refuse_weights(weights: str | None) -> None:
    """Refuse ``--weights`` for an encoder that brings its own. Raises ConfigError."""
    if weights is not None:
        raise ConfigError("--weights", "a bundle or file brings its own", "leave it out")


def read_state(file: Path) -> Mapping[str, Tensor]:
    """A state dict from a local file; nothing in it is executed.

    One that is nested as ``model``, ``state_dict`` or ``teacher`` is unwrapped.

    Raises:
        ConfigError: the file cannot be read, or holds something else.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    remedy = "give a .safetensors file, or a state dict saved by torch"
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        with torch.serialization.safe_globals([Namespace]):  # DINO keeps its arguments beside them
            state = torch.load(file, map_location="cpu", weights_only=True)  # noqa: TID251
    except (OSError, SafetensorError) as error:
        raise ConfigError(file, f"cannot be read ({error})", remedy) from error
    except Exception as error:  # the unpickler fails in any way on a foreign file
        raise ConfigError(
            file, f"is not a plain state dict ({type(error).__name__})", remedy
        ) from error
    for key in ("model", "state_dict", "teacher"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not any(isinstance(v, Tensor) for v in state.values()):
        raise ConfigError(file, "is not a state dict", remedy)
    return {str(k): v for k, v in state.items() if isinstance(v, Tensor)}


def load_weights(net: nn.Module, state: Mapping[str, Tensor], subject: str, source: object) -> None:
    """Put a state dict into a network; a head in it is left out.

    Raises:
        ConfigError: a weight of the network is missing or of another shape.
    """
    own = net.state_dict()
    state = {k.removeprefix("module.").removeprefix("backbone."): v for k, v in state.items()}
    for key, value in own.items():
        if key.endswith("num_batches_tracked") and key not in state:
            continue
        if key not in state or state[key].shape != value.shape:
            have = tuple(state[key].shape) if key in state else "missing"
            fault = f"{source} does not fit: {key} is {have}, not {tuple(value.shape)}"
            raise ConfigError(subject, fault, "give the weights of this network")
    net.load_state_dict({k: v for k, v in state.items() if k in own}, strict=False)


def state_digest(net: nn.Module) -> str:
    """SHA-256 of a network's weights, by name."""
    return digest_of(net.state_dict())
