"""A bundle with its graph, for computers without PyTorch."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np

from wsikd.core.errors import BundleError, OutputError
from wsikd.core.output.markers import BUNDLE
from wsikd.core.output.place import Place
from wsikd.grade.engines import Network
from wsikd.grade.engines import Place as Seat
from wsikd.grade.engines.graph import write_graph
from wsikd.grade.engines.with_openvino import OpenVinoEngine
from wsikd.models.feature_guard import FeatureGuard

if TYPE_CHECKING:
    from pathlib import Path

    from wsikd.models.files.bundle import StudentBundle

LIMIT = 1e-4
_RANDOM = 8


def carry(bundle: StudentBundle, folder: Path, *, overwrite: bool = False) -> float:
    """Copy a bundle and add its graph, with which ``wsikd infer`` needs no PyTorch.

    Args:
        bundle: the student.
        folder: output folder; made, or replaced if it holds a network and ``overwrite`` is set.
        overwrite: replace an earlier copy.

    Returns:
        Greatest difference of a logit between OpenVINO and PyTorch over 8 random patches, as a
        share of the greatest logit.

    Raises:
        BundleError: the graph computes other values, or the guard needs PyTorch.
        ConfigError: the network has no graph, or OpenVINO is not installed.
        OutputError: the folder holds something else, or cannot be written.
    """
    place = Place(folder, BUNDLE, folder, [bundle.path], whole=True)
    if place.taken():
        place.may_replace()
        if not overwrite:
            raise OutputError(folder, "holds a network", "choose another -o, or pass --overwrite")
    if isinstance(bundle.guard, FeatureGuard):
        fault = "its guard is of an early wsikd, which computes it with PyTorch"
        raise BundleError(bundle.path, fault, "train the student again")
    with place.made() as part:
        for file in (bundle.path / "card.json", *bundle.path.glob("*.safetensors")):
            shutil.copyfile(file, part / file.name)
        network = Network(bundle.network, bundle.spec.patch_px, bundle.key, part)
        write_graph(network, part)
        difference = _difference(network, bundle)
        if not difference <= LIMIT:
            fault = f"its graph gives other logits, by {difference:.2g} of the greatest"
            raise BundleError(bundle.path, fault, "report this")
    return difference


def _difference(network: Network, bundle: StudentBundle) -> float:
    import torch

    side, rng = bundle.spec.patch_px, np.random.default_rng(0)
    patches = rng.integers(0, 256, (_RANDOM, side, side, 3), dtype=np.uint8)
    with torch.no_grad():
        wanted = bundle.network()(torch.from_numpy(patches).permute(0, 3, 1, 2)).numpy()
    found = OpenVinoEngine(network, Seat())(patches)
    return float(np.abs(found - wanted).max() / max(1.0, float(np.abs(wanted).max())))
