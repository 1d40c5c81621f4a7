"""The views of a batch: the patches of teacher and student, augmented by one draw."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from wsikd.learn.data.augment import Chance, augment, bend, draw_turns, recolour, recolours, turned
from wsikd.learn.data.mixing import draw_mix, draw_partners, mix
from wsikd.learn.data.patches import KEPT_AT_ONCE
from wsikd.learn.data.resident import Resident
from wsikd.learn.data.ring import Ring
from wsikd.learn.losses.maps import downsample
from wsikd.learn.methods.base import Batch, view_numbers
from wsikd.models.device import upload

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from wsikd.learn.data.augment import Part
    from wsikd.learn.data.augment_settings import Augment, Mix
    from wsikd.learn.data.patches import PatchSet
    from wsikd.learn.data.settings import Data
    from wsikd.learn.methods.base import Mixed, Progress, Targets, Taught


logger = logging.getLogger(__name__)


class ViewSettings(Protocol):
    """The settings of every method that learns from patches."""

    @property
    def data(self) -> Data:
        """Which patches, and the source of the student's pixels."""

    @property
    def augment(self) -> Augment:
        """How they are changed."""

    @property
    def low_mpp(self) -> float:
        """um per pixel that the trained network reads."""

    @property
    def factor(self) -> float:
        """Pixels of the patches per pixel that the trained network reads."""


@dataclass(frozen=True)
class FrozenMaps:
    """What a student's frozen stages make of N patches in V views.

    Attributes:
        place: row of each patch's index.
        tables: float32 (N, K, h, w) for each view; views behind the first may have fewer rows.
    """

    place: dict[int, int]
    tables: list[Tensor]

    def of(self, indices: NDArray[np.int64], turns: Tensor | None) -> Tensor:
        """The maps of patches (B,), mirrored and turned by bool (3, B); None: as they are."""
        views = [0] * len(indices) if turns is None else view_numbers(turns)
        rows = [self.place[int(i)] for i in indices]
        return torch.stack([self.tables[v][row] for v, row in zip(views, rows, strict=True)])


