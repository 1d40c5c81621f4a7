"""Opens the networks of a comparison and writes its record."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from wsikd.core.errors import ConfigError
from wsikd.core.run import aside, write_json_atomic, write_text_atomic
from wsikd.grade.bench.choice_report import plot_trade
from wsikd.grade.bench.report import plot, to_markdown
from wsikd.grade.bench.types import Contender
from wsikd.grade.predict import SlidePredictor
from wsikd.models.backbones.base import macs
from wsikd.models.files.bundle import InputSpec, load_bundle
from wsikd.models.graders.pooled import build_grader
from wsikd.slides.mpp import mpp_of_magnification
from wsikd.tiles.grid import patch_sizes

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from wsikd.grade.predict import PredictSettings


def open_trained(name: str, path: Path, device: str, settings: PredictSettings) -> Contender:
    """Open a trained network as a contender. Raises BundleError."""
    bundle = load_bundle(path)
    network = bundle.network()
    cost = bundle.card.macs
    if not isinstance(cost, int):  # a card of an earlier version or of other software
        cost = macs(network, bundle.spec.patch_px)
    predictor = SlidePredictor(network, bundle.spec, device=device, settings=settings)
    return Contender(name, predictor, cost, trained=True, card=bundle.card)


def open_students(
    paths: tuple[Path, ...], device: str, settings: PredictSettings
) -> list[Contender]:
    """Open students, the highest magnification first. Names of several include it."""
    found = [open_trained("student", path, device, settings) for path in paths]
    if len(found) == 1:
        return found
    found.sort(key=lambda c: (c.predictor.spec.mpp, -c.macs))
    named: list[Contender] = []
    for one in found:
        name = f"student {10 / one.predictor.spec.mpp:g}x"
        if one.predictor.spec.upsample > 1:
            name += f" input x{one.predictor.spec.upsample}"
        same = sum(n.name.split(" (")[0] == name for n in named)
        named.append(replace(one, name=f"{name} ({same + 1})" if same else name))
    return named


def open_untrained(
    arch: str,
    magnifications: tuple[float, ...],
    patch_size: int,
    device: str,
    settings: PredictSettings,
) -> tuple[Contender, ...]:
    """One untrained network at two magnifications, to measure times. Raises ConfigError."""
    if len(magnifications) != 2:
        raise ConfigError("--arch", "compares two magnifications", "give --mag twice")
    mpps = sorted(mpp_of_magnification(m) for m in magnifications)
    sizes = patch_sizes(mpps, patch_size, patch_size)
    classes: Any = ("NC", "G3", "G4", "G5")
    pair = []
    for name, mpp, (patch_px, _) in zip(("teacher", "student"), mpps, sizes, strict=True):
        torch.manual_seed(0)
        network = build_grader(arch, len(classes))
        spec = InputSpec(mpp, patch_px, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), classes)
        predictor = SlidePredictor(network, spec, device=device, settings=settings)
        pair.append(Contender(name, predictor, macs(network, patch_px), trained=False))
    return tuple(pair)


def write_comparison(record: Mapping[str, Any], out: Path) -> str:
    """Write ``bench.json``, ``bench.md``, ``bench.png`` and, for trained networks, ``kappa.png``.

    Args:
        record: the result of :func:`wsikd.grade.bench.run.run_bench`.
        out: the folder.

    Returns:
        The tables, as Markdown.

    Raises:
        OutputError: a file cannot be written.
    """
    write_json_atomic(out / "bench.json", record)
    text = to_markdown(dict(record))
    write_text_atomic(out / "bench.md", text)
    pictures = {"bench.png": plot}
    if "points" in record:
        pictures["kappa.png"] = plot_trade
    for name, draw in pictures.items():
        with aside(out / name, keep_suffix=True) as part:
            draw(dict(record), part)
    return text
