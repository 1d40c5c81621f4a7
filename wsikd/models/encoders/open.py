"""Frozen networks that turn patches into embeddings, by name or from a file.

========================  ======================================================================
``timm:NAME``             a model of timm; its pretrained weights from the hub, or a local file
``hipt:FILE``, ``FILE``   a vision transformer trained by DINO, with the transform of HIPT; see
                          ``wsikd.models.encoders.dino_vit``
``dino:FILE``             the same, with that of DINO
a folder                  a bundle of ``wsikd distill``: what a student's head reads, i.e. pooled
                          features or, of HDKD's, its tokens; or an embedder of ``method: ts2g``
========================  ======================================================================
"""

from __future__ import annotations

import hashlib
from argparse import Namespace
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsikd.core.errors import BundleError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wsikd.models.graders.pooled import Grader

RANDOM = "random"
TIMM = "timm:"
HIPT, DINO = "hipt:", "dino:"


@dataclass(frozen=True)
class EncoderSpec:
    """What an encoder is, and what exactly it does to a patch.

    Attributes:
        id: name of the network and its weights.
        licence: terms of the weights, as their source states them.
        dim: numbers in an embedding.
        sha256: digest of the weights.
        input_px: patches are resized to this side (bilinear, antialiased); None: read as they are.
        mean: per channel, in units of 0 to 1.
        std: per channel, in units of 0 to 1.
        mpp: um per pixel that it was made for; None where nobody says.
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
        """As it is written into bags."""
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
        """What the network reads."""
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


def open_encoder(name: str, *, weights: str | None = None, licence: str | None = None) -> Encoder:
    """Open an encoder, in eval mode on the CPU.

    Args:
        name: see the module.
        weights: local file for a network of timm (``.safetensors``, or a state dict saved by
            torch), or "random", always the same; None asks the hub.
        licence: terms of local weights, to be recorded.

    Raises:
        ConfigError: the network or its weights are not to be had, or do not fit.
        BundleError: the folder is no bundle.
    """
    if name.startswith(TIMM):
        return _timm(name.removeprefix(TIMM), weights, licence).eval()
    if weights is not None:
        raise ConfigError("--weights", "a bundle or file brings its own", "leave it out")
    for kind in (HIPT, DINO):
        if name.startswith(kind):
            return _dino(name.removeprefix(kind), kind, licence)
    if not Path(name).exists():
        raise ConfigError(
            f"--encoder {name}", "is no bundle and no network of timm, nor a file",
            f"give a folder, {HIPT}FILE, or {TIMM}NAME",
        )  # fmt: skip
    if Path(name).is_file():
        return _dino(name, HIPT, licence)
    return _bundle(Path(name)).eval()


def _dino(file: str, kind: str, licence: str | None) -> Encoder:
    from wsikd.models.encoders.dino_vit import open_dino

    return open_dino(Path(file), kind, licence=licence).eval()


def _timm(name: str, weights: str | None, licence: str | None) -> Encoder:
    import timm
    from timm.data.config import resolve_model_data_config

    subject = f"--encoder {TIMM}{name}"
    net: Any
    try:
        if weights is None:
            net = timm.create_model(name, pretrained=True, num_classes=0)
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)  # random weights are the same ones every time
                net = timm.create_model(name, num_classes=0)
    except OSError as error:
        raise ConfigError(
            subject, "its weights cannot be downloaded", "give a local copy with --weights FILE"
        ) from error
    except RuntimeError as error:
        remedy = "list them with timm.list_models(), or give --weights FILE"
        raise ConfigError(subject, f"timm does not offer it ({error})", remedy) from error
    if weights not in (None, RANDOM):
        load_weights(net, read_state(Path(weights)), subject, weights)
    config = resolve_model_data_config(net)  # type: ignore[no-untyped-call]
    terms = licence or net.pretrained_cfg.get("license") or "not stated; ask its authors"
    source = {None: "hub", RANDOM: RANDOM}.get(weights) or Path(weights or "").name
    spec = EncoderSpec(
        id=f"{TIMM}{name} ({source})",
        licence="none needed: random weights" if weights == RANDOM else terms,
        dim=int(getattr(net, "head_hidden_size", net.num_features)),
        sha256=state_digest(net),
        input_px=int(config["input_size"][-1]),
        mean=tuple(float(v) for v in config["mean"]),
        std=tuple(float(v) for v in config["std"]),
    )
    return Encoder(net, spec)


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
            file, f"is no plain state dict ({type(error).__name__})", remedy
        ) from error
    for key in ("model", "state_dict", "teacher"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not any(isinstance(v, Tensor) for v in state.values()):
        raise ConfigError(file, "is no state dict", remedy)
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
    digest = hashlib.sha256()
    for key, value in sorted(net.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class _Headless(nn.Module):
    """A grader without its head."""

    def __init__(self, grader: Grader) -> None:
        super().__init__()
        self.grader = grader

    def forward(self, x: Tensor) -> Tensor:
        return self.grader.embed(x)


def _bundle(folder: Path) -> Encoder:
    from wsikd.models.encoders.adapter import KIND, load_embedder
    from wsikd.models.files.bundle import load_bundle
    from wsikd.models.files.folder import kind_of

    if kind_of(folder) == KIND:
        return load_embedder(folder)
    try:
        bundle = load_bundle(folder)
    except BundleError as error:
        raise BundleError(error.subject, error.fault, f"{error.remedy}, or {TIMM}NAME") from error
    grader = bundle.network()
    spec = EncoderSpec(
        id=f"{bundle.arch} of wsikd, {'pooled' if grader.pooled else 'tokens'}",
        licence=str(bundle.card.get("licence", "not stated")),
        dim=grader.embedding_dim,
        sha256=bundle.sha256,
        input_px=None,
        mean=(0.0, 0.0, 0.0),  # the grader normalises by itself
        std=(1 / 255,) * 3,
        mpp=bundle.spec.mpp,
        patch_px=bundle.spec.patch_px,
    )
    return Encoder(_Headless(grader), spec)
