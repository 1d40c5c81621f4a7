"""Features of small networks that have not seen the slides they are asked about: four folds."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from wsikd.models.graders.pooled import build_grader

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from benchmarks.studies.guard.data import Patches
    from wsikd.models.graders.pooled import Grader

    Arrays = dict[str, NDArray[np.generic]]

log = logging.getLogger("benchmarks.guard")
FOLDS, EPOCHS, WIDTH, BATCH, RATE = 4, 8, 0.5, 32, 3e-3


def parts(slides: NDArray[np.str_], fold: int) -> NDArray[np.str_]:
    """ "test" for a quarter of the slides, "val" for another, else "train": str (N,)."""
    names = np.unique(slides)
    place = np.random.default_rng(17).permutation(len(names)) % FOLDS
    part = np.where(place == fold, "test", np.where(place == (fold + 1) % FOLDS, "val", "train"))
    return np.asarray(part[np.searchsorted(names, slides)])


def fold_features(own: Patches, others: Mapping[str, Patches], fold: int) -> Arrays:
    """Train on a fold and look at everything.

    Returns:
        "part"; "own": features of the set's patches; "hit": whether each was graded right; for
        each alteration NAME "altered/NAME" and "hit/NAME" of the test patches among ``own.chosen``,
        which are "altered_index"; for each other set "other/NAME".
    """
    part = parts(own.slide, fold)
    network = trained(own, np.flatnonzero((part == "train") & (own.label >= 0)), seed=fold)
    features, predicted = look(network, own.image)
    found: Arrays = {"part": part, "own": features, "hit": predicted == own.label}
    test = part[own.chosen] == "test"
    chosen = own.chosen[test]
    found["altered_index"] = chosen
    for name, images in own.altered.items():
        found[f"altered/{name}"], guess = look(network, images[test])
        found[f"hit/{name}"] = guess == own.label[chosen]
    for name, other in others.items():
        found[f"other/{name}"] = look(network, other.image)[0]
    known = (part == "test") & (own.label >= 0)
    log.info("fold %d: accuracy on test %.3f", fold, found["hit"][known].mean())
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
def look(
    network: Grader, images: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """What a guard reads (N, F), see ``Grader.with_features``, and the class of each patch."""
    rows, found = [], []
    for start in range(0, len(images), 64):
        logits, features = network.with_features(_tensor(images[start : start + 64]))
        rows.append(features.numpy())
        found.append(logits.argmax(1).numpy())
    return np.concatenate(rows), np.concatenate(found)


def _tensor(images: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2)
