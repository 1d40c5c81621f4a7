"""Labelled bags of slides: which there are, how they are divided, and batches of them."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from wsikd.bags.bag import Bag, find_bags, open_bag
from wsikd.core.errors import DataError
from wsikd.core.reading import parse_csv
from wsikd.core.registry import nearest
from wsikd.learn.data.prefetch import read_ahead
from wsikd.learn.data.splits import assign, groups_of, keep_share
from wsikd.learn.engine.on_machine import cache_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from wsikd.learn.data.settings import Split
    from wsikd.learn.mil.method import BagData

logger = logging.getLogger(__name__)


@dataclass
class BagSet:
    """Labelled bags of one encoder.

    Attributes:
        bags: N of them.
        label: int64 (N,), index into ``classes``.
        split: str (N,), "train", "val" or "test"; "none" for what ``Split.share`` leaves out.
        classes: names in order.
        group: what is resampled together: the patient where known, else the slide.
        left_out: slide -> why it is left out.
        digests: identity of the data, for resumed runs; no names, since they go into the card.
    """

    bags: list[Bag]
    label: NDArray[np.int64]
    split: NDArray[np.str_]
    classes: tuple[str, ...]
    group: list[str]
    left_out: dict[str, str]
    digests: list[str]
    cache_gb: float = 4.0
    _cache: dict[int, Tensor] = field(default_factory=dict, repr=False)
    _held: int = 0

    def __len__(self) -> int:
        return len(self.label)

    @property
    def slide(self) -> list[str]:
        """Name of each bag's slide."""
        return [bag.info.slide for bag in self.bags]

    @property
    def dim(self) -> int:
        """Numbers in an embedding."""
        return self.bags[0].dim

    @property
    def encoder(self) -> dict[str, object]:
        """The encoder of the embeddings, by the bags."""
        return dict(self.bags[0].info.encoder)

    def indices(self, split: str) -> NDArray[np.int64]:
        """Indices of the bags of a split, int64."""
        return np.flatnonzero(self.split == split)

    def features(self, index: int) -> Tensor:
        """Embeddings of a bag, float32 (n, D), kept in memory while there is room."""
        if (kept := self._cache.get(index)) is not None:
            return kept
        found = torch.from_numpy(self.bags[index].features())
        size = found.numel() * 4
        if self._held + size <= self.cache_gb * 1e9:
            self._cache[index] = found
            self._held += size
        return found

    def batches(
        self,
        order: NDArray[np.int64],
        size: int,
        *,
        threads: int = 2,
        read: Callable[[NDArray[np.int64]], Tensor] | None = None,
    ) -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
        """Bags in this order, read some batches before their use.

        Args:
            order: int64 (M,), indices.
            size: bags in a batch.
            threads: number of threads that read ahead.
            read: what gives the bags of some indices, by default :meth:`padded`.

        Yields:
            float32 (B, n, D) as of :meth:`padded`, and the indices.
        """
        yield from read_ahead(order, size, threads, read or self.padded)

    def padded(self, indices: Sequence[int] | NDArray[np.int64]) -> Tensor:
        """Bags filled up with NaN to the longest: float32 (B, n, D)."""
        found = [self.features(int(i)) for i in indices]
        return torch.nn.utils.rnn.pad_sequence(found, batch_first=True, padding_value=torch.nan)


@dataclass(frozen=True)
class _Row:
    """The label and groups of a slide."""

    label: str | None = None
    patient: str | None = None
    split: str | None = None


def load_bags(data: BagData, split: Split) -> BagSet:
    """Open the bags of a run and divide them by patient, else by slide.

    A bag that cannot be read, is empty or has no label is left out with a warning.

    Args:
        data: where they are.
        split: how they are divided.

    Raises:
        DataError: no labelled bag is left, bags of two encoders or widths, an unknown class, two
            bags of one slide, a leak.
    """
    if not data.paths:
        raise DataError("data.paths", "lists no bags", "give --data, or set it")
    said = read_labels(Path(data.labels)) if data.labels else {}
    bags: list[Bag] = []
    rows: list[_Row] = []
    digests: list[str] = []
    left_out: dict[str, str] = {}
    for path in find_bags(data.paths):
        try:
            bag = open_bag(path)
            row = _said(bag, said)
            if not len(bag):
                raise DataError(path, "is empty: its slide has no tissue", "leave it out")
            if row.label is None:
                raise DataError(path, "has no label", "add it to data.labels")
            digests.append(_digest(bag, row))
        except DataError as error:
            logger.warning("%s", error)
            left_out[path.stem] = error.fault
            continue
        bags.append(bag)
        rows.append(row)
    if not bags:
        raise DataError(data.paths[0], "holds no labelled bag that can be read", "see the warnings")
    _check_alike(bags)
    classes = _classes(rows, data.classes)
    label = np.array([classes.index(str(row.label)) for row in rows], np.int64)
    slides, patients = [b.info.slide for b in bags], [r.patient for r in rows]
    names = assign(label, slides, patients, [r.split for r in rows], split)
    groups = groups_of(slides, patients, "auto")
    names = keep_share(names, label, groups, split.share, split.share_seed)
    found = BagSet(
        bags, label, names, classes, groups, left_out, sorted(digests), cache_of(data.cache_gb)
    )
    _report(found)
    return found


