"""Regions become vectors: a trained region encoder turns grids of tiles into bags."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from wsikd.bags.bag import open_bag, write_bag
from wsikd.bags.embed import Embedded, there
from wsikd.core.errors import DataError
from wsikd.core.output.lock import locked
from wsikd.core.timing import StageClock
from wsikd.models.device import pick_device, upload
from wsikd.models.files.region_bundle import load_region_encoder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from wsikd.bags.bag import Bag

    Encode = Callable[[NDArray[np.float32]], NDArray[np.float32]]

BATCH = 64


class VectorEmbedder:
    """Runs the teacher of a run of ``method: slpd`` over whole regions.

    Positions are interpolated where a region has more tiles than the views of the training.

    Args:
        run: the run, or its bundle.
        device: auto, cpu or cuda:0.
        batch_size: regions in a step.

    Raises:
        BundleError: the run cannot be read.
    """

    def __init__(self, run: Path, *, device: str = "auto", batch_size: int = BATCH) -> None:
        """Move the encoder to its device."""
        self.device, self.batch_size = pick_device(device), batch_size
        self.encoder = load_region_encoder(run).to(self.device)

    @property
    def dim(self) -> int:
        """Numbers in a region vector."""
        return self.encoder.shape.width

    def record(self, tiles: object) -> dict[str, Any]:
        """The entry of bags; ``tiles`` is the record of the encoder of the tiles."""
        return {
            "id": f"region encoder of wsikd ({self.encoder.card.variant or 'slpd'})",
            "licence": "not stated", "dim": self.dim, "sha256": self.encoder.sha256,
            "tiles": tiles,
        }  # fmt: skip

    def embed(self, grids: Path, path: Path, *, overwrite: bool = False) -> Embedded:
        """Encode the regions of a slide into the bag at ``path``, features float32 (N, width).

        Raises:
            BundleError: the regions are not such as the encoder was trained on.
            DataError: they cannot be read, or the bag there was made with other settings.
            OutputError: it cannot be written.
        """
        bag = open_grids(grids)
        own = self.encoder
        own.check(bag.info.encoder, bag.shape[1:], bag.info.mpp, what=bag.path)
        return write_vectors(
            bag, path, self.record(dict(bag.info.encoder)), self._encode, self.dim,
            overwrite=overwrite,
        )  # fmt: skip

    def _encode(self, grids: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            parts = [
                self.encoder(upload(torch.from_numpy(grids[i : i + self.batch_size]), self.device))
                for i in range(0, len(grids), self.batch_size)
            ]
            return torch.cat(parts).float().cpu().numpy()


def open_grids(path: Path) -> Bag:
    """A bag of regions. Raises DataError where it is none, or of patches."""
    bag = open_bag(path)
    if len(bag.shape) != 4:
        raise DataError(path, "holds patches, not regions", "make it with wsikd embed --regions")
    return bag


def write_vectors(
    bag: Bag,
    path: Path,
    encoder: dict[str, Any],
    encode: Encode,
    dim: int,
    *,
    overwrite: bool = False,
) -> Embedded:
    """Write the bag of a slide's region vectors, unless it is there.

    Args:
        bag: its regions.
        path: path of the bag.
        encoder: what is recorded of ``encode``.
        encode: (N, D, g, g) to (N, dim), float32.
        dim: width of a vector.
        overwrite: replace what is there.

    Raises:
        DataError: see :meth:`VectorEmbedder.embed`.
        OutputError: it cannot be written.
    """
    clock = StageClock()
    with locked(path):
        info = replace(bag.info, encoder=encoder)
        found = there(path, info, overwrite=overwrite, inputs=[bag.path])
        if found is not None:
            return Embedded(found, made=False, seconds={})
        with clock("read"):
            grids = bag.features()
        with clock("forward"):
            vectors = encode(grids) if len(grids) else np.empty((0, dim), np.float32)
        if not np.isfinite(vectors).all():
            raise DataError(
                bag.path, "gives a vector that is not finite", "train the encoder again"
            )
        spent = {k: clock.seconds.get(k, 0.0) for k in ("read", "forward")}
        write_bag(path, info, vectors, bag.coords(), spent, [bag.path])
    return Embedded(len(vectors), made=True, seconds=dict(clock.seconds))
