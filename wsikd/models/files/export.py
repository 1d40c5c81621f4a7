"""Export of a student to other programs: ONNX, TorchScript, and a folder for WSInfer and QuPath.

Every export is loaded in its runtime and compared with the original network. One that differs is
removed.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import asdict
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from wsikd.core.about import RESEARCH_USE, __version__
from wsikd.core.errors import BundleError, ConfigError, OutputError, one_line
from wsikd.core.output.markers import PORTABLE
from wsikd.core.output.place import Place
from wsikd.core.run import write_json_atomic
from wsikd.models.backbones.timm import PREFIX
from wsikd.models.files.bundle import LICENCE
from wsikd.models.tables import FILES as FILES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from wsikd.models.files.bundle import InputSpec, StudentBundle

    Run = Callable[[NDArray[Any]], NDArray[np.float32]]

RECORD = "export.json"
INPUT, OUTPUT = "patches", "logits"
OPSET = 17
LIMIT = 1e-4
_RANDOM = 8
_RAW = "uint8 RGB, 0 to 255, as read from the slide; the network normalises it itself"


def export_model(
    bundle: StudentBundle,
    kind: str,
    folder: Path,
    *,
    patches: NDArray[np.uint8] | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Export a student to other programs.

    ``onnx`` and ``torchscript`` take uint8 (B, 3, patch_px, patch_px). ``wsinfer`` is TorchScript
    for the output of WSInfer's transforms (float, 0 to 1, normalised), with a ``config.json`` (J.
    R. Kaczmarzyk et al., npj Precision Oncology 8:9, 2024). All give logits (B, classes).

    Args:
        bundle: the student.
        kind: an entry of ``FILES``.
        folder: output folder; made, or replaced if it holds an export and ``overwrite`` is set.
        patches: uint8 (N, patch_px, patch_px, 3) of slides, checked in addition to random ones.
        overwrite: replace an earlier export.

    Returns:
        The entries of ``export.json``; ``parity`` has the greatest difference of a logit.

    Raises:
        ConfigError: the kind is unknown, or a package that it needs is missing.
        BundleError: the network cannot be exported, or the export computes other values.
        OutputError: the folder holds something else, or cannot be written.
    """
    if kind not in FILES:
        raise ConfigError(f"--to {kind}", "is not known", f"choose one of {', '.join(FILES)}")
    place = Place(folder, PORTABLE, folder, [bundle.path], whole=True)
    _check_free(place, overwrite=overwrite)
    network = calibrated(bundle)
    module = _Normalised(network, bundle.spec) if kind == "wsinfer" else network
    prepare = _transformed(bundle.spec) if kind == "wsinfer" else np.asarray
    example = torch.from_numpy(prepare(_random(bundle.spec, 2)))
    with place.made() as part:
        file = part / FILES[kind]
        run = _write(module, example, file, kind, bundle)
        if kind == "wsinfer":
            write_json_atomic(part / "config.json", wsinfer_config(bundle))
        record = {
            "kind": kind,
            "wsikd": __version__,
            "use": RESEARCH_USE,
            "licence": LICENCE,
            "student": bundle.sha256,
            **bundle.card.given,
            "network": bundle.card.network.record(),
            "input": bundle.card.input.record(),
            "takes": _RAW if kind != "wsinfer" else "float32 RGB, (value / 255 - mean) / std",
            "gives": "logits in the order of the classes, over the temperature; their softmax are "
            "the probabilities of wsikd infer",
            "temperature": bundle.card.temperature,
            "parity": _parity(network, run, prepare, bundle, patches),
            "made_with": {"torch": version("torch")},
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        }
        write_json_atomic(part / RECORD, record)
    return record


def wsinfer_config(bundle: StudentBundle) -> dict[str, Any]:
    """``config.json`` in WSInfer's schema of model configurations, version 1.0."""
    spec = bundle.spec
    norm = {"mean": list(spec.mean), "std": list(spec.std)}
    return {
        "spec_version": "1.0",
        "architecture": bundle.arch.removeprefix("timm:"),
        "num_classes": len(spec.classes),
        "class_names": list(spec.classes),
        "patch_size_pixels": spec.patch_px,
        "spacing_um_px": spec.mpp,
        "transform": [
            {"name": "Resize", "arguments": {"size": spec.patch_px}},
            {"name": "ToTensor"},
            {"name": "Normalize", "arguments": norm},
        ],
    }


def calibrated(bundle: StudentBundle) -> nn.Module:
    """The network in eval mode, with its logits divided by the card's temperature, if any.

    It maps uint8 or float (B, 3, patch_px, patch_px) of 0 to 255 to logits (B, classes). Their
    softmax is the probabilities of ``wsikd infer``.
    """
    network = bundle.network()
    return network if bundle.temperature is None else _Calibrated(network, bundle.temperature)


class _Calibrated(nn.Module):
    def __init__(self, network: nn.Module, temperature: float) -> None:
        super().__init__()
        self.network, self.temperature = network.eval(), temperature
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x) / self.temperature  # type: ignore[no-any-return]


