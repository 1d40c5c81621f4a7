"""The maps that a student's frozen stages make of each patch and view, computed once and kept.

Where augmentation only mirrors and turns, a patch has eight views, and what frozen stages make of a
view never changes. The later stages are then trained on these maps. They are what the stages would
give in the step, but for the last digits of sums in other batches.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import torch

from wsikd.core.errors import ConfigError
from wsikd.learn.data.augment import recolours, turned
from wsikd.learn.data.views import FrozenMaps, is_enumerable
from wsikd.learn.losses.maps import downsample
from wsikd.models.backbones.freeze import enter_at_frozen, leave_frozen
from wsikd.models.device import upload

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from wsikd.learn.data.patches import PatchSet
    from wsikd.learn.methods.base import Method
    from wsikd.learn.patch.settings import RunConfig
    from wsikd.models.graders.pooled import Grader

logger = logging.getLogger(__name__)


def why_not(config: RunConfig, method: Method) -> tuple[str, str] | None:
    """Fault and remedy where the maps cannot be kept, None where they can."""
    if not config.network.freeze:
        return "no stage is frozen", "set network.freeze"
    if not is_enumerable(config) or recolours(config.augment):
        return (
            "the views of a patch cannot be counted",
            "turn off crop_px, rotate_deg, scale and colours of augment",
        )
    if config.mix.used:
        return "mixtures of patches have no kept maps", "set mix.mixup and mix.cutmix to 0"
    if config.optim.precision.endswith("mixed"):
        return "the maps are kept in single precision", "set optim.precision=32-true"
    if config.optim.compile:
        return "compiled backbones take patches", "set optim.compile=false"
    lower = [n for n in method.taps_read() if n in method.student.backbone.frozen[:-1]]
    if lower:
        return f"a loss term reads the frozen map {lower[0]}", "name later taps, or freeze less"
    return None


def open_maps(
    config: RunConfig,
    method: Method,
    patches: PatchSet,
    *,
    batch_size: int,
    limit_gb: float,
    threads: int,
) -> FrozenMaps | None:
    """The kept maps of a run; the student then takes maps instead of patches.

    Args:
        config: of the run.
        method: on its device.
        patches: the training part in every view, the validation part as it is.
        batch_size: patches that are computed at a time.
        limit_gb: memory for the maps, in 1e9 bytes.
        threads: that read.

    Returns:
        None where the stages are computed in every step: ``frozen_cache`` is off, or auto and
        keeping the maps is not possible, does not pay or does not fit into ``data.cache_gb``.

    Raises:
        ConfigError: ``frozen_cache`` is ram, and the maps cannot be kept.
    """
    if config.frozen_cache == "off":
        return None
    fault = why_not(config, method)
    views = 8 if config.augment.flips else 1
    train, val = patches.trained_on, patches.indices("val")
    if fault is None:
        student = method.student
        one = _maps(student, _averages(config, patches, train[:1]))
        values = (views * len(train) + len(val)) * one[0].numel()
        if values * 4 > limit_gb * 1e9:
            fault = (
                f"the maps take {values * 4 / 1e9:.1f} GB",
                "raise data.cache_gb or freeze a later stage",
            )
    optim = config.optim
    asked = optim.epochs * (optim.epoch_patches or len(train))
    if config.frozen_cache == "auto" and (fault or asked <= views * len(train)):
        return None
    if fault is None and not enter_at_frozen(student.backbone):
        fault = f"{config.network.arch} cannot be run from the middle", "use a network of stages"
    if fault is None:
        leave_frozen(student.backbone)
        maps = _made(config, student, patches, views, (batch_size, threads))
        enter_at_frozen(student.backbone)
        return maps
    if config.frozen_cache == "auto":
        return None
    raise ConfigError(f"frozen_cache {config.frozen_cache}", *fault)


def _made(
    config: RunConfig, student: Grader, patches: PatchSet, views: int, reading: tuple[int, int]
) -> FrozenMaps:
    train, val = patches.trained_on, patches.indices("val")
    logger.info("computing the frozen stages: %d patches, %d views", len(train), views)
    every = np.concatenate([train, val])
    place = {int(index): row for row, index in enumerate(every)}
    device, tables = student.mean.device, list[torch.Tensor]()
    for view in range(views):
        flags = torch.tensor([bool(view & bit) for bit in (1, 2, 4)])[:, None]
        chosen = every if view == 0 else train
        table: Tensor | None = None
        start = 0
        for images, indices in patches.batches(
            chosen, reading[0], threads=reading[1],
            read=lambda part: _averages(config, patches, part),
        ):  # fmt: skip
            made = _maps(
                student, turned(upload(images, device), flags.expand(3, len(indices)))
            ).cpu()
            if table is None:
                table = torch.empty(len(chosen), *made.shape[1:])
            table[start : start + len(made)] = made
            start += len(made)
        assert table is not None
        tables.append(table)
    return FrozenMaps(place, tables)


def _averages(config: RunConfig, patches: PatchSet, indices: NDArray[np.int64]) -> Tensor:
    factor = round(config.factor)
    if factor == 1:
        return downsample(patches.images(indices), 1)
    return patches.averages(indices, factor)


@torch.no_grad()
def _maps(student: Grader, images: Tensor) -> Tensor:
    """What the frozen stages make of patches (B, 3, H, W): float32 (B, K, h, w)."""
    training = student.training
    student.eval()
    patches = images.to(student.mean.device).contiguous(memory_format=torch.channels_last)
    found = student.backbone.run_to(student.normalise(patches), student.backbone.frozen[-1])
    student.train(training)
    return found
