"""What small networks grade right on slides that they have not seen: four folds."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from benchmarks.studies.guard.data import FLUORESCENCE
from wsikd.models.graders.pooled import build_grader

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmarks.studies.guard.data import Patches
    from wsikd.models.graders.pooled import Grader

    Arrays = dict[str, NDArray[np.generic]]

log = logging.getLogger("benchmarks.guard")
FOLDS, EPOCHS, WIDTH, BATCH, RATE = 4, 8, 0.5, 32, 3e-3


def parts(slides: NDArray[np.str_], fold: int, seed: int = 17) -> NDArray[np.str_]:
    """ "test" for a quarter of the slides, "val" for another, else "train": str (N,)."""
    names = np.unique(slides)
    place = np.random.default_rng(seed).permutation(len(names)) % FOLDS
    part = np.where(place == fold, "test", np.where(place == (fold + 1) % FOLDS, "val", "train"))
    return np.asarray(part[np.searchsorted(names, slides)])


def fold_hits(own: Patches, fold: int) -> Arrays:
    """Train on a fold; which of the altered patches of its test slides are graded right.

    Returns:
        "altered_index": those among ``own.chosen``; for each alteration NAME, and "none",
        "hit/NAME": bool.
    """
    part = parts(own.slide, fold)
    network = trained(own, np.flatnonzero((part == "train") & (own.label >= 0)), seed=fold)
    test = part[own.chosen] == "test"
    chosen = own.chosen[test]
    found: Arrays = {"altered_index": chosen}
    altered = {k: v[test] for k, v in own.altered.items() if k != FLUORESCENCE}
    shown = {"none": own.image[chosen], **altered}
    for name, images in shown.items():
        found[f"hit/{name}"] = classes(network, images) == own.label[chosen]
    log.info("fold %d: accuracy on test %.3f", fold, found["hit/none"].mean())
    return found


def trained(own: Patches, indices: NDArray[np.int64], seed: int) -> Grader:
    """A small VGG, trained from random weights with flips and jitter of brightness."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    classes = int(own.label.max()) + 1
    network = build_grader("vgg_small", classes, width=WIDTH)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    count = np.bincount(own.label[indices], minlength=classes)
    weight = torch.tensor(count.sum() / (classes * np.maximum(count, 1)), dtype=torch.float32)
    steps = EPOCHS * (len(indices) // BATCH)
    optimiser = torch.optim.AdamW(network.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps + 1)
    network.train()
    for _ in range(EPOCHS):
        order = rng.permutation(indices)
        for start in range(0, len(order) - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            batch = _tensor(own.image[chosen]).float()
            batch = batch.flip([2 + int(rng.integers(2))]) if rng.random() < 0.5 else batch
            batch = batch * torch.tensor(rng.uniform(0.9, 1.1, (BATCH, 3, 1, 1)).astype("f4"))
            loss = functional.cross_entropy(
                network(batch.clamp(0, 255)), torch.from_numpy(own.label[chosen]), weight
            )
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    network.eval()
    return network  # type: ignore[no-any-return]


@torch.inference_mode()
def classes(network: Grader, images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The class of each patch, int64 (N,)."""
    found = [network(_tensor(images[s : s + 64])).argmax(1) for s in range(0, len(images), 64)]
    return np.asarray(torch.cat(found).numpy(), np.int64)


def _tensor(images: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2)