def read_labels(path: Path) -> dict[str, _Row]:
    """Read ``slide,label[,patient][,split]`` by slide. Raises DataError."""
    try:
        rows = list(parse_csv(path.read_text(encoding="utf-8-sig")))
    except (OSError, ValueError) as error:
        raise DataError(path, "cannot be read as CSV", "give columns slide and label") from error
    for column in ("slide", "label"):
        if rows and column not in rows[0]:
            raise DataError(path, f"has no column '{column}'", "give columns slide and label")
    found: dict[str, _Row] = {}
    for number, row in enumerate(rows, start=2):
        name = (row.get("slide") or "").strip()
        if not name or name in found:
            fault = f"names '{name}' twice" if name else "names no slide"
            raise DataError(f"{path}, line {number}", fault, "give one line a slide")
        found[name] = _Row(
            *((row.get(k) or "").strip() or None for k in ("label", "patient", "split"))
        )
    return found


def _said(bag: Bag, said: Mapping[str, _Row]) -> _Row:
    info, row = bag.info, said.get(bag.info.slide, _Row())
    return _Row(row.label or info.label, row.patient or info.patient, row.split or info.split)


def _check_alike(bags: Sequence[Bag]) -> None:
    first = bags[0]
    seen: dict[str, Path] = {}
    for bag in bags:
        if len(bag.shape) != 2:
            raise DataError(
                bag.path, "holds grids of regions, not vectors",
                "make vectors of them: wsikd embed -i GRIDS --encoder RUN of method slpd",
            )  # fmt: skip
        if bag.shape[1:] != first.shape[1:]:
            raise DataError(
                bag.path, f"has embeddings of {bag.shape[1:]}, {first.path.name} of "
                f"{first.shape[1:]}", "give bags of one encoder",
            )  # fmt: skip
        if bag.info.encoder.get("sha256") != first.info.encoder.get("sha256"):
            raise DataError(
                bag.path, f"is by {bag.info.encoder.get('id')}, {first.path.name} by "
                f"{first.info.encoder.get('id')}", "give bags of one encoder",
            )  # fmt: skip
        if bag.info.slide in seen:
            raise DataError(
                bag.path, f"is of slide '{bag.info.slide}', and so is {seen[bag.info.slide].name}",
                "give one bag a slide",
            )  # fmt: skip
        seen[bag.info.slide] = bag.path


def _classes(rows: Sequence[_Row], given: Sequence[str] | None) -> tuple[str, ...]:
    occurring = sorted({str(row.label) for row in rows})
    classes = tuple(given or occurring)
    for name in occurring:
        if name not in classes:
            raise DataError(
                "data.classes", f"class '{name}' is not among them", nearest(name, classes)
            )
    if len(classes) < 2:
        raise DataError(
            "data.labels", f"all bags are '{classes[0]}'", "add slides of another class"
        )
    return classes


def _digest(bag: Bag, row: _Row) -> str:
    features = hashlib.sha256(bag.features().tobytes()).hexdigest()
    text = json.dumps([features, asdict(row)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _report(bags: BagSet) -> None:
    for name in ("train", "val", "test"):
        chosen = bags.indices(name)
        counts = Counter(bags.label[chosen].tolist())
        shown = ", ".join(f"{c} {counts[i]}" for i, c in enumerate(bags.classes))
        logger.info("%s: %d bags of %d groups (%s)", name, len(chosen),
                    len({bags.group[i] for i in chosen}), shown)  # fmt: skip
    if bags.left_out:
        logger.warning("%d bags are left out: %s", len(bags.left_out), ", ".join(bags.left_out))
