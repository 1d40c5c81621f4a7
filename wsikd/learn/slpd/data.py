"""Regions as a training reads them: which take part, and the views that are cut from them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from wsikd.core.errors import ConfigError, DataError
from wsikd.learn.data.prefetch import read_ahead
from wsikd.learn.methods.base import Batch
from wsikd.models.device import upload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from wsikd.bags.region_table import RegionTable
    from wsikd.learn.data.augment import Part
    from wsikd.learn.methods.base import Progress
    from wsikd.learn.slpd.method import RegionCrops, RegionData

logger = logging.getLogger(__name__)


@dataclass
class RegionSet:
    """The regions of a training; all of them are learnt from.

    Attributes:
        table: R regions of N slides.
    """

    table: RegionTable

    def __len__(self) -> int:
        return len(self.table.slide_index)

    @property
    def label(self) -> NDArray[np.int64]:
        """int64 (R,), all 0: regions have no class here."""
        return np.zeros(len(self), np.int64)

    @property
    def digests(self) -> list[str]:
        """Identity of the data, for resumed runs."""
        return [self.table.digest]

    def indices(self, split: str) -> NDArray[np.int64]:
        """All regions for "train", none for other parts: int64."""
        return np.arange(len(self) if split == "train" else 0)

    def batches(
        self,
        order: NDArray[np.int64],
        size: int,
        *,
        threads: int = 2,
        read: Callable[[NDArray[np.int64]], Tensor] | None = None,
    ) -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
        """Regions in this order, read some batches before their use.

        Args:
            order: int64 (M,), indices.
            size: regions in a batch.
            threads: number of threads that read ahead.
            read: what is read of a batch; None: :meth:`read`.

        Yields:
            float32 (B, D, g, g), and the indices.
        """
        yield from read_ahead(order, size, threads, read or self.read)

    def read(self, indices: NDArray[np.int64]) -> Tensor:
        """Grids of regions, float32 (B, D, g, g). Raises DataError."""
        return torch.from_numpy(self.table.read(indices))


def load_regions(data: RegionData) -> RegionSet:
    """List the regions of a configuration, leaving out the slides that are not used.

    Raises:
        ConfigError: ``data.leave_out`` names what is not there.
        DataError: there are none, or they cannot be used.
    """
    from wsikd.bags.region_table import open_regions

    if not data.paths:
        raise ConfigError("data.paths", "lists no regions", "give --data FOLDER, or set it")
    table = open_regions(data.paths)
    unknown = set(data.leave_out) - set(table.slides) - set(table.patients)
    if unknown:
        raise ConfigError(
            f"data.leave_out {min(unknown)}", "is neither a slide nor a patient of these regions",
            "name them as the grids do",
        )  # fmt: skip
    keep = [
        i for i, (slide, patient, part) in enumerate(
            zip(table.slides, table.patients, table.splits, strict=True)
        )
        if not {slide, patient} & set(data.leave_out)
        and (data.splits is None or part is None or part in data.splits)
    ]  # fmt: skip
    if not keep:
        raise DataError("regions", "are none that take part", "change data.splits, data.leave_out")
    if len(keep) < len(table.slides):
        logger.info("%d of %d slides take part", len(keep), len(table.slides))
        table = table.only(keep)
    return RegionSet(table)


def check_crops(crops: RegionCrops, shape: Sequence[int]) -> None:
    """Refuse views that are larger than a region (D, g, g). Raises ConfigError."""
    if shape[1] != shape[2]:
        raise ConfigError("regions", f"are {shape[1]} x {shape[2]} tiles", "give square ones")
    if crops.global_grid > shape[1]:
        raise ConfigError(
            f"crops.global_grid {crops.global_grid}",
            f"is more than the {shape[1]} x {shape[1]} tiles of a region",
            f"set crops.global_grid={max(1, shape[1] * 7 // 8)} and "
            f"crops.local_grid={max(1, shape[1] * 3 // 8)}",
        )


def crop(x: Tensor, top: Tensor, left: Tensor, side: int, turned: Tensor) -> Tensor:
    """Squares of a grid, each view of each region its own, turned as asked.

    Args:
        x: (B, D, g, g).
        top: int64 (V, B), first row.
        left: int64 (V, B), first column.
        side: side of the squares.
        turned: bool (3, V, B): columns reversed, rows reversed, rows taken for columns.

    Returns:
        (V, B, D, side, side), the channels last in memory.
    """
    count, dim, g, _ = x.shape
    steps = torch.arange(side, device=x.device)
    mirrored, upside, transposed = (t[..., None] for t in turned)
    rows = top[..., None] + torch.where(upside, side - 1 - steps, steps)  # (V, B, side)
    columns = left[..., None] + torch.where(mirrored, side - 1 - steps, steps)
    place = rows[..., :, None] * g + columns[..., None, :]
    place = torch.where(transposed[..., None], place.transpose(2, 3), place)
    place = place + g * g * torch.arange(count, device=x.device)[:, None, None]
    tokens = x.flatten(2).transpose(1, 2).reshape(-1, dim)
    found = tokens.index_select(0, place.flatten()).view(*place.shape, dim)
    return found.permute(0, 1, 4, 2, 3)


def centre(x: Tensor, side: int) -> Tensor:
    """The middle of grids: (B, D, g, g) -> (B, D, side, side)."""
    first = (x.shape[2] - side) // 2
    return x[:, :, first : first + side, first : first + side]


class RegionViews:
    """Cuts views; the counterpart of ``wsikd.learn.data.views.Views``.

    What is drawn for a region depends on seed, epoch, step and its place in the whole batch, not on
    how many processes divide the batch.
    """

    def __init__(
        self, regions: RegionSet, crops: RegionCrops, device: torch.device, *, seed: int
    ) -> None:
        """For one device."""
        self.regions, self.crops, self.device, self.seed = regions, crops, device, seed

    def read(self, indices: NDArray[np.int64]) -> Tensor:
        """Regions float32 (B, D, g, g)."""
        return self.regions.read(indices)

    def batch(
        self,
        grids: Tensor,
        indices: NDArray[np.int64],
        at: Progress | None,
        part: Part | None = None,
    ) -> Batch:
        """Views "global" (G, B, D, h, h) and "local" (L, B, D, l, l) of this process's part."""
        assert at is not None
        assert part is not None
        crops = self.crops
        rng = np.random.default_rng((self.seed, 1, at.epoch, at.step))
        x = upload(grids, self.device)
        views = {}
        for name, side, count in (
            ("global", crops.global_grid, crops.global_views),
            ("local", crops.local_grid, crops.local_views),
        ):
            free = x.shape[2] - side + 1
            own = slice(part.start, part.start + len(indices))
            corner = rng.integers(0, free, (2, count, part.whole))[..., own]
            chance = np.array([crops.hflip, 0.5 * crops.vflip, 0.5 * crops.transpose])
            turned = rng.random((3, count, part.whole))[..., own] < chance[:, None, None]
            top, left = upload(torch.from_numpy(corner), self.device)
            views[name] = crop(x, top, left, side, upload(torch.from_numpy(turned), self.device))
        table = self.regions.table
        slide = table.slide_index[indices].tolist()
        return Batch(
            views=views,
            label=torch.zeros(len(indices), dtype=torch.int64, device=self.device),
            slide=tuple(table.slides[s] for s in slide),
            box=upload(torch.from_numpy(np.asarray(indices)), self.device),
        )
