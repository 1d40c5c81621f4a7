"""A bundle: one network as ``model.safetensors`` plus ``card.json``, which describes its use.

Nothing in a bundle is ever executed. The card is written last: a folder without one is unfinished.
PyTorch is imported only when weights are read.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsikd.core.errors import BundleError, ConfigError
from wsikd.core.faults import similar
from wsikd.core.output.markers import BUNDLE
from wsikd.core.output.place import Place
from wsikd.core.run import write_json_atomic
from wsikd.models.files.card import CARD as CARD
from wsikd.models.files.card import GraderCard, GraderInput, name_in, read_grader_card
from wsikd.models.files.card import InputSpec as InputSpec
from wsikd.models.files.guard_file import read_guard, write_guard
from wsikd.models.names import card_entry, install_it

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from wsikd.models.feature_guard import FeatureGuard
    from wsikd.models.graders.pooled import Grader
    from wsikd.models.guard import Guard

GIVE_A_RUN = "give a run folder of wsikd distill"
WEIGHTS = "model.safetensors"
_FLOATS = ("F64", "F32", "F16", "BF16")
LICENCE = "The weights inherit the terms of the data they were trained on; check them before use."


@dataclass(frozen=True)
class StudentBundle:
    """A network on disk, whose files have been checked."""

    path: Path
    spec: InputSpec
    card: GraderCard

    @cached_property
    def weights(self) -> Mapping[str, Tensor]:
        """Its state dict, floating point as float32. Raises BundleError if it is unreadable."""
        weights = _read_weights(self.path / WEIGHTS)
        _check_normalisation(self.path, weights, self.spec)
        return {k: v.float() if v.is_floating_point() else v for k, v in weights.items()}

    @cached_property
    def guard(self) -> Guard | FeatureGuard | None:
        """Its guard; None if the card has none. Raises BundleError."""
        return read_guard(self.path, self.card.guard, self.network)

    @property
    def sha256(self) -> str:
        """Digest of the weights file."""
        return self.card.sha256

    @property
    def key(self) -> str:
        """Digest of all that decides its logits."""
        parts = [self.sha256, self.card.network.record(), self.card.input.record()]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def arch(self) -> str:
        """Name of the network."""
        return self.card.network.arch

    @property
    def width(self) -> float:
        """Factor on the number of its channels."""
        return float(self.card.network.width)

    @property
    def drop_pools(self) -> int:
        """Number of its downsampling steps that were removed."""
        return int(self.card.network.drop_pools)

    @property
    def options(self) -> Mapping[str, Any]:
        """Settings of the network, if it has any, see ``wsikd.models.tables.GRADERS``."""
        return dict(self.card.network.options or {})

    @property
    def min_area_mm2(self) -> float:
        """Area in mm2 that a pattern must cover to count on a slide."""
        return float(self.card.min_area_mm2 or 0.0)

    @property
    def temperature(self) -> float | None:
        """Its logits are divided by this temperature; None if it was not fitted."""
        value = self.card.temperature
        return None if value is None else float(value)

    def network(self) -> Grader:
        """The network in eval mode, on the CPU."""
        grader = _empty(self.card.network.settings(), self.spec)
        grader.load_state_dict(dict(self.weights))
        return grader.eval()


def save_bundle(
    folder: str | Path, grader: Grader, spec: InputSpec, *, arch: str, width: float = 1.0,
    guard: Guard | None = None, **card: Any,
) -> Path:  # fmt: skip
    """Write a network and its card; the name of the same weights in the folder is kept.

    Args:
        folder: made if missing. An older bundle in it is replaced when the new one is complete.
        grader: the network.
        spec: its input.
        arch: its entry in ``BACKBONES``.
        width: factor on the number of its channels.
        guard: its guard, which has a file of its own.
        card: further entries of :class:`GraderCard`, JSON values.

    Raises:
        ValueError: an entry of the card has the wrong type or is out of range.
        OutputError: the folder cannot be written, or holds something that is not a bundle.
    """
    from wsikd.models.backbones.base import macs
    from wsikd.models.files.weights import write_weights

    folder = Path(folder)
    state = {k: v.detach().cpu().contiguous() for k, v in grader.state_dict().items()}
    network = {"arch": arch, "width": width, "drop_pools": grader.backbone.drop_pools}
    if grader.options:
        network["options"] = grader.options
    entries = {
        "licence": LICENCE,
        "network": network,
        "input": GraderInput.of(spec).record(),
        "macs": macs(grader, spec.patch_px),
        "parameters": sum(p.numel() for p in grader.parameters()),
        **card_entry(arch, "backbones", "graders"),
        **card,
    }
    with Place(folder, BUNDLE, folder, whole=True).made() as part:
        write_weights(part / WEIGHTS, state, {"wsikd": _sealed(network, entries["input"])})
        if guard is not None:
            entries["guard"] = write_guard(part, guard)
        sha256 = _sha256(part / WEIGHTS)
        made = GraderCard.made(sha256, name_in(folder, sha256) | entries)
        write_json_atomic(part / CARD, made.record())
    return folder


def peek_bundle(path: str | Path) -> StudentBundle:
    """Read and check the card of a bundle folder, or of the bundle in a run folder.

    This needs no PyTorch. The weights are checked when they are read.

    Raises:
        BundleError: there is none, it is unfinished, or its card is damaged.
    """
    folder = find_bundle(Path(path))
    card = read_grader_card(folder / CARD)
    return StudentBundle(folder, card.input.spec(), card)


def load_bundle(
    path: str | Path, *, known: Callable[[StudentBundle], bool] | None = None
) -> StudentBundle:
    """Read a bundle folder, or the bundle in a run folder.

    Args:
        path: the folder.
        known: returns whether a bundle with the same ``key`` has been checked before. If so, its
            weights are not checked again, and are read when they are needed. It is asked only if
            the digest of the weights is that of the card.

    Raises:
        BundleError: there is none, it is unfinished or damaged, or weights and card disagree.
    """
    bundle = peek_bundle(path)
    folder, card, digest = bundle.path, bundle.card, bundle.sha256
    _ = bundle.guard
    if known and digest == _sha256(folder / WEIGHTS) and known(bundle):
        return bundle
    _check_fit(folder, card, bundle.spec)
    if digest != _sha256(folder / WEIGHTS):
        raise BundleError(
            folder / WEIGHTS, "is not the file that card.json describes", "copy both again"
        )
    _ = bundle.weights
    return bundle


def find_bundle(path: Path) -> Path:
    """The bundle folder at a path or in a run folder. Raises BundleError."""
    for folder in (path, path / "student"):
        if (folder / CARD).is_file():
            if (folder / WEIGHTS).is_file():
                return folder
            raise BundleError(folder, f"has no {WEIGHTS}", "copy the whole bundle folder")
    if not path.exists():
        raise BundleError(path, "does not exist", f"{GIVE_A_RUN}{similar(path)}")
    if (path / "checkpoints").is_dir():
        raise BundleError(
            path, "this run has not finished", "finish it with wsikd distill --resume"
        )
    raise BundleError(path, f"holds no {CARD}", GIVE_A_RUN)


def _read_weights(file: Path) -> dict[str, Tensor]:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise BundleError(file, "is not a safetensors file", "copy the bundle again") from error
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise BundleError(file, f"'{name}' holds NaN or infinity", "train it again")
    return weights


def _read_header(file: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, str], str | None]:
    """Shape and type of every tensor, and the header's ``wsikd`` entry, without any weights."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
            shapes = {name: tuple(one.get_shape()) for name, one in slices.items()}
            types = {name: str(one.get_dtype()) for name, one in slices.items()}
            return shapes, types, (opened.metadata() or {}).get("wsikd")
    except (SafetensorError, OSError, ValueError) as error:
        raise BundleError(file, "is not a safetensors file", "copy the bundle again") from error


