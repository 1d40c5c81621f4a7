"""A trained bag network reads one bag: its class, and the attention of each patch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from wsikd.bags.bag import Bag, open_bag
from wsikd.core.errors import DataError
from wsikd.learn.mil.evaluate import BagReader
from wsikd.models.files.bag_bundle import load_bag_network

if TYPE_CHECKING:
    from pathlib import Path


class Classifier:
    """A bag network, open for reading.

    Args:
        run: run of method mil.
        threads: number of computing threads; None: one per core.

    Raises:
        BundleError: the run cannot be read.
    """

    def __init__(self, run: Path, threads: int | None = None) -> None:
        """Read the weights."""
        self._bundle = load_bag_network(run)
        self._reads = BagReader(self._bundle)
        if threads is not None:
            torch.set_num_threads(threads)

    def read(self, path: Path) -> tuple[Bag, str, float, Any]:
        """The bag, its likeliest class and that class's probability, attention float32 (N,).

        Raises:
            DataError: the bag is empty, or of another encoder.
        """
        bag, takes = open_bag(path), self._bundle.dim
        if bag.dim != takes:
            fault = f"has embeddings of {bag.dim} numbers, the network takes {takes}"
            raise DataError(bag.path, fault, "give bags of the encoder that it was trained on")
        if not len(bag):
            raise DataError(bag.path, "is empty: its slide has no tissue", "leave it out")
        probability, attention = self._reads(torch.from_numpy(bag.features()))
        best = int(probability.argmax())
        return bag, self._bundle.classes[best], float(probability[best]), attention
