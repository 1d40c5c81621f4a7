"""Open a frozen network that turns patches into embeddings, by name or from a file.

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

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from wsikd.core.errors import BundleError, ConfigError
from wsikd.models.encoders.adapter import KIND, load_embedder
from wsikd.models.encoders.base import (
    DINO,
    HIPT,
    RANDOM,
    TIMM,
    Encoder,
    EncoderSpec,
    load_weights,
    read_state,
    state_digest,
)
from wsikd.models.encoders.dino_vit import open_dino
from wsikd.models.files.bundle import load_bundle
from wsikd.models.files.folder import kind_of

if TYPE_CHECKING:
    from wsikd.models.graders.pooled import Grader


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
            return open_dino(Path(name.removeprefix(kind)), kind, licence=licence).eval()
    if not Path(name).exists():
        raise ConfigError(
            f"--encoder {name}", "is no bundle and no network of timm, nor a file",
            f"give a folder, {HIPT}FILE, or {TIMM}NAME",
        )  # fmt: skip
    if Path(name).is_file():
        return open_dino(Path(name), HIPT, licence=licence).eval()
    return _bundle(Path(name)).eval()


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


class _Headless(nn.Module):
    """A grader without its head."""

    def __init__(self, grader: Grader) -> None:
        super().__init__()
        self.grader = grader

    def forward(self, x: Tensor) -> Tensor:
        return self.grader.embed(x)


def _bundle(folder: Path) -> Encoder:
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
