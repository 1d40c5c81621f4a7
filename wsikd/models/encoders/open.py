"""Open a frozen network that turns patches into embeddings, by name or from a file.

========================  ======================================================================
``timm:NAME``             a model of timm; its pretrained weights from the hub, or a local file
``hipt:FILE``, ``FILE``   a vision transformer trained by DINO, with the transform of HIPT; see
                          ``wsikd.models.encoders.dino_vit``
``dino:FILE``             the same, with that of DINO
a folder                  a bundle of ``wsikd distill``: what a student's head reads, i.e. pooled
                          features or, of HDKD's, its tokens; or an embedder of ``method: ts2g``
``PREFIX:ARGUMENT``       what an installed package offers under the name PREFIX in the group
                          ``wsikd.encoders``
========================  ======================================================================
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from wsikd.core.errors import BundleError, ConfigError
from wsikd.core.registry import resolve
from wsikd.models.encoders.adapter import load_embedder
from wsikd.models.encoders.base import (
    RANDOM,
    Encoder,
    EncoderSpec,
    load_weights,
    read_state,
    refuse_weights,
    state_digest,
)
from wsikd.models.encoders.dino_vit import open_hipt
from wsikd.models.files.bundle import load_bundle
from wsikd.models.files.card import EmbedderCard
from wsikd.models.files.folder import kind_of
from wsikd.models.names import no_encoder, split_encoder
from wsikd.models.tables import ENCODERS

if TYPE_CHECKING:
    from wsikd.models.graders.pooled import Grader


_NO_DOWNLOAD = (
    "its weights cannot be downloaded",
    "give a local copy with --weights FILE, or try it with --weights random",
)


def open_encoder(name: str, *, weights: str | None = None, licence: str | None = None) -> Encoder:
    """Open an encoder, in eval mode on the CPU.

    Args:
        name: see the module.
        weights: local file for a network of timm (``.safetensors``, or a state dict saved by
            torch), or "random", always the same; None asks the hub.
        licence: terms of local weights, to be recorded.

    Raises:
        ConfigError: the network or its weights are not available, or do not fit.
        BundleError: the folder is not a bundle.
    """
    found = split_encoder(name)
    if found is not None:
        opened: Encoder = resolve(ENCODERS, found[0], kind="encoders")(
            found[1], weights=weights, licence=licence
        )
        return opened.eval()
    refuse_weights(weights)
    if not Path(name).exists():
        raise no_encoder(name)
    if Path(name).is_file():
        return open_hipt(name, licence=licence).eval()
    return _bundle(Path(name)).eval()


def open_timm(name: str, *, weights: str | None = None, licence: str | None = None) -> Encoder:
    """Open a network of timm; see :func:`open_encoder`."""
    import timm
    from timm.data.config import resolve_model_data_config

    subject = f"--encoder timm:{name}"
    net: Any
    try:
        if weights is None:
            net = timm.create_model(name, pretrained=True, num_classes=0)
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)  # random weights are the same ones every time
                net = timm.create_model(name, num_classes=0)
    except OSError as error:
        raise ConfigError(subject, *_NO_DOWNLOAD) from error
    except RuntimeError as error:  # the hub's client fails in several ways
        if name.partition(".")[0] in timm.list_models():
            raise ConfigError(subject, *_NO_DOWNLOAD) from error
        remedy = "list them with timm.list_models(), or give --weights FILE"
        raise ConfigError(subject, f"timm does not offer it ({error})", remedy) from error
    if weights not in (None, RANDOM):
        load_weights(net, read_state(Path(weights)), subject, weights)
    config = resolve_model_data_config(net)  # type: ignore[no-untyped-call]
    terms = licence or net.pretrained_cfg.get("license") or "not stated; ask its authors"
    source = {None: "hub", RANDOM: RANDOM}.get(weights) or Path(weights or "").name
    spec = EncoderSpec(
        id=f"timm:{name} ({source})",
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
    if kind_of(folder) == EmbedderCard.KIND:
        return load_embedder(folder)
    try:
        bundle = load_bundle(folder)
    except BundleError as error:
        raise BundleError(error.subject, error.fault, f"{error.remedy}, or timm:NAME") from error
    grader = bundle.network()
    spec = EncoderSpec(
        id=f"{bundle.arch} of wsikd, {'pooled' if grader.pooled else 'tokens'}",
        licence=bundle.card.licence or "not stated",
        dim=grader.embedding_dim,
        sha256=bundle.sha256,
        input_px=None,
        mean=(0.0, 0.0, 0.0),  # the grader normalises by itself
        std=(1 / 255,) * 3,
        mpp=bundle.spec.mpp,
        patch_px=bundle.spec.patch_px,
    )
    return Encoder(_Headless(grader), spec)