class Views:
    """Makes batches of patches.

    Attributes:
        targets: the teacher's answers, where they were kept; its view is then not made.
        ring: pinned memory that a GPU's batches are read into.
        resident: what :meth:`read` gives, where a device holds it.
        maps: what the student's frozen stages make of the patches, where it was kept; it takes
            the place of the view "low".
    """

    targets: Targets | None = None
    ring: Ring | None = None
    resident: Resident | None = None
    maps: FrozenMaps | None = None

    def __init__(
        self,
        patches: PatchSet,
        config: ViewSettings,
        wanted: Collection[str],
        *,
        seed: int,
        device: torch.device,
        mix: Mix | None = None,
    ) -> None:
        """Make the views ``wanted`` in training, by a configuration, for one device."""
        self.mix = mix
        self.patches, self.config, self.wanted = patches, config, wanted
        self.seed, self.device = seed, device
        self.factor = round(config.factor)
        if device.type == "cuda":
            self.ring = Ring(device)

    @property
    def averaged(self) -> bool:
        """Whether the averages of patches suffice: turning them is turning the patches first."""
        fine = "high" in self.wanted and self.targets is None
        return self.factor > 1 and not fine and is_enumerable(self.config)

    def read(self, indices: Sequence[int] | NDArray[np.int64]) -> Tensor:
        """The input of :meth:`batch`: patches, or their averages where these suffice.

        Of samples that the device holds it is their rows there, int64 (B,).
        """
        if self.maps is not None and ("high" not in self.wanted or self.targets is not None):
            return torch.empty(len(indices), 0)
        if self.resident is not None and (rows := self.resident.find(indices)) is not None:
            return rows
        if self.averaged:
            return self.patches.averages(indices, self.factor)
        return self.patches.images(indices)

    def hold(self, indices: NDArray[np.int64], budget: int, threads: int) -> None:
        """Hold on the device what a training reads, and the teacher's answers, where they fit.

        Args:
            indices: indices of the training and validation part.
            budget: bytes of the device's memory.
            threads: number of reading threads.
        """
        if self.targets is not None and 0 < self.targets.nbytes <= budget:
            budget -= self.targets.nbytes
            self.targets = self.targets.on(self.device)
        one = self.read(indices[:1])
        size = one.nbytes * len(indices)
        if size > budget:
            return
        logger.info("%.1f GB of patches are held on %s", size / 1e9, self.device)
        values = torch.empty((len(indices), *one.shape[1:]), dtype=one.dtype, device=self.device)
        rows = {int(index): row for row, index in enumerate(indices)}
        reading = self.patches.batches(
            indices, KEPT_AT_ONCE, threads=threads, read=self.read, ring=self.ring
        )
        for number, (images, _) in enumerate(reading):
            start = number * KEPT_AT_ONCE
            values[start : start + len(images)] = upload(images, self.device)
        self.resident = Resident(values, rows)

    def batch(
        self,
        images: Tensor,
        indices: NDArray[np.int64],
        at: Progress | None,
        part: Part | None = None,
    ) -> Batch:
        """Views on the device; ``at`` draws the augmentation, None means none.

        Args:
            images: (B, 3, side, side), of :meth:`read`.
            indices: int64 (B,), of the patches.
            at: where the training stands.
            part: which patches of the step these are; None: all.
        """
        if self.resident is not None and images.ndim == 1:
            images = self.resident.take(images)
        images = upload(images, self.device)
        taught, wanted = None, self.wanted
        if self.maps is not None:
            views, taught = self._kept(images, indices, at, part)
            wanted = tuple(views)
        elif at is None:
            views = {"low": images if self.averaged else downsample(images, self.factor)}
            wanted = ("low",)
        elif self.averaged:
            chance, options = self.chance(at, part), self.config.augment
            turns = torch.zeros(3, len(images), dtype=torch.bool)
            if options.flips:
                turns = draw_turns(len(images), options, chance)
            views = {"low": recolour(turned(images, turns), options, chance)}
            wanted = ("low",)
            if self.targets is not None:
                taught = self.targets.of(indices, turns, self.device)
        else:
            views = self._drawn(images, indices, at, part)
        mixed = None
        if at is not None and self.mix is not None:
            views, mixed = self._mixed({k: views[k].float() for k in wanted}, at, part)
        return Batch(
            views={k: views[k].contiguous(memory_format=torch.channels_last) for k in wanted},
            label=upload(torch.from_numpy(self.patches.label[indices]), self.device),
            slide=tuple(self.patches.slide[i] for i in indices),
            box=torch.from_numpy(indices),
            taught=taught,
            mixed=mixed,
        )

    def _mixed(
        self, views: dict[str, Tensor], at: Progress, part: Part | None
    ) -> tuple[dict[str, Tensor], Mixed | None]:
        """The views of a step, mixed in pairs; by draws that no other depends on."""
        assert self.mix is not None
        low, entropy = views["low"], (self.seed, at.epoch, at.step + 1)
        draw = draw_mix(self.mix, entropy, (low.shape[-2], low.shape[-1]))
        if draw is None:
            return views, None
        generator = torch.Generator()
        state = np.random.SeedSequence((*entropy, 1)).generate_state(1, np.uint64)[0]
        generator.manual_seed(int(state >> np.uint64(1)))
        return mix(views, draw, draw_partners(len(low), Chance(generator, part)))

    def _kept(
        self, images: Tensor, indices: NDArray[np.int64], at: Progress | None, part: Part | None
    ) -> tuple[dict[str, Tensor], Taught | None]:
        """The student's maps, with the patches or the kept answers of the teacher."""
        assert self.maps is not None
        options, turns = self.config.augment, None
        if at is not None:
            turns = torch.zeros(3, len(indices), dtype=torch.bool)
            if options.flips:
                turns = draw_turns(len(indices), options, self.chance(at, part))
        views = {"low": upload(self.maps.of(indices, turns), self.device)}
        if at is None or turns is None or "high" not in self.wanted:
            return views, None
        if self.targets is not None:
            return views, self.targets.of(indices, turns, self.device)
        return views | {"high": turned(images, turns).float()}, None

    def _drawn(
        self, images: Tensor, indices: NDArray[np.int64], at: Progress, part: Part | None
    ) -> dict[str, Tensor]:
        """Both views, from the patches themselves."""
        source, options = self.config.data.low_source, self.config.augment
        low = None if source == "area" else self._stored_low(indices, at, part)
        chance = self.chance(at, part)
        if options.colour_of == "both":
            high = augment(images, options, chance)
            average = downsample(high, self.factor)
        else:
            high = bend(images, options, chance)
            average = recolour(downsample(high, self.factor), options, chance)
        if low is None:
            low = average
        elif source == "mixed":
            toss = chance.rand(len(low)) < 0.5
            low = torch.where(toss[:, None, None, None], low, average)
        return {"high": high, "low": low}

    def chance(self, at: Progress, part: Part | None = None) -> Chance:
        """The chance of a step; the same at every call."""
        entropy = np.random.SeedSequence((self.seed, at.epoch, at.step + 1))
        generator = torch.Generator()
        generator.manual_seed(int(entropy.generate_state(1, np.uint64)[0] >> np.uint64(1)))
        return Chance(generator, part, self.device)

    def _stored_low(self, indices: NDArray[np.int64], at: Progress, part: Part | None) -> Tensor:
        """The slides' own pixels at the student's mpp, augmented by the draw of the high ones."""
        low = upload(self.patches.low_images(indices, self.config.low_mpp), self.device)
        return augment(low, self.config.augment, self.chance(at, part))


def is_enumerable(config: ViewSettings) -> bool:
    """Whether a patch has eight views at most, apart from colours changed after averaging."""
    options = config.augment
    before = recolours(options) and options.colour_of == "both"
    moved = options.moves or options.crop_px
    return config.data.low_source == "area" and not moved and not before