class _Normalised(nn.Module):
    """A network for patches that the caller has normalised; it undoes the normalisation."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, spec: InputSpec) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.network((x * self.std + self.mean) * 255)  # type: ignore[no-any-return]


def _transformed(spec: InputSpec) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """WSInfer's ToTensor and Normalize, for uint8 (B, 3, H, W)."""
    mean, std = (np.asarray(v, np.float32).reshape(1, 3, 1, 1) for v in (spec.mean, spec.std))
    return lambda x: np.asarray((x.astype(np.float32) / 255 - mean) / std, np.float32)


def _random(spec: InputSpec, count: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, 3, spec.patch_px, spec.patch_px), dtype=np.uint8)


def _check_free(place: Place, *, overwrite: bool) -> None:
    if not place.taken():
        return
    place.may_replace()
    if not overwrite:
        raise OutputError(place.path, "holds an export", "choose another -o, or pass --overwrite")


def _write(module: nn.Module, example: Tensor, file: Path, kind: str, bundle: StudentBundle) -> Run:
    """Write the file; returns a function of (B, 3, H, W) that runs it in its runtime."""
    writer = _write_onnx if kind == "onnx" else _write_torchscript
    try:
        # The exporters warn of their deprecation and of each Python number that becomes a
        # constant; the check finds wrong constants.
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return writer(module.eval(), example, file, bundle)
    except (ConfigError, OSError):
        raise
    except Exception as error:
        fault = f"cannot be written as {kind} ({one_line(str(error))[:200]})"
        raise BundleError(bundle.path, fault, "choose another --to") from error


def _write_torchscript(
    module: nn.Module, example: Tensor, file: Path, bundle: StudentBundle
) -> Run:
    del bundle
    torch.jit.save(torch.jit.trace(module, example), str(file))  # type: ignore[no-untyped-call]
    loaded = torch.jit.load(str(file))  # type: ignore[no-untyped-call]

    def run(x: NDArray[Any]) -> NDArray[np.float32]:
        with torch.no_grad():
            return np.asarray(loaded(torch.from_numpy(x)).numpy(), np.float32)

    return run


def _write_onnx(module: nn.Module, example: Tensor, file: Path, bundle: StudentBundle) -> Run:
    by_trace = not bundle.arch.startswith(PREFIX)
    try:
        import onnx
        import onnxruntime

        if not by_trace:
            import_module("onnxscript")
    except ImportError as error:
        raise ConfigError(
            "--to onnx", f"{error.name} is not installed", "pip install 'wsikd[onnx]'"
        ) from error
    names: dict[str, Any] = {"input_names": [INPUT], "output_names": [OUTPUT]}
    if by_trace:
        torch.onnx.export(
            module, (example,), str(file), dynamo=False, opset_version=OPSET, **names,
            dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
        )  # fmt: skip
    else:  # tracing is ten times as fast, but cannot resample a transformer's positions
        torch.onnx.export(
            module, (example,), str(file), dynamo=True, external_data=False, verbose=False,
            dynamic_shapes=[{0: torch.export.Dim("batch")}], **names,
        )  # fmt: skip
    model = onnx.load(file)
    facts = {"wsikd": __version__, "student": bundle.sha256, "use": RESEARCH_USE, INPUT: _RAW}
    facts |= bundle.card.given
    facts |= {k: json.dumps(v) for k, v in asdict(bundle.spec).items()}
    onnx.helper.set_model_props(model, facts)
    onnx.checker.check_model(model)
    onnx.save(model, file)
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return lambda x: np.asarray(session.run([OUTPUT], {INPUT: x})[0], np.float32)


def _parity(
    network: nn.Module,
    run: Run,
    prepare: Callable[[NDArray[np.uint8]], NDArray[Any]],
    bundle: StudentBundle,
    patches: NDArray[np.uint8] | None,
) -> dict[str, Any]:
    """Greatest difference of a logit, over several batch sizes, since tracing may fix the size.

    The limit is 1e-4 of the greatest logit, or 1e-4 if that is below 1.
    """
    random = _random(bundle.spec, _RANDOM)
    real = np.empty((0, *random.shape[1:]), np.uint8)
    if patches is not None:
        real = np.ascontiguousarray(patches.transpose(0, 3, 1, 2))
    x = np.concatenate([random, real])
    with torch.no_grad():
        own = np.concatenate([network(torch.from_numpy(x[i : i + 8])) for i in range(0, len(x), 8)])
    try:
        parts = [x[:1], x[1:4], *(x[i : i + 5] for i in range(4, len(x), 5))]
        other = np.concatenate([run(prepare(part)) for part in parts])
    except Exception as error:
        fault = f"the copy does not run ({one_line(str(error))[:200]})"
        raise BundleError(bundle.path, fault, "choose another --to") from error
    difference = float(np.abs(own - other).max()) if own.shape == other.shape else float("inf")
    limit = LIMIT * max(1.0, float(np.abs(own).max()))
    if not difference <= limit:
        fault = f"the copy differs from it by {difference:.2g} in a logit (allowed {limit:.2g})"
        raise BundleError(bundle.path, fault, "choose another --to")
    return {
        "max_difference": difference,
        "limit": limit,
        "random_patches": len(random),
        "slide_patches": len(real),
    }
