"""Patches in memory or on demand: one index over all sources, and batches of them."""

from __future__ import annotations

import logging
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from wsikd.core.classes import benign_of, in_order
from wsikd.core.errors import ConfigError, DataError
from wsikd.learn.data.joined import join
from wsikd.learn.data.prefetch import read_ahead
from wsikd.learn.data.sources import StoreSource, open_sources
from wsikd.learn.data.splits import (
    EXTRA,
    LEFT_OUT,
    check_leaks,
    deal_folds,
    groups_of,
    keep_share,
)
from wsikd.learn.data.unlabelled import divide
from wsikd.learn.losses.maps import downsample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from wsikd.learn.data.ring import Ring
    from wsikd.learn.data.settings import Data, Split
    from wsikd.learn.data.source_base import Source

logger = logging.getLogger(__name__)
KEPT_AT_ONCE = 64


class _Averages(NamedTuple):
    """Averages of patches, float32 (N, 3, side, side), and the row of each patch."""

    values: Tensor
    rows: dict[int, int]


@dataclass
class PatchSet:
    """Patches of one size and resolution.

    Attributes:
        label: int64 (N,), index into ``classes``; -1 for patches without a label.
        slide: name of each patch's slide.
        split: str (N,), "train", "val" or "test"; "none" for what ``Split.share`` leaves out,
            "extra" for what is trained on without a label.
        classes: names in order.
        mpp: um per pixel.
        patch_px: side in pixels.
        field_mm2: area of a patch in mm2, where patches tile their slide without overlap.
        tissue: float64 (N,), share of each patch that is tissue; 1 where it is not known.
        digests: identity of every source, sorted; no names, since they go into the card.
        group: what is resampled together: each patch's patient where known, else its slide.
        content: digest of each patch's image file, or of the scan it was cut from; None where
            neither is known.
        named_benign: the classes that are not cancer, None: found by their names.
        named_ordered: whether the classes are in order, None: found by their names.
        val_by: as ``Split.val_by``; "slide": patients of the validation part are trained on too.
        unlabelled: patches without a label are trained on.
        memo: what trainings on these patches share, e.g. a teacher's answers.
    """

    label: NDArray[np.int64]
    slide: list[str]
    split: NDArray[np.str_]
    classes: tuple[str, ...]
    mpp: float
    patch_px: int
    field_mm2: float | None
    tissue: NDArray[np.float64]
    digests: list[str]
    _readers: list[tuple[Source, int]] = field(repr=False)
    _cache: dict[int, int] = field(default_factory=dict, repr=False)
    _images: Tensor | None = field(default=None, repr=False)
    group: list[str] = field(default_factory=list, repr=False)
    named_benign: tuple[str, ...] | None = None
    named_ordered: bool | None = None
    val_by: str = "group"
    content: list[str | None] = field(default_factory=list, repr=False)
    _low: dict[tuple[int, float], Tensor] = field(default_factory=dict, repr=False)
    _averages: dict[int, _Averages] = field(default_factory=dict, repr=False)
    memo: dict[str, Any] = field(default_factory=dict, repr=False)
    unlabelled: bool = False

    def __len__(self) -> int:
        return len(self.label)

    @property
    def benign(self) -> tuple[int, ...]:
        """Places of the classes that are not cancer; empty if unknown."""
        return benign_of(self.classes, self.named_benign)

    @property
    def ordered(self) -> bool:
        """Whether the classes are in order of severity."""
        return in_order(self.classes) if self.named_ordered is None else self.named_ordered

    def indices(self, split: str) -> NDArray[np.int64]:
        """Indices of the patches of a split, int64."""
        return np.flatnonzero(self.split == split)

    @property
    def trained_on(self) -> NDArray[np.int64]:
        """Indices of the training part, with a label or without, int64."""
        return np.flatnonzero(np.isin(self.split, ("train", EXTRA)))

    def places(self, indices: NDArray[np.int64]) -> list[Path]:
        """The stores, folders or files that these patches come from, each once."""
        return list(dict.fromkeys(self._readers[i][0].path for i in indices))

    def read(self, index: int) -> Tensor:
        """One patch, centre-cropped to ``patch_px``: uint8 (3, side, side). Raises DataError."""
        source, row = self._readers[index]
        image = source.read(row)
        height, width = image.shape[:2]
        if min(height, width) < self.patch_px:
            raise DataError(
                source.path,
                f"a patch is {width} x {height} px, smaller than {self.patch_px}",
                f"set data.patch_px to at most {min(height, width)}",
            )
        return _centre(image, self.patch_px)

    def check_low(self, mpp: float) -> None:
        """Raises DataError where a source holds no pixels of the slide's own level at ``mpp``."""
        for source in {id(s): s for s, _ in self._readers}.values():
            if not isinstance(source, StoreSource):
                raise DataError(
                    source.path, "is not a tile store, so it has one resolution",
                    "set data.low_source=area",
                )  # fmt: skip
            source.check_low(mpp)

    def low_images(self, indices: Sequence[int] | NDArray[np.int64], mpp: float) -> Tensor:
        """The same fields as the slide's own level shows them, kept in memory once read.

        Args:
            indices: indices of the patches.
            mpp: um per pixel, coarser than ``self.mpp``; see :meth:`check_low`.

        Returns:
            uint8 (B, 3, side, side), the side that many times smaller.
        """
        side = round(self.patch_px * self.mpp / mpp)
        found = []
        for index in map(int, indices):
            image = self._low.get((index, mpp))
            if image is None:
                source, row = self._readers[index]
                assert isinstance(source, StoreSource)
                image = _centre(source.read_low(row, mpp), side)
                if self._images is not None:
                    self._low[index, mpp] = image
            found.append(image)
        return torch.stack(found)

    def keep(self, indices: NDArray[np.int64], limit_gb: float, threads: int) -> bool:
        """Decode these patches into memory unless they need more than ``limit_gb`` (1e9 bytes)."""
        if self._images is not None and all(int(i) in self._cache for i in indices):
            return True
        size = len(indices) * 3 * self.patch_px**2
        if size > limit_gb * 1e9:
            logger.info("%.1f GB of patches stay on disk (data.cache_gb)", size / 1e9)
            return False
        images = torch.empty(len(indices), 3, self.patch_px, self.patch_px, dtype=torch.uint8)

        def fill(place: int) -> None:
            images[place] = self.read(int(indices[place]))

        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(fill, range(len(indices))):
                pass
        self._images, self._cache = images, {int(i): n for n, i in enumerate(indices)}
        self._averages.clear()
        return True

    def images(self, indices: Sequence[int] | NDArray[np.int64]) -> Tensor:
        """Patches: uint8 (B, 3, side, side)."""
        wanted = [int(i) for i in indices]
        if self._images is not None and all(i in self._cache for i in wanted):
            return self._images[[self._cache[i] for i in wanted]]
        return torch.stack([self.read(i) for i in wanted])

    def averages(self, indices: Sequence[int] | NDArray[np.int64], factor: int) -> Tensor:
        """Patches averaged over squares of ``factor`` pixels: float32, not rounded; see ``keep``.

        Args:
            indices: indices of the patches.
            factor: pixels that become one, along a side.

        Returns:
            (B, 3, side / factor, side / factor), 0 to 255.
        """
        kept = self._averages.get(factor)
        if kept is None or not all(int(i) in kept.rows for i in indices):
            return downsample(self.images(indices), factor)
        return kept.values[[kept.rows[int(i)] for i in indices]]

    def keep_averages(
        self, factor: int, limit_gb: float, indices: NDArray[np.int64], threads: int
    ) -> None:
        """Hold the averages of patches in memory too, unless they need over ``limit_gb``.

        Where the patches themselves do not fit, each is decoded once for its average.

        Args:
            factor: pixels that become one, along a side.
            limit_gb: in 1e9 bytes.
            indices: indices of the patches, those of :meth:`keep`.
            threads: number of reading threads.
        """
        side = round(self.patch_px / factor)
        if factor in self._averages or len(indices) * 3 * side**2 * 4 > limit_gb * 1e9:
            return
        made = torch.empty(len(indices), 3, side, side)
        rows = {int(index): row for row, index in enumerate(indices)}
        for images, chosen in self.batches(indices, KEPT_AT_ONCE, threads=threads):
            made[[rows[int(i)] for i in chosen]] = downsample(images, factor)
        self._averages[factor] = _Averages(made, rows)

    def batches(
        self,
        order: NDArray[np.int64],
        size: int,
        *,
        threads: int = 2,
        drop_last: bool = False,
        read: Callable[[NDArray[np.int64]], Tensor] | None = None,
        ring: Ring | None = None,
    ) -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
        """Patches in this order, read some batches before their use.

        Args:
            order: int64 (M,), indices.
            size: patches in a batch.
            threads: number of threads that read ahead.
            drop_last: leave out an incomplete last batch, unless it is the only one.
            read: what is read of a batch; None: :meth:`images`.
            ring: see ``read_ahead``.

        Yields:
            What was read, e.g. uint8 (B, 3, side, side), and the indices.
        """
        rest = len(order) % size
        if drop_last and rest and len(order) > size:
            order = order[:-rest]
        parts = 1 if self._images is not None else max(1, min(threads, size))
        yield from read_ahead(order, size, threads, read or self.images, parts=parts, ring=ring)