def _sealed(network: Mapping[str, Any], spec: Mapping[str, Any]) -> str:
    """The ``wsikd`` entry of the weights' header: network and input, which the weights need."""
    return json.dumps({"network": network, "input": spec}, sort_keys=True)


def _empty(network: Mapping[str, Any], spec: InputSpec) -> Grader:
    from wsikd.models.graders.pooled import assemble

    grader = assemble(
        classes=len(spec.classes), mean=spec.mean, std=spec.std, upsample=spec.upsample,
        **network,
        colour=spec.colour,
    )  # fmt: skip
    grader.corner_aligned = spec.corner_aligned
    return grader


def _check_fit(folder: Path, card: GraderCard, spec: InputSpec) -> None:
    """Compare the header of the weights with the card and with the network that it names."""
    shapes, types, sealed = _read_header(folder / WEIGHTS)
    arch = card.network.arch
    try:
        empty = _shapes(card.network.settings(), spec)
    except ConfigError as error:
        raise BundleError(
            folder / CARD,
            f"network '{arch}': {error.fault}",
            install_it(card.package, "use a newer wsikd"),
        ) from error
    expected = {k: tuple(v.shape) for k, v in empty.items()}
    for name in [*expected, *shapes]:
        if name not in shapes or name not in expected:
            fault = "missing" if name not in shapes else "not part of that network"
            break
        if shapes[name] != expected[name]:
            fault = f"of shape {shapes[name]}, not {expected[name]}"
            break
        if (types[name] in _FLOATS) != empty[name].is_floating_point():
            fault = f"of type {types[name]}, not {empty[name].dtype}".replace("torch.", "")
            break
    else:
        if sealed not in (None, _sealed(card.network.record(), card.input.record())):
            fault = (
                "names other classes, another resolution or network than the weights were saved "
                "with"
            )
            raise BundleError(folder / CARD, fault, "copy both files again")
        return
    raise BundleError(
        folder / WEIGHTS,
        f"does not fit '{arch}': {name!r:.100} is {fault}",
        "copy the bundle again",
    )


def _check_normalisation(folder: Path, weights: Mapping[str, Tensor], spec: InputSpec) -> None:
    import torch

    for name in ("mean", "std"):
        own, half = weights[name], torch.finfo(weights[name].dtype).bits < 32
        stated = torch.tensor(getattr(spec, name))
        if not torch.allclose(own.flatten().float(), stated, rtol=1e-2 if half else 1e-5):
            fault = f"'{name}' is not that of the weights"
            raise BundleError(folder / CARD, fault, "copy both files again")


def _shapes(network: Mapping[str, Any], spec: InputSpec) -> dict[str, Tensor]:
    from wsikd.models.device import without_memory

    try:
        with without_memory():
            return _empty(network, spec).state_dict()
    except NotImplementedError:  # some of timm's networks compute with weights in __init__
        return _empty(network, spec).state_dict()


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