def _centre(image: NDArray[np.uint8], side: int) -> Tensor:
    """The middle of an image: uint8 (height, width, 3) -> (3, side, side)."""
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    crop = image[top : top + side, left : left + side].transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(crop))


def load_patches(data: Data, split: Split, *, undivided: str | None = None) -> PatchSet:
    """List the patches of a run and divide them; nothing is decoded yet but one.

    Args:
        data: where they are.
        split: how they are divided.
        undivided: name that all patches get where the data bring no split, instead of drawing one;
            no split is then required to have patches.

    Raises:
        DataError: no labelled patches, sources that disagree, unknown classes, a leak.
        StoreError: a tile store cannot be used.
    """
    sources = open_sources(data)
    found = join(sources, data)
    readers = [(source, row) for source in sources for row in source.listing.row]
    if undivided is None:
        names = divide(found, split)
    else:
        given = [g or undivided for g in found.given]
        names = np.where(found.label < 0, "", np.array(given, dtype="U5"))
    if (used := np.flatnonzero(names != "")).size < len(names):
        found, names = found.only(used), names[used]
        readers = [readers[i] for i in used]
    patch_px = data.patch_px or _side(readers[0])
    areas = {s.field_mm2 for s in sources}
    patches = PatchSet(
        found.label, found.slide, names, found.classes, data.mpp, patch_px,
        areas.pop() if len(areas) == 1 and data.patch_px is None else None,
        np.asarray(found.tissue, np.float64), sorted(s.digest for s in sources), readers,
        group=groups_of(found.slide, found.patient, "auto"),
        named_benign=None if data.benign is None else tuple(data.benign),
        named_ordered=data.ordered, val_by=split.val_by, unlabelled=data.unlabelled,
    )  # fmt: skip
    _check_copies(patches, files=split.check_images)
    patches = without_fold(with_share(patches, split), split)
    _report(patches)
    return patches


def with_share(patches: PatchSet, split: Split) -> PatchSet:
    """The same patches, but for the training slides that ``split.share`` leaves out.

    What was decoded is shared. Raises DataError as ``splits.groups_of``.
    """
    if split.share >= 1:
        return patches
    groups = patches.group if split.by == "auto" else list(patches.slide)
    names = keep_share(patches.split, patches.label, groups, split.share, split.share_seed)
    label = patches.label
    if patches.unlabelled:  # their labels are hidden
        hidden = names == LEFT_OUT
        names = np.where(hidden, EXTRA, names)
        label = np.where(hidden, -1, label)
    return replace(
        patches,
        split=names,
        label=label,
        _averages=dict(patches._averages),
    )


def without_fold(patches: PatchSet, split: Split) -> PatchSet:
    """The same patches, but for the fold of the training part that ``split.crossfit`` leaves out.

    Patches without a label go with the slides and patients of that fold. What was decoded is
    shared.

    Raises:
        ConfigError: there is no such fold.
        DataError: there are fewer slides or patients than folds.
    """
    if split.crossfit is None:
        return patches
    if split.leave_out >= split.crossfit:
        raise ConfigError(
            "split.leave_out", f"{split.leave_out} is none of {split.crossfit} folds",
            "use whole numbers from 0",
        )  # fmt: skip
    train = patches.indices("train")
    groups = [patches.group[i] for i in train]
    fold = deal_folds(
        patches.label[train], groups, split.crossfit, split.seed, key="split.crossfit"
    )
    chosen = train[fold == split.leave_out]
    left = {patches.group[i] for i in chosen} | {f"slide {patches.slide[i]}" for i in chosen}
    names = patches.split.copy()
    names[chosen] = LEFT_OUT
    for i in patches.indices(EXTRA):
        if left & {patches.group[i], f"slide {patches.slide[i]}"}:
            names[i] = LEFT_OUT
    return replace(patches, split=names, _averages=dict(patches._averages))


def _side(reader: tuple[Source, int]) -> int:
    height, width = reader[0].read(reader[1]).shape[:2]
    if height != width:
        raise DataError(
            reader[0].path, f"patches are {width} x {height} px, not square", "set data.patch_px"
        )
    return int(height)


def _check_copies(patches: PatchSet, *, files: bool) -> None:
    """Refuse the same slide under two names, and the same image file, in two splits.

    What was compared stays in ``patches.content``.
    """
    slides = [s.fingerprint if isinstance(s, StoreSource) else None for s, _ in patches._readers]
    patches.content = slides
    parts = np.where(patches.split == EXTRA, "train", patches.split)
    check_leaks(parts, slides, patches.slide, "one slide under two names")
    if files:
        with ThreadPoolExecutor(4) as pool:
            hashes = list(pool.map(lambda r: r[0].image_hash(r[1]), patches._readers))
        patches.content = [h or s for h, s in zip(hashes, slides, strict=True)]
        seen: dict[str, int] = {}
        for i, digest in enumerate(hashes):
            if digest is None or parts[seen.setdefault(digest, i)] == parts[i]:
                continue
            twin = seen[digest]
            raise DataError(
                f"slide {patches.slide[i]}",
                f"an image in {parts[i]} is also in {parts[twin]}, in slide {patches.slide[twin]}",
                "remove one of them",
            )


def _report(patches: PatchSet) -> None:
    if patches.unlabelled:
        extra = patches.indices(EXTRA)
        count = len({patches.slide[i] for i in extra})
        logger.info("train: %d patches of %d slides without a label", len(extra), count)
    for name in ("train", "val", "test"):
        chosen = patches.indices(name)
        counts = Counter(patches.label[chosen].tolist())
        per = ", ".join(f"{c} {counts[i]}" for i, c in enumerate(patches.classes))
        slides = len({patches.slide[i] for i in chosen})
        if len(chosen):
            logger.info("%s: %d patches of %d slides (%s)", name, len(chosen), slides, per)
        for i, c in enumerate(patches.classes):
            if name == "train" and not counts[i]:
                logger.warning("no training patch of class %s: the network cannot learn it", c)
